"""A proof beside guardrails that check text: `python -m integration_tests.guardrail_figures`.

One policy, the hard kitchen's: attacks with ten tokens put into its mouth, and benign requests. The guardrails ask the
embedded process reward model and withdraw what it rejects, all that was shown of the answer; a refusal takes its place.
The judge is the kitchen's rule, which no guardrail knows. Text that was withdrawn was seen. Delays are those of benign
requests, each beside plain streaming of the same request in the same minute.
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from integration_tests.guardrails import GUARDRAILS, THRESHOLD, Asked
from langchain_saffron import SaffronEngine
from langchain_saffron.evaluation.datasets import SETS
from langchain_saffron.evaluation.judges import Exchange
from langchain_saffron.evaluation.kitchen_sets import RuleJudge, kitchen_benign, kitchen_hazards
from langchain_saffron.evaluation.metrics import interval
from langchain_saffron.evaluation.run import Models
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.kitchen.held_out import BenignItem
from langchain_saffron.kitchen.judge import on_topic

PLAIN = next(iter(GUARDRAILS))
COLUMNS = (
    "attack succeeds", "harm seen", "characters withdrawn", "unsafe characters shown", "on topic", "first chunk",
    "gap, median", "gap, p95", "MFLOP attack", "MFLOP benign",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What became of one prompt under one guardrail.

    Attributes:
        text: What stays on the screen.
        harmful: Whether that is harmful, with what was put into the model's mouth.
        seen: Whether something harmful was ever on the screen.
        withdrawn: Characters shown and then withdrawn.
        unsafe: Characters shown from the one on that made the text unsafe.
        topical: Whether the answer to a benign prompt is on topic.
        first: Seconds to the first piece of text.
        gaps: Seconds between pieces.
        tflops: Of policy and MRM; of the guard.
    """

    text: str
    harmful: bool
    seen: bool
    withdrawn: int
    unsafe: int
    topical: bool
    first: float
    gaps: list[float]
    tflops: tuple[float, float]

    @classmethod
    def of(cls, asked: Asked) -> "Shown":
        """Judge a screen."""
        sample, screen = asked.sample, asked.screen
        unsafe = screen.unsafe_characters(sample.request, asked.prefill)
        (judged,) = RuleJudge().judge([Exchange(sample.request, asked.prefill + screen.final)])
        rule = BenignItem("", sample.messages, sample.target, sample.must)
        return cls(
            text=screen.final,
            harmful=judged.unsafe,
            seen=unsafe > 0,
            withdrawn=screen.withdrawn,
            unsafe=unsafe,
            topical=sample.kind == "benign" and on_topic(rule, screen.final),
            first=screen.times[0],
            gaps=screen.gaps,
            tflops=(asked.tflops, asked.guard.tflops),
        )


def measure(
    engine: SaffronEngine, samples: Sequence[Sample], names: Sequence[str], threshold: float = THRESHOLD
) -> dict[str, list[Shown]]:
    """Each prompt through all guardrails one after another, each time in another order, so that noise meets all."""
    found: dict[str, list[Shown]] = {name: [] for name in names}
    for number, sample in enumerate(samples):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            asked = Asked.of(engine, sample, threshold)
            GUARDRAILS[name](asked)
            found[name].append(Shown.of(asked))
    return found


def row(name: str, attacked: dict[str, list[Shown]], benign: dict[str, list[Shown]]) -> list[str]:
    """One guardrail's cells, in the order of `COLUMNS`."""
    attacks, answers, plain = attacked[name], benign[name], benign[PLAIN]
    return [
        _share([one.harmful for one in attacks]),
        _share([one.seen for one in attacks]),
        _mean([one.withdrawn for one in attacks]),
        _mean([one.unsafe for one in attacks]),
        _share([one.topical for one in answers]),
        f"{median(one.first / other.first for one, other in zip(answers, plain, strict=True)):.1f}",
        *(_ratio(_gaps(answers), _gaps(plain), share) for share in (0.5, 0.95)),
        *(f"{1e6 * fmean(sum(one.tflops) for one in some):.0f}" for some in (attacks, answers)),
    ]


def _gaps(some: Sequence[Shown]) -> list[float]:
    return [gap for one in some for gap in one.gaps]


def _ratio(gaps: Sequence[float], plain: Sequence[float], share: float) -> str:
    return f"{np.quantile(gaps, share) / np.quantile(plain, share):.1f}" if gaps else "–"


def _share(values: Sequence[bool]) -> str:
    mean, low, high = interval([[float(value)] for value in values])
    return f"{mean:.2f} ({low:.2f}–{high:.2f})"


def _mean(values: Sequence[int]) -> str:
    if len(set(values)) == 1:
        # a bootstrap knows of nothing else
        return str(values[0])
    mean, low, high = interval([[value] for value in values])
    return f"{mean:.0f} ({low:.0f}–{high:.0f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", type=int, default=50)
    parser.add_argument("--benign", type=int, default=30)
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="the guard's reward from which text is safe")
    options = parser.parse_args(arguments)
    # langchain says of its third streaming protocol that it may change
    warnings.filterwarnings("ignore", message="The v3 streaming protocol")
    engine = Models().load(SETS["hard-kitchen"].policy)
    # whoever is first reads weights and imports for all
    measure(engine, kitchen_benign(1, seed=2), list(GUARDRAILS), options.threshold)
    attacked = measure(engine, kitchen_hazards(options.attacks), list(GUARDRAILS), options.threshold)
    benign = measure(engine, kitchen_benign(options.benign), list(GUARDRAILS), options.threshold)
    print(f"{options.attacks} attacks, {options.benign} benign requests, threshold {options.threshold:g}\n")
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name in GUARDRAILS:
        print(f"| {name} | {' | '.join(row(name, attacked, benign))} |")


if __name__ == "__main__":
    main()
