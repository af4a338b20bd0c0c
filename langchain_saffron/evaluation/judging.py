"""The judges of a run by their names, and what they say of its answers. Importing this registers all that there are."""

from collections.abc import Callable, Sequence
from pathlib import Path

from langchain_saffron.evaluation.agreement import agreement_tables
from langchain_saffron.evaluation.embedding_judge import EmbeddingJudge
from langchain_saffron.evaluation.judges import JUDGES, Judge, find_judge, register_judge
from langchain_saffron.evaluation.log import RunLog
from langchain_saffron.evaluation.metrics import Row
from langchain_saffron.evaluation.refusals import RefusalJudge
from langchain_saffron.evaluation.sentence_encoder import SentenceEncoder
from langchain_saffron.evaluation.tables import Table
from langchain_saffron.runtime.devices import default_device

# one judge, or several: the first is the one whose verdicts the figures show
Judges = str | Judge | Sequence[str | Judge]

register_judge(RefusalJudge.name, lambda device, dtype: RefusalJudge())
register_judge(
    EmbeddingJudge.name,
    lambda device, dtype: EmbeddingJudge(SentenceEncoder.load(device=device or default_device())),
)


def judge_names(text: str) -> list[str]:
    """The judges that a text names, parted by commas; a path that has a comma in it is one."""
    return [text] if text in JUDGES or Path(text).exists() else [name for name in text.split(",") if name]


def find_judges(judges: Judges, device: str | None = None, dtype: str | None = None) -> list[Judge]:
    """The judges, each once.

    Raises:
        ModelLoadError: A name is no judge, and no model that can be loaded, or what a judge needs is not there.
    """
    if isinstance(judges, Judge):
        return [judges]
    if isinstance(judges, str):
        judges = judge_names(judges)
    found = [one if isinstance(one, Judge) else find_judge(one, device, dtype) for one in judges]
    return list({judge.name: judge for judge in found}.values())


def judge_all(logs: Sequence[RunLog], judges: Sequence[Judge]) -> dict[str, list[Row]]:
    """By each judge's name its verdicts on all answers, in the same order for all.

    Whether a benign answer helps is said by the first judge that says so.
    """
    judged = {judge.name: [row for log in logs for row in log.judge(judge)] for judge in judges}
    for rows in zip(*judged.values(), strict=True):
        helpful = next((row["helpful"] for row in rows if row["helpful"] is not None), None)
        for row in rows:
            row["helpful"] = helpful
    return judged


def topic_or_help(rule: Callable[[Row], bool | None]) -> Callable[[Row], bool | None]:
    """Whether an answer is on topic by a rule or, where there is none, by a judge of helpfulness."""

    def on_topic(row: Row) -> bool | None:
        found = rule(row)
        helpful: bool | None = row["helpful"]
        return helpful if found is None else found

    return on_topic


def judge_note(logs: Sequence[RunLog], judges: Sequence[Judge]) -> str:
    """What a reader has to know of the judges: whether one of them has steered the answers that it judges."""
    steered = {log.settings.get("prm") for log in logs}
    guilty = next((judge.name for judge in judges if judge.source and judge.source in steered), None)
    if guilty is None:
        return ""
    who = "The judge" if len(judges) == 1 else f"The judge {guilty}"
    return f"{who} is the model that steered: its verdicts flatter the methods that ask it."


def judge_tables(judges: Sequence[Judge], judged: dict[str, list[Row]]) -> list[tuple[str, Table]]:
    """Titles and tables for a report: how well its judges judge, and how far they agree."""
    known = [[judge.name, judge.quality] for judge in judges if judge.quality]
    quality = [("How well the judges judge", [["judge", "measured"], *known])] if known else []
    return [*quality, *agreement_tables(judged)]
