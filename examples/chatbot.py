"""A chatbot at the terminal: streamed answers, a memory, and an effort that can be changed in mid-conversation.

Run it with `python examples/chatbot.py`; it needs no network and no model of your own. It also answers a pipe:
`echo "How do I make tomato soup?" | python examples/chatbot.py`. Ctrl-C stops an answer, Ctrl-D leaves.
"""

import argparse
import asyncio
import sys
from contextlib import aclosing, suppress

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage

from langchain_saffron import ChatSaffron
from langchain_saffron.errors import SaffronError

EFFORTS = ("off", "low", "medium", "high", "max", "auto")
HELP = f"/effort {'|'.join(EFFORTS)}, /reset forgets the conversation, /quit leaves"


def make_chat(model: str | None = None) -> ChatSaffron:
    """The chat model."""
    # With a large model, this line is:
    # return ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", max_tokens=500)
    return ChatSaffron(model=model, max_tokens=200)


async def answer(chat: ChatSaffron, history: list[BaseMessage], question: str, effort: str) -> None:
    """Stream an answer, print what it took, and remember both."""
    message = AIMessageChunk(content="")
    messages = [*history, HumanMessage(question)]
    try:
        # closing: a search that nobody waits for any more should end now
        async with aclosing(chat.astream(messages, effort=effort)) as chunks:
            async for chunk in chunks:
                message += chunk
                print(chunk.text, end="", flush=True)
    finally:
        # what Ctrl-C cut short was said all the same
        print()
        if message.text:
            history += [HumanMessage(question), AIMessage(message.text)]
    stats = message.response_metadata["saffron"]
    reward = "not scored" if stats["reward"] is None else f"reward {stats['reward']:.2f}"
    print(f"[effort {stats['effort']} · {reward} · {stats['tflops']:.2g} TFLOP · {stats['seconds']:.2f} s]", flush=True)


def main() -> None:
    """Chat until `/quit`, Ctrl-C at the prompt, or the end of the input."""
    parser = argparse.ArgumentParser(description="A chatbot at the terminal, decoded safely.")
    parser.add_argument("--model", help="smollm2 (a small real model) or your own; without it, the embedded kitchen")
    chat, history, effort = make_chat(parser.parse_args().model), [], "medium"
    # a model that cannot be loaded should say so before anybody types
    chat.load()
    prompt = ""
    if sys.stdin.isatty():
        prompt = "you> "
        print(HELP)
        with suppress(ImportError):
            import readline  # noqa: F401 - importing it gives input() cursor keys and a history
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        match line.split():
            case []:
                continue
            case ["/quit"]:
                return
            case ["/reset"]:
                history.clear()
                print("[the conversation is forgotten]")
            case ["/effort", chosen] if chosen in EFFORTS:
                effort = chosen
                print(f"[effort {effort}]")
            case [word, *_] if word.startswith("/"):
                print(f"[{HELP}]")
            case _:
                # asyncio.run turns Ctrl-C into a cancelled task, and that stops the search
                try:
                    asyncio.run(answer(chat, history, line, effort))
                except KeyboardInterrupt:
                    pass
                except SaffronError as error:
                    print(f"[{error}]")


if __name__ == "__main__":
    main()
