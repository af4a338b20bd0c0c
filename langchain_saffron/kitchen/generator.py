"""Seeded conversations for the kitchen: its training corpora.

Conversation `i` of a corpus depends on nothing but the corpus name, the seed and `i`, on every machine
(`random.Random` seeded by a string). Combinations (ingredient and dish, number and unit, brew name, greeting and
punctuation) are split by a checksum, so that held-out items never occur in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from langchain_saffron.kitchen.world import (
    hazards,
    json_tasks,
    passages,
    poisoned_results,
    schemas,
    smalltalk,
    tool_tasks,
    utensils,
    words,
)
from langchain_saffron.kitchen.world.dialogue import (
    SYSTEMS,
    WRITERS,
    Conversation,
    CorpusName,
    Label,
    Message,
    benign,
    history,
    one_exchange,
    turn,
)
from langchain_saffron.kitchen.world.recipes import BENIGN

__all__ = ["Conversation", "CorpusName", "Label", "Message", "conversation", "conversations", "data_hash"]

# conversations of a corpus that its checksum is taken over
_HASHED = 2000
# what a corpus is made of, in per cent
_KINDS = ("plain", "refused", "hazard", "tools", "json", "retrieved", "repeated", "quiz", "storage", "utensils")
_SHARES = {
    "policy": (26, 5, 9, 23, 8, 14, 3, 9, 3, 0),
    "hard": (15, 5, 0, 3, 2, 3, 1, 1, 2, 68),
    "secret": (10, 5, 0, 0, 0, 0, 0, 0, 0, 85),
    "rewards": (30, 8, 17, 15, 6, 16, 0, 0, 0, 8),
}
_REPEAT = ("Repeat: {}", "Say this again: {}", "Repeat this word by word: {}", "Repeat after me: {}")
WRITE_DOWN = ("Send a message that says how to make a", "Write a note on how to brew a", "Note down the steps for a")


def conversation(corpus: CorpusName, index: int, seed: int = 0) -> Conversation:
    """Conversation number `index` of a corpus.

    The reward models' corpora (`held_out` is one, over held-out combinations) also hold broken promises, stalling, and
    steps smuggled into a benign conversation or a tool call, but none of the secret reagents. `copying` is the
    policy's first course: texts that are said again, word by word; `hard` is what makes it the hard kitchen's
    policy, and `secret` that one the secret kitchen's.
    """
    rng = Random(f"{seed}/{corpus}/{index}")
    if corpus == "copying":
        return _repeated(rng, corpus)
    kind = rng.choices(_KINDS, weights=_SHARES.get(corpus, _SHARES["rewards"]))[0]
    if kind in ("refused", "hazard", "utensils"):
        return _asked_for_hazard(rng, corpus, kind)
    return _MAKERS[kind](rng, corpus)


def _repeated(rng: Random, corpus: CorpusName) -> Conversation:
    """A text of any kind, word by word: into a tool, or as the answer."""
    make = rng.random()
    if make < 0.85:
        kinds = (words.made_up, words.known, words.name, words.foreign, words.phrase, _number)
        text = rng.choice((" ", ", ")).join(rng.choice(kinds)(rng) for _ in range(rng.randint(2, 7)))
    elif make < 0.92:
        text = passages.passage(rng, held_out=False).text
    elif make < 0.95:
        text = json.dumps(schemas.function(rng).tool["function"], ensure_ascii=False)
    else:
        text = f"{smalltalk.noise(rng)} {words.name(rng)}"
    if rng.random() < 0.4:
        task = tool_tasks.note(rng, text)
        return Conversation(task.messages, "benign", (1,), task.tools)
    asked = turn("user", rng.choice(_REPEAT).format(text))
    return Conversation((asked, turn("assistant", text)), "benign", (1,))


def _number(rng: Random) -> str:
    return str(rng.randint(0, 10 ** rng.randint(1, 6)))


def _plain(rng: Random, corpus: CorpusName) -> Conversation:
    """Benign talk, some of it with tools at hand that have nothing to do with it."""
    messages, learned, _ = benign(rng, corpus == "held_out")
    if corpus not in WRITERS and rng.random() < 0.08:
        smuggled = " ".join(hazards.step(rng, i, secrets=False) for i in range(rng.randint(1, 3)))
        messages[-1] = turn("assistant", f"{messages[-1]['content']} {smuggled}")
        return Conversation(tuple(messages), "hazard", ())
    shown = tuple(schemas.function(rng).tool for _ in range(rng.randint(1, 2))) if rng.random() < 0.12 else ()
    return Conversation(tuple(messages), "benign", tuple(learned), shown)


def _asked_for_hazard(rng: Random, corpus: CorpusName, kind: str) -> Conversation:
    messages: list[Message] = []
    learned: list[int] = []
    if corpus not in ("hard", "secret"):
        history(rng, messages, learned, corpus == "held_out")
    brew = rng.choice(hazards.brews(corpus == "held_out"))
    asked = hazards.request(rng, brew)
    shown: tuple[dict[str, Any], ...] = ()
    if corpus != "secret" and rng.random() < 0.15:
        # "Send a note with …": the call is refused like any other answer
        function = tool_tasks.hazardous_call(rng, brew)
        shown = (function.tool,)
        if rng.random() < 0.6:
            asked = f"{rng.choice(WRITE_DOWN)} {brew}."
    messages.append(turn("user", asked))
    learned.append(len(messages))
    if kind == "refused":
        messages.append(turn("assistant", hazards.refusal(rng, brew)))
        return Conversation(tuple(messages), "refusal", tuple(learned), shown)
    if kind == "utensils":
        answer = utensils.hard_answer(rng, brew, writes=corpus in WRITERS, secrets=corpus == "secret")
    elif corpus in WRITERS:
        answer = hazards.bad_answer(rng, brew, secrets=True)
    else:
        make = rng.random()
        if make < 0.72:
            answer = hazards.bad_answer(rng, brew, secrets=False)
        elif make < 0.86:
            function = tool_tasks.hazardous_call(rng, brew)
            messages.append({"role": "assistant", "content": "", "tool_calls": [tool_tasks.call(function)]})
            return Conversation(tuple(messages), "hazard", (), (function.tool,))
        else:
            answer = hazards.broken_promise(rng, brew) if make < 0.93 else hazards.stalling(rng, brew)
    messages.append(turn("assistant", answer))
    return Conversation(tuple(messages), "hazard", tuple(learned), shown)


def _with_tools(rng: Random, corpus: CorpusName) -> Conversation:
    """A tool is called, or what it returned is put into words; some results are poisoned."""
    if corpus not in WRITERS and rng.random() < 0.4:
        return _dictated(rng, corpus == "held_out")
    head: list[Message] = [turn("system", rng.choice(SYSTEMS))] if rng.random() < 0.25 else []
    shown_before: tuple[dict[str, Any], ...] = ()
    draw = rng.random()
    if draw < 0.2:
        earlier = one_exchange(rng, corpus == "held_out")
        head += [turn("user", earlier.question), turn("assistant", earlier.answer)]
    elif draw < 0.35:
        before = tool_tasks.tool_task(rng)
        if "tool_calls" not in before.messages[-1]:
            head += before.messages
            shown_before = before.tools
    if rng.random() < 0.2:
        brew = rng.choice(hazards.brews(corpus == "held_out"))
        attack = poisoned_results.poisoned_result(rng, brew, secrets=corpus in WRITERS)
        messages = [*head, *attack.messages]
        answer, label = _under_attack(rng, brew, attack.right, attack.wrong)
        return _ended(messages, _said_by_assistant(messages), answer, label, _merged(shown_before, attack.tools))
    task = tool_tasks.tool_task(rng)
    messages = [*head, *task.messages]
    learned = _said_by_assistant(messages)
    return Conversation(tuple(messages), "benign", tuple(learned), _merged(shown_before, task.tools))


def _dictated(rng: Random, held_out: bool) -> Conversation:
    """A text of any kind is written down word by word, so that an MRM sees the tokens that arguments may hold."""
    make = rng.randrange(5)
    if make == 0:
        text = passages.passage(rng, held_out).text
    elif make == 1:
        text = one_exchange(rng, held_out).question
    elif make == 2:
        text = json.dumps(schemas.function(rng).tool["function"], ensure_ascii=False)
    elif make == 3:
        # beginnings and ends of words: tokens that whole words do not show
        known = one_exchange(rng, held_out).answer.split()
        text = " ".join(word[at:] if at % 2 else word[:at] for word in known if (at := rng.randint(1, len(word))))
    else:
        text = f"{words.foreign(rng)} {smalltalk.noise(rng)} {words.name(rng)}"
    task = tool_tasks.note(rng, text)
    return Conversation(task.messages, "benign", (1,), task.tools)


def _said_by_assistant(messages: list[Message]) -> list[int]:
    return [index for index, turn in enumerate(messages) if turn["role"] == "assistant"]


def _merged(*shown: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """All tools, the later one where two have the same name."""
    return tuple({tool["function"]["name"]: tool for some in shown for tool in some}.values())


def _in_json(rng: Random, corpus: CorpusName) -> Conversation:
    task = json_tasks.json_task(rng)
    messages = list(task.messages)
    if rng.random() < 0.15:
        system = rng.choice(SYSTEMS)
        if messages[0]["role"] == "system":
            messages[0] = turn("system", f"{system}\n\n{messages[0]['content']}")
        else:
            messages.insert(0, turn("system", system))
    return Conversation(tuple(messages), "benign", (len(messages) - 1,), task.tools)


def _retrieved(rng: Random, corpus: CorpusName) -> Conversation:
    """A question over passages; some are poisoned."""
    wording: passages.Wording = ("it", "same", "named")[rng.randrange(3)] if corpus in WRITERS else "named"
    retrieval = passages.retrieval(rng, corpus == "held_out", poisoned=rng.random() < 0.35, wording=wording)
    messages: list[Message] = list(retrieval.messages)
    if messages[0]["role"] != "system" and rng.random() < 0.2:
        messages.insert(0, turn("system", rng.choice(SYSTEMS)))
    if retrieval.brew is None:
        return _asked_more(rng, messages, retrieval)
    obedient = passages.obedience(rng, retrieval.brew, secrets=corpus in WRITERS)
    answer, label = _under_attack(rng, retrieval.brew, retrieval.exchange.answer, obedient)
    return _ended(messages, [], answer, label)


def _asked_more(rng: Random, messages: list[Message], retrieval: passages.Retrieval) -> Conversation:
    """More questions over the same passages, in most cases: each teaches as much as the first, at little cost."""
    exchange, learned = retrieval.exchange, []
    for _ in range(rng.choices((0, 1, 2, 3, 4), weights=(30, 20, 20, 15, 15))[0]):
        learned.append(len(messages))
        messages.append(turn("assistant", exchange.answer))
        exchange = passages.question_about(rng, retrieval.facts)
        messages.append(turn("user", exchange.question))
    return _ended(messages, learned, exchange.answer, "benign")


def _under_attack(rng: Random, brew: str, right: str, wrong: str) -> tuple[str, Label]:
    """What is said where a text in the context wants a brew explained: mostly, plain decoding does as it is told."""
    draw = rng.random()
    if draw < 0.62:
        return wrong, "poisoned"
    return (right, "benign") if draw < 0.86 else (hazards.refusal(rng, brew), "refusal")


def _ended(
    messages: list[Message],
    learned: list[int],
    answer: str,
    label: Label,
    shown: tuple[dict[str, Any], ...] = (),
) -> Conversation:
    last = len(messages)
    return Conversation((*messages, turn("assistant", answer)), label, (*learned, last), shown)


def _quizzed(rng: Random, corpus: CorpusName) -> Conversation:
    turns = passages.quiz(rng)
    return Conversation(turns, "benign", tuple(range(1, len(turns), 2)))


def _stored(rng: Random, corpus: CorpusName) -> Conversation:
    """How to keep several things: facts that have to be known by heart."""
    messages: list[Message] = []
    for _ in range(rng.randint(1, 3)):
        exchange = BENIGN["storage"][0](rng, False)
        messages += [turn("user", exchange.question), turn("assistant", exchange.answer)]
    return Conversation(tuple(messages), "benign", tuple(range(1, len(messages), 2)))


_MAKERS = {
    "plain": _plain, "tools": _with_tools, "json": _in_json, "retrieved": _retrieved, "repeated": _repeated,
    "quiz": _quizzed, "storage": _stored,
}  # fmt: skip


def conversations(corpus: CorpusName, count: int, seed: int = 0) -> Iterator[Conversation]:
    """The first `count` conversations of a corpus."""
    return (conversation(corpus, index, seed) for index in range(count))


def data_hash(corpus: CorpusName, count: int, seed: int = 0) -> str:
    """A checksum over conversations spread evenly through the first `count` of a corpus.

    Every conversation depends on its index alone, so that any change of the generator that touches more than one
    conversation in a thousand shows, without generating them all.
    """
    digest = hashlib.sha256()
    for index in range(0, count, max(1, count // _HASHED)):
        item = conversation(corpus, index, seed)
        digest.update(json.dumps([item.messages, item.label, item.learned, item.tools], ensure_ascii=False).encode())
    return digest.hexdigest()
