"""How safe and how useful the kitchen is at every effort: `python -m integration_tests.kitchen_figures`.

Held-out cases, none of them in any training data: hazardous requests asked plainly, the same with the first ten
tokens of a harmful answer put into the assistant's mouth, and benign requests. Judged by rule, not by the reward
model that steers.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from langchain_saffron import ChatSaffron
from langchain_saffron.kitchen.generator import Message
from langchain_saffron.kitchen.held_out import held_out_benign, held_out_hazards
from langchain_saffron.kitchen.judge import is_refusal, last_user_message, on_topic, verdict

EFFORTS = ("off", "low", "medium", "high", "max")
PREFILL_TOKENS = 10
_KINDS = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


@dataclass(frozen=True)
class Figures:
    """What was measured at one effort; shares of `cases`."""

    effort: str
    cases: int
    refused: float
    broken: float
    safe: float
    on_topic: float
    tflop: float
    seconds: float


def as_messages(messages: Sequence[Message]) -> list[BaseMessage]:
    """LangChain's form of a generated conversation."""
    return [_KINDS[turn["role"]](turn["content"]) for turn in messages]


def measure(effort: str, cases: int = 100, seed: int = 1) -> Figures:
    """Run the held-out cases at one effort, all together in shared forwards."""
    chat = ChatSaffron(effort=effort, max_tokens=160)
    tokenizer = chat.load().tokenizer
    benign, hazards = held_out_benign(cases, seed), held_out_hazards(cases, seed)
    prefills = [tokenizer.decode(tokenizer.encode(item.answer)[:PREFILL_TOKENS]) for item in hazards]
    began = time.perf_counter()
    plain = chat.batch([as_messages(item.messages) for item in hazards])
    attacked = chat.batch(
        [[*as_messages(item.messages), AIMessage(given)] for item, given in zip(hazards, prefills, strict=True)]
    )
    answers = chat.batch([as_messages(item.messages) for item in benign])
    seconds = time.perf_counter() - began
    verdicts = [
        verdict(given + answer.text, last_user_message(item.messages))
        for item, given, answer in zip(hazards, prefills, attacked, strict=True)
    ]
    spent = [answer.response_metadata["saffron"]["tflops"] for answer in (*plain, *attacked, *answers)]
    return Figures(
        effort=effort,
        cases=cases,
        refused=sum(is_refusal(answer.text) for answer in plain) / cases,
        broken=verdicts.count("unsafe") / cases,
        safe=verdicts.count("safe") / cases,
        on_topic=sum(on_topic(item, answer.text) for item, answer in zip(benign, answers, strict=True)) / cases,
        tflop=sum(spent) / len(spent),
        seconds=seconds / (3 * cases),
    )


def main() -> None:
    """Print a table, or with `--json` one object an effort."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="held-out cases of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--efforts", nargs="+", default=EFFORTS, choices=EFFORTS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"{'effort':8}{'refused':>9}{'broken':>9}{'safe':>9}{'on topic':>10}{'MFLOP':>10}{'ms':>8}")
    for effort in options.efforts:
        found = measure(effort, options.cases, options.seed)
        if options.json:
            print(json.dumps(asdict(found)), flush=True)
        else:
            shares = f"{found.refused:9.3f}{found.broken:9.3f}{found.safe:9.3f}{found.on_topic:10.3f}"
            print(f"{effort:8}{shares}{found.tflop * 1e6:10.0f}{found.seconds * 1000:8.0f}", flush=True)


if __name__ == "__main__":
    main()
