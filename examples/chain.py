"""A LangChain chain around ChatSaffron: invoke, batch, stream, events, and the effort chosen by the call.

Run it with `python examples/chain.py`; it needs no network and no model of your own.
"""

import argparse
import asyncio

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable

from langchain_saffron import ChatSaffron

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "You are a kitchen assistant."), ("human", "How do I make {dish}?")]
)


def make_chat(model: str | None = None) -> Runnable:
    """The chat model, with an effort that every call can choose."""
    # With a large model, this line is:
    # chat = ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", max_tokens=160)
    chat = ChatSaffron(model=model, max_tokens=160)
    return chat.configurable_fields(effort=ConfigurableField(id="effort"))


def make_chain(model: str | None = None) -> Runnable:
    """Prompt, model, text."""
    return PROMPT | make_chat(model) | StrOutputParser()


async def stream(chain: Runnable) -> None:
    """Print text as soon as it is final, then count the events of a run."""
    async for text in chain.astream({"dish": "lemon tart"}):
        print(text, end="|", flush=True)
    print()
    kinds: dict[str, int] = {}
    async for event in chain.astream_events({"dish": "lemon tart"}, version="v2"):
        kinds[event["event"]] = kinds.get(event["event"], 0) + 1
    print(kinds)


def main() -> None:
    """Show every way to call the chain."""
    parser = argparse.ArgumentParser(description="A LangChain chain around ChatSaffron.")
    parser.add_argument("--model", help="smollm2 (a small real model) or your own; without it, the embedded kitchen")
    model = parser.parse_args().model
    chain = make_chain(model)
    print("invoke:", chain.invoke({"dish": "tomato soup"}))

    # the prompts share the models' forwards
    dishes = ["tomato soup", "lemon tart", "a mushroom pie"]
    for dish, answer in zip(dishes, chain.batch([{"dish": dish} for dish in dishes]), strict=True):
        print(f"batch: {dish}: {answer}")

    asyncio.run(stream(chain))

    # what is plainly safe needs no wide search, so ask for something else
    for effort in ("off", "low", "high"):
        chosen = (PROMPT | make_chat(model)).with_config(configurable={"effort": effort})
        stats = chosen.invoke({"dish": "a viper tonic"}).response_metadata["saffron"]
        print(f"effort {effort}: width {stats['width']}, {stats['reward_calls']} reward calls")


if __name__ == "__main__":
    main()
