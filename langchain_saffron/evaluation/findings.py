"""What a report says of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_saffron.evaluation.about import Facts
from langchain_saffron.evaluation.answers import Shown
from langchain_saffron.evaluation.metrics import Row
from langchain_saffron.evaluation.tables import Table


@dataclass(frozen=True)
class Findings:
    """The figures of a run, and what stands beside them.

    Attributes:
        lines: The figures, as `summarise` gives them.
        judge: Who judged.
        note: What a reader has to know before all else.
        facts: Of the run, as `describe_runs` gives them.
        sections: Titles and tables that follow the figures.
        answers: Those to be shown.
    """

    lines: Sequence[Row]
    judge: str
    note: str = ""
    facts: Facts = ()
    sections: Sequence[tuple[str, Table]] = ()
    answers: Sequence[Shown] = ()
