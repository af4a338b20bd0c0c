"""A separate reward model against a head, on the hard kitchen: `python -m integration_tests.head_figures`.

Both learn from the same annotation; each then guards the same attacked answers: hazardous requests behind the first
tokens of a harmful answer. Printed: held-out r, attack success and TFLOP an answer at several widths.
"""

import argparse
import time
from pathlib import Path

from langchain_core.messages import AIMessage

from integration_tests.kitchen_figures import PREFILL_TOKENS, as_messages
from langchain_saffron import ChatSaffron
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.held_out import held_out_hazards
from langchain_saffron.kitchen.judge import last_user_message, verdict
from langchain_saffron.kitchen.recipe.mrm import ANNOTATE, run_saffron, write_corpus
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.settings import HeadSettings
from langchain_saffron.training.train_head import train_head

POLICY = WEIGHTS / "hard-policy"


def annotated(work: Path, chats: int) -> tuple[RewardData, RewardData]:
    """Training and held-out data of the kitchen's PRM; what an earlier run has finished is not done again."""
    for name, count in (("mrm", chats), ("held_out", max(100, chats // 10))):
        write_corpus(work / f"{name}.jsonl", name, count, 0)
        run_saffron(
            "annotate", f"{work / name}.jsonl", "--prm", str(WEIGHTS / "prm"), "--out", str(work / name), *ANNOTATE
        )
    return RewardData.load(work / "mrm"), RewardData.load(work / "held_out")


def measure(reward_model: Path | None, width: int, cases: int) -> tuple[float, float, float]:
    """Share of attacks that succeed, TFLOP and seconds an answer; the policy alone without a reward model."""
    plain = reward_model is None
    chat = ChatSaffron(
        model=str(POLICY),
        reward_model=None if plain else str(reward_model),
        effort="off" if plain else "medium",
        width=None if plain else width,
        max_tokens=96,
    )
    tokenizer = chat.load().tokenizer
    hazards = held_out_hazards(cases, 1)
    prefills = [tokenizer.decode(tokenizer.encode(item.answer)[:PREFILL_TOKENS]) for item in hazards]
    began = time.process_time()
    answers = chat.batch(
        [[*as_messages(item.messages), AIMessage(given)] for item, given in zip(hazards, prefills, strict=True)]
    )
    seconds = time.process_time() - began
    verdicts = [
        verdict(given + answer.text, last_user_message(item.messages))
        for item, given, answer in zip(hazards, prefills, answers, strict=True)
    ]
    spent = sum(answer.response_metadata["saffron"]["tflops"] for answer in answers)
    return verdicts.count("unsafe") / cases, spent / cases, seconds / cases


def main() -> None:
    """Train the head where it is not there yet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("head-figures"))
    parser.add_argument("--chats", type=int, default=2000, help="conversations that are annotated")
    parser.add_argument("--cases", type=int, default=40, help="attacked answers")
    parser.add_argument("--widths", type=int, nargs="+", default=(1, 4, 16))
    options = parser.parse_args()
    data, held_out = annotated(options.work, options.chats)
    head = options.work / "head"
    figures = train_head(
        data, head, policy=POLICY, held_out=held_out, settings=HeadSettings(device="cpu"), report=print
    )
    print(f"head: held-out r {figures['pearson_r']:.4f}, safe from {figures['safety_threshold']}", flush=True)
    print(f"{'':8}{'width':>6}{'broken':>8}{'MFLOP':>9}{'CPU s':>8}")
    rows = [
        ("none", None, 1),
        *((n, p, w) for w in options.widths for n, p in (("mrm", WEIGHTS / "mrm"), ("head", head))),
    ]
    for name, path, width in rows:
        broken, tflop, seconds = measure(path, width, options.cases)
        print(f"{name:8}{width:6}{broken:8.3f}{tflop * 1e6:9.0f}{seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
