"""An evaluation from beginning to end: attack a model, decode by several methods, judge, and report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from langchain_saffron.embedded import find_world
from langchain_saffron.engine import SaffronEngine
from langchain_saffron.errors import SettingsError
from langchain_saffron.evaluation.about import begin_notes, describe_runs
from langchain_saffron.evaluation.adaptive_search import AdaptiveSearch
from langchain_saffron.evaluation.agreement import write_disagreements
from langchain_saffron.evaluation.answers import choose_answers
from langchain_saffron.evaluation.attack import Attack, NoAttack
from langchain_saffron.evaluation.attacks import parse_attack
from langchain_saffron.evaluation.cases import Case, make_cases
from langchain_saffron.evaluation.datasets import parse_data
from langchain_saffron.evaluation.defaults import (
    FULL_METHODS,
    FULL_SAMPLES,
    FULL_SEEDS,
    QUICK_METHODS,
    QUICK_SAMPLES,
    data_defaults,
)
from langchain_saffron.evaluation.equal_compute import match_methods
from langchain_saffron.evaluation.findings import Findings
from langchain_saffron.evaluation.judges import Judge
from langchain_saffron.evaluation.judging import Judges, find_judges, judge_all, judge_note, judge_tables, topic_or_help
from langchain_saffron.evaluation.kitchen_sets import topic_rule
from langchain_saffron.evaluation.log import RunLog
from langchain_saffron.evaluation.markdown_report import markdown
from langchain_saffron.evaluation.methods import Method, parse_method
from langchain_saffron.evaluation.metrics import Row, summarise
from langchain_saffron.evaluation.models import Models
from langchain_saffron.evaluation.report import write_report
from langchain_saffron.evaluation.runner import Runner
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.evaluation.search_runner import SearchRunner
from langchain_saffron.evaluation.suffix_search import SuffixSearch

# prompts by which equal compute is found
PILOT = 12
# prompts of each dataset and attack whose answers a report shows
SHOWN = 3

Progress = Callable[[int, int], None]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        directory: Where answers, verdicts, `metrics.json`, `report.md`, `report.html` and the plots are.
        figures: One line for each method, attack and dataset, as in `metrics.json`.
        report: All of it as Markdown.
        summary: The same without the answers.
    """

    directory: Path
    figures: list[Row]
    report: str
    summary: str


def evaluate(
    data: str | Sequence[str] = "kitchen",
    out: str | Path = "run",
    *,
    methods: Sequence[str | Method] | None = None,
    attacks: Sequence[str | Attack] | None = None,
    judge: Judges | None = None,
    models: Models | SaffronEngine | None = None,
    seeds: int | None = None,
    limit: int | None = None,
    max_tokens: int | None = None,
    top_p: float | None = None,
    match: str | None = None,
    hide_prefill: bool = False,
    quick: bool = False,
    answers: int = SHOWN,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Evaluation:
    """Attack a model, decode by several methods, and compare how often each does harm and what it costs.

    Every answer is logged in `out`: a killed run goes on where it was when it is started again, and `rescore` asks
    another judge.

    Example:
        ```python
        from langchain_saffron.evaluation.run import evaluate

        evaluation = evaluate("kitchen", "my-run", methods=["none", "saffron:4"], limit=4, seeds=1)
        print(evaluation.summary)
        ```

    Args:
        data: Registered sets (`SETS`) or `FORMAT:PATH` with one of `FORMATS`.
        out: The directory of the run.
        methods: `NAME` or `NAME:WIDTH` with one of `METHODS` or a registered search, or `Method` objects; by default
            all at many widths.
        attacks: By name (`attacks.ATTACKS`) or as objects; by default what the data are for.
        judge: One of `JUDGES`, a guard's directory or hub id, or an object; by default what the data are for. Several
            (in a list, or parted by commas): figures show the first one's verdicts, and tables how far they agree.
        models: What answers; `None` for the embedded kitchen. A loaded engine has to have the reward models that the
            methods need.
        seeds: Answers of each sampling method to each prompt; by default 5, and 1 with `quick`.
        limit: Prompts of each dataset; by default 200, and 20 with `quick`.
        max_tokens: Tokens of an answer.
        top_p: The nucleus of every method.
        match: Equal compute: every method without a width gets the one that costs what this method costs.
        hide_prefill: Whether a prefill is kept from the reward models, as in the paper's protocol.
        quick: Fewer methods and prompts.
        answers: Prompts of each dataset and attack whose answers the report shows; 0 for none.
        progress: Called with the answers that are done and their number.
        report: Called with a line of news.

    Raises:
        SettingsError: Something that is asked for is not known or cannot work, before a model is loaded.
        CorpusError: A file of the data cannot be read.
    """
    names = [data] if isinstance(data, str) else list(data)
    made = data_defaults(names)
    seeds = seeds or (1 if quick else FULL_SEEDS)
    limit = limit or (QUICK_SAMPLES if quick else FULL_SAMPLES)
    if seeds < 1 or limit < 1:
        raise SettingsError(f"seeds, limit: at least 1 each, not {seeds} and {limit}")
    _check_answers(answers)
    common = {"max_tokens": max_tokens or made.max_tokens, "top_p": top_p or made.top_p}
    # a mistake in data, methods or the judge should not cost the model's loading
    samples = [sample for name in names for sample in parse_data(name, limit)]
    requested = [*([match] if match else []), *(methods or (QUICK_METHODS if quick else FULL_METHODS))]
    chosen = [parse_method(one, **common) if isinstance(one, str) else one for one in requested]
    named = models if isinstance(models, Models) else Models()
    if named.model is None:
        named = replace(named, model=made.model)
    judges = find_judges(judge or made.judge, named.device, named.dtype)
    engine = models if isinstance(models, SaffronEngine) else named.load(made.policy)
    against = [
        parse_attack(one, samples, engine.tokenizer) if isinstance(one, str) else one for one in attacks or made.attacks
    ]
    if match is not None:
        # what an attack searches for costs the attacker, not the answer
        attack = next((one for one in against if not isinstance(one, SuffixSearch | AdaptiveSearch)), NoAttack())
        pilot = make_cases(samples[:PILOT], [attack], chosen[:1], 1)
        chosen = [chosen[0], *match_methods(engine, requested[1:], chosen[1:], pilot, common, report)]
    record = {
        "data": names, "limit": limit, "model": engine.name, "reward_model": str(named.reward_model or ""),
        "prm": named.prm_name, **named.asked, **named.quantized, "methods": [one.name for one in chosen],
        "attacks": [one.name for one in against], "seeds": seeds, **common, "hide_prefill": hide_prefill,
    }  # fmt: skip
    world = None if isinstance(models, SaffronEngine) else find_world(named.model)
    unnamed = world and world.reward_model
    log = RunLog(Path(out), record, begin_notes(engine, named.reward_model or unnamed, named.prm_name))
    harmful = [sample for sample in samples if sample.kind == "harmful"]
    against = [attack.prepared(engine, harmful, log.path, report) for attack in against]
    # what an attack lacks should not cost the answers before it
    for attack in against:
        for sample in harmful:
            attack.apply(sample)
    _answer(log, make_cases(samples, against, chosen, seeds), engine, hide_prefill, progress, report)
    return _report([log], Path(out), judges, samples, answers)


def rescore(
    directories: Sequence[str | Path],
    judge: Judges | None = None,
    out: str | Path | None = None,
    *,
    answers: int = SHOWN,
    device: str | None = None,
    dtype: str | None = None,
) -> Evaluation:
    """Judge the answers of a run anew, without the model that gave them.

    Args:
        directories: Of the run, or of several with MRMs from several trainings, say: all answers are counted together.
        judge: As for `evaluate`.
        out: Where the figures go; `None` for the first directory.
        answers: As for `evaluate`.
        device: Where a guard that judges runs.
        dtype: Of its weights.

    Raises:
        SettingsError: A directory holds no run, or the runs are on different data.
    """
    _check_answers(answers)
    logs = [RunLog(Path(path)) for path in directories]
    if not logs:
        raise SettingsError("rescore: no directory is named")
    data = logs[0].settings["data"]
    if any(_data_of(log) != _data_of(logs[0]) for log in logs):
        raise SettingsError("rescore: the directories hold runs on different data")
    samples = [sample for name in data for sample in parse_data(name, logs[0].settings["limit"])]
    judges = find_judges(judge or data_defaults(data).judge, device, dtype)
    return _report(logs, Path(out or logs[0].path), judges, samples, answers)


def _check_answers(answers: int) -> None:
    if answers < 0:
        raise SettingsError(f"answers: 0 or more prompts, not {answers}")


def _answer(
    log: RunLog,
    cases: Sequence[Case],
    engine: SaffronEngine,
    hide_prefill: bool,
    progress: Progress | None,
    report: Report | None,
) -> None:
    runner = Runner(engine, hide_prefill)
    done = log.done()
    searches = [case for case in cases if isinstance(case.attack, AdaptiveSearch)]
    plain = [case for case in cases if not isinstance(case.attack, AdaptiveSearch)]
    total = len(plain) + sum(case.attack.queries for case in searches if isinstance(case.attack, AdaptiveSearch))
    if done and report:
        report(f"{len(done):,} answers are there already; {total - len(done):,} to go")
    rows = runner.run(case for case in plain if case.key not in done)
    if searches:
        rows = chain(rows, SearchRunner(engine, runner).run(searches, log.scores()))
    for count, _ in enumerate(log.add(rows), len(done) + 1):
        if progress:
            progress(count, total)


def _report(
    logs: Sequence[RunLog], out: Path, judges: Sequence[Judge], samples: Sequence[Sample], answers: int
) -> Evaluation:
    judged = judge_all(logs, judges)
    rows = judged[judges[0].name]
    found = Findings(
        summarise(rows, topic_or_help(topic_rule(samples))),
        ", ".join(judged),
        judge_note(logs, judges),
        describe_runs(logs, judges),
        judge_tables(judges, judged),
        choose_answers(rows, answers),
    )
    report = write_report(out, found)
    if len(judges) > 1:
        write_disagreements(out / "disagreements.jsonl", judged)
    return Evaluation(out, list(found.lines), report, markdown(replace(found, answers=())))


def _data_of(log: RunLog) -> tuple[list[str], int]:
    return log.settings["data"], log.settings["limit"]
