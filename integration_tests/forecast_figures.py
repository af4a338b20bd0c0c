"""What rewards that forecast teach: `python -m integration_tests.forecast_figures`.

MRMs of the hard kitchen learn from the same conversations: from what the guard says of every prefix, of every N-th, and
from what it says of the policy's continuations of every N-th (`saffron annotate --rollouts K --rollout-every N`).
Printed: how well each predicts held-out rewards of both kinds (r), how many harmful requests behind the first ten
tokens of a harmful answer succeed at several widths, with Wilson's interval, and how many benign answers stay on topic.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from integration_tests.head_training import SEPARATE
from integration_tests.reward_agreement import predicted
from integration_tests.scaling_figures import WORLDS, run
from langchain_saffron.evaluation.intervals import wilson
from langchain_saffron.evaluation.metrics import Row
from langchain_saffron.evaluation.run import rescore
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.recipe.mrm import annotate_corpora
from langchain_saffron.training.calibration import agreement
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.train import train

WORLD = WORLDS["hard-kitchen"]
EVERY, PLACES, FORECAST = "every prefix", "the prefixes that have a forecast", "forecasts"


def annotated(work: Path, chats: int, held_out: int, rollouts: int, every: int) -> dict[str, tuple[RewardData, ...]]:
    """Training and held-out data by kind of reward; what is finished is not annotated again.

    Args:
        work: Where they go.
        chats: Conversations to train on.
        held_out: Conversations to measure by.
        rollouts: Continuations of a prefix.
        every: How many tokens lie between two forecasts.
    """
    forecast = ("--rollouts", str(rollouts), "--rollout-every", str(every), "--policy", WORLD.policy)
    for name, options in ((EVERY, ()), (FORECAST, forecast)):
        annotate_corpora(WEIGHTS / "prm", work / name, chats, held_out, 0, *options)
    found = {
        name: tuple(RewardData.load(work / name / part) for part in ("mrm", "held_out")) for name in (EVERY, FORECAST)
    }
    pairs = zip(found[EVERY], found[FORECAST], strict=True)
    return found | {PLACES: tuple(at_the_same_places(plain, other) for plain, other in pairs)}


def at_the_same_places(data: RewardData, other: RewardData) -> RewardData:
    """The rewards of annotated conversations at those places alone where others have one.

    Args:
        data: The conversations.
        other: The same ones, annotated otherwise.
    """
    places = {(one.record, one.token_ids.tobytes()): one.known for one in other.samples}
    kept = []
    for sample in data.samples:
        known = places.get((sample.record, sample.token_ids.tobytes()))
        if known is not None and (known & sample.known).any():
            kept.append(replace(sample, rewards=np.where(known, sample.rewards, np.nan).astype(np.float32)))
    return RewardData(kept, data.manifest)


def row(name: str, rewards: int, r: Sequence[float], attacks: Sequence[Row], benign: Sequence[Row]) -> str:
    """One MRM as a row of the table.

    Args:
        name: What it has learnt from.
        rewards: How many it has learnt from.
        r: With held-out rewards of what is there, and with forecasts.
        attacks: The figures of attacks, by width.
        benign: The same of benign requests.
    """
    cells = [name, f"{rewards:,}", *(f"{one:.3f}" for one in r)]
    for figures in attacks:
        low, high = wilson(figures["unsafe"], figures["prompts"])
        cells.append(f"{figures['unsafe']:.3f} [{low:.3f}, {high:.3f}]")
    cells.append(" / ".join(f"{figures['on_topic']:.3f}" for figures in benign))
    return f"| {' | '.join(cells)} |"


def compare(work: Path, data: Mapping[str, tuple[RewardData, ...]], widths: Sequence[int], cases: int) -> list[str]:
    """Train what is not there yet, answer what is not answered yet, and return the table's rows."""
    lines = []
    for name in (EVERY, PLACES, FORECAST):
        learnt, held_out = data[name]
        mrm = work / f"mrm of {name}"
        train(learnt, mrm, base=WEIGHTS / "prm", held_out=held_out, settings=SEPARATE)
        r = []
        for kind in (PLACES, FORECAST):
            made = predicted(mrm, WORLD.policy, data[kind][1])
            r.append(agreement(made.rewards, made.predictions)["pearson_r"])
        directories = run(WORLD, mrm, work / f"run of {name}", cases, [f"saffron:{width}" for width in widths], None)
        attacks, benign = (rescore([one], answers=0).figures for one in directories)
        lines.append(row(name, learnt.rewards, r, attacks, benign))
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("forecast-figures"), help="a killed run goes on in it")
    parser.add_argument("--chats", type=int, default=1500, help="conversations to learn from")
    parser.add_argument("--held-out", type=int, default=200, help="conversations to measure by")
    parser.add_argument("--rollouts", type=int, default=4, help="continuations of a prefix")
    parser.add_argument("--every", type=int, default=4, help="tokens from one forecast to the next")
    parser.add_argument("--widths", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument("--cases", type=int, default=100, help="attacks, and benign requests")
    options = parser.parse_args()
    data = annotated(options.work, options.chats, options.held_out, options.rollouts, options.every)
    lines = compare(options.work, data, options.widths, options.cases)
    broken = " | ".join(f"attacks that succeed, width {width}" for width in options.widths)
    print(f"\n{options.cases} prompts of each kind, {options.chats} conversations, {options.rollouts} continuations\n")
    print(f"| rewards of | how many | r, what is there | r, forecasts | {broken} | on topic |")
    print("|" + "---|" * (5 + len(options.widths)))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
