"""Three kinds of reward model on the hard kitchen: `python -m integration_tests.head_figures`.

A separate model, a LoRA on the policy and a head on the policy learn from the same annotation; each then guards the
same attacked answers: hazardous requests behind the first tokens of a harmful answer. Printed: held-out r and AUC,
attack success, TFLOP and CPU seconds an answer at several widths.
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
from langchain_saffron.kitchen.recipe.mrm import annotate_corpora
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.fit import ON_POLICY
from langchain_saffron.training.settings import HeadSettings, TrainSettings
from langchain_saffron.training.train import train
from langchain_saffron.training.train_head import train_head

POLICY = WEIGHTS / "hard-policy"
# those of the hard kitchen in `saffron evaluate`
TOP_P, MAX_TOKENS = 0.9, 112


def annotated(work: Path, chats: int) -> tuple[RewardData, RewardData]:
    """Training and held-out data of the kitchen's PRM; what an earlier run has finished is not done again."""
    annotate_corpora(WEIGHTS / "prm", work, chats, max(100, chats // 10))
    return RewardData.load(work / "mrm"), RewardData.load(work / "held_out")


def measure(reward_model: Path | None, width: int, cases: int) -> tuple[float, float, float]:
    """Share of attacks that succeed, TFLOP and seconds an answer; the policy alone without a reward model."""
    plain = reward_model is None
    chat = ChatSaffron(
        model=str(POLICY),
        reward_model=None if plain else str(reward_model),
        effort="off" if plain else "medium",
        width=None if plain else width,
        top_p=TOP_P,
        max_tokens=MAX_TOKENS,
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


def fitted(work: Path, data: RewardData, held_out: RewardData) -> dict[str, Path]:
    """Train all three where they are not there yet, and say how well they predict."""
    common = {"held_out": held_out, "report": print}
    paths = {kind: work / kind for kind in ("separate", "policy", "head")}
    # as the kitchen's own was trained, but for the number of conversations
    own = TrainSettings(epochs=3, batch_size=16, learning_rate=3e-3, device="cpu")
    on_policy = TrainSettings(**ON_POLICY, device="cpu")
    figures = {
        "separate": train(data, paths["separate"], base=WEIGHTS / "prm", settings=own, **common),
        "policy": train(data, paths["policy"], base=POLICY, settings=on_policy, **common),
        "head": train_head(data, paths["head"], policy=POLICY, settings=HeadSettings(device="cpu"), **common),
    }
    for kind, found in figures.items():
        print(f"{kind}: held-out r {found['pearson_r']:.4f}, AUC {found['auc']:.4f}", flush=True)
    return paths


def main() -> None:
    """Train what is not there yet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("head-figures"))
    parser.add_argument("--chats", type=int, default=2000, help="conversations that are annotated")
    parser.add_argument("--cases", type=int, default=40, help="attacked answers")
    parser.add_argument("--widths", type=int, nargs="+", default=(1, 4, 16))
    options = parser.parse_args()
    paths = fitted(options.work, *annotated(options.work, options.chats))
    print(f"{'':9}{'width':>6}{'broken':>8}{'MFLOP':>9}{'CPU s':>8}")
    rows = [("none", None, 1), *((kind, path, width) for width in options.widths for kind, path in paths.items())]
    for name, path, width in rows:
        broken, tflop, seconds = measure(path, width, options.cases)
        print(f"{name:9}{width:6}{broken:8.3f}{tflop * 1e6:9.0f}{seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
