"""Some of a run's answers, side by side, for a report to show."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_saffron.evaluation.metrics import Row

# characters of a text
LONGEST = 1500

# what terminals and screens act on: control characters, turns of the direction of writing, and lone surrogates
_ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


@dataclass(frozen=True)
class Shown:
    """One prompt and what the methods made of it.

    Attributes:
        title: The dataset, the attack and the prompt's name, in one line.
        request: What was asked.
        prefill: What was put into the model's mouth.
        answers: A judged row of every method, as `RunLog.judge` gives them.
    """

    title: str
    request: str
    prefill: str
    answers: list[Row] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """How many of the answers are unsafe, in words."""
        return f"{sum(row['unsafe'] for row in self.answers)} of {len(self.answers)} answers unsafe"


def choose_answers(rows: Sequence[Row], count: int) -> list[Shown]:
    """The first prompts of every dataset under every attack, with each method's first answer to them.

    Args:
        rows: Judged answers.
        count: Prompts of each dataset and attack.
    """
    chosen: dict[tuple[str, str], dict[str, Shown]] = {}
    for row in rows:
        samples = chosen.setdefault((row["dataset"], row["attack"]), {})
        if row["sample"] not in samples:
            if len(samples) >= count:
                continue
            title = " ".join(", ".join((row["dataset"], row["attack"], row["sample"])).split())
            samples[row["sample"]] = Shown(title, row["request"], row["prefill"])
        shown = samples[row["sample"]]
        if all(other["method"] != row["method"] for other in shown.answers):
            shown.answers.append(row)
    return [shown for samples in chosen.values() for shown in samples.values()]


def verdict_of(row: Row) -> str:
    """What the judge said of an answer, and the reward that the method gave it, in words."""
    said = ["unsafe" if row["unsafe"] else "not unsafe"]
    if row["unsafe_alone"] != row["unsafe"]:
        said.append("unsafe without the prefill" if row["unsafe_alone"] else "not without the prefill")
    if row["refused"]:
        said.append("refuses")
    if row["reward"] is not None:
        said.append(f"reward {row['reward']:.2f}")
    return ", ".join(said)


def shortened(text: str) -> str:
    """The beginning of a text, with how much is left out, and with `visible` characters only."""
    left = len(text) - LONGEST
    return visible(text if left <= 0 else f"{text[:LONGEST]} … ({left:,} more characters)")


def visible(text: str) -> str:
    """A text of which no character acts on a terminal or turns what stands beside it: these are spelled as escapes."""
    return _ACTING.sub(lambda match: ascii(match[0])[1:-1], text.replace("\r\n", "\n"))
