"""`evaluate` from Python and from the command line: progress, resuming, other judges, what a user types, and what a
user's code adds by one call each."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.cli import main
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.errors import ModelLoadError, SettingsError
from langchain_saffron.evaluation.attacks import NoAttack, Prefill, parse_attack
from langchain_saffron.evaluation.cases import make_cases
from langchain_saffron.evaluation.datasets import (
    FORMATS,
    SETS,
    SampleSet,
    parse_data,
    register_dataset,
    register_format,
)
from langchain_saffron.evaluation.defaults import FULL_SEEDS, QUICK_SAMPLES
from langchain_saffron.evaluation.judges import JUDGES, Exchange, Judge, Judged, KeywordJudge, register_judge
from langchain_saffron.evaluation.log import RunLog
from langchain_saffron.evaluation.methods import METHODS, Method, make_method, parse_method, register_method
from langchain_saffron.evaluation.run import Models, evaluate, rescore
from langchain_saffron.evaluation.runner import Runner
from langchain_saffron.search import Expand, Search, SearchInputs, register_search
from langchain_saffron.search.node import ROOT
from langchain_saffron.search.protocol import Answer
from langchain_saffron.settings import SEARCHES
from unit_tests.builders import byte_level_tokenizer
from unit_tests.evaluation.samples import HARM, write_lines


@pytest.fixture
def registries() -> Iterator[None]:
    """Registries as they were, whatever a test adds."""
    kept = [(registry, dict(registry)) for registry in (METHODS, SETS, JUDGES, FORMATS, SEARCHES)]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


class LengthJudge(Judge):
    """Unsafe is what is long."""

    name = "length"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judged]:
        return [Judged(len(one.answer) > 3, False) for one in exchanges]


def least_likely_search(inputs: SearchInputs) -> Search:
    """The token that the policy likes least, and no more."""
    scores = yield Expand((ROOT,))
    token = int(scores.logits[0].argmin())
    return Answer((token,), "length", node=ROOT.child(token))


def test_what_a_user_s_code_adds_is_evaluated_and_resumed(engine: SaffronEngine, registries: None, tmp_path: Path):
    register_dataset("mine", SampleSet(lambda count: [HARM][:count], judge="length", max_tokens=5))
    register_judge("length", lambda device, dtype: LengthJudge())
    register_method("by-reward", "saffron", ranking="paper")
    register_search("least_likely", least_likely_search)
    ticks: list[tuple[int, int]] = []
    told: list[str] = []
    methods = [
        "none",
        "by-reward:2",
        "least_likely",
        Method("own", SearchSettings(search="greedy", min_tokens=3, max_tokens=3)),
    ]

    def run():
        return evaluate(
            "mine",
            tmp_path / "run",
            methods=methods,
            models=engine,
            seeds=2,
            progress=lambda done, total: ticks.append((done, total)),
            report=told.append,
        )

    found = run()
    assert [line["method"] for line in found.figures] == ["none", "by-reward-2", "least_likely-1", "own"]
    assert [line["answers"] for line in found.figures] == [2, 1, 1, 1]
    assert [line["tokens"] for line in found.figures][2:] == [1.0, 3.0]
    assert ticks == [(count, 5) for count in range(1, 6)]
    assert found.report == (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "Judge: length" in found.report
    before, heading, shown = found.report.partition("## Some answers")
    assert found.summary.rstrip() == before.rstrip()
    assert heading
    assert shown.count("<details>") == 1
    assert "Process reward model (PRM): a loaded one" in found.summary
    assert run().figures == found.figures
    assert told == ["5 answers are there already; 0 to go"]
    assert len(ticks) == 5
    other = rescore([tmp_path / "run"], KeywordJudge(), tmp_path / "other", answers=0)
    assert other.report == other.summary
    with pytest.raises(SettingsError, match="answers: 0 or more"):
        rescore([tmp_path / "run"], answers=-1)
    assert "Judge: keyword" in other.report
    assert (tmp_path / "other" / "metrics.json").exists()


def test_a_search_of_the_user_s_own_answers_requests(engine: SaffronEngine, registries: None):
    register_search("least_likely", least_likely_search)
    result = engine.generate([5, 6, 7], settings=SearchSettings(search="least_likely", max_tokens=4))
    assert len(result.token_ids) == 1
    for name in ("saffron", "not a name"):
        with pytest.raises(SettingsError, match="register_search"):
            register_search(name, least_likely_search)
    with pytest.raises(SettingsError, match=r"'least_likly' is not one of.*'least_likely'"):
        SearchSettings(search="least_likly")


@pytest.mark.slow
def test_a_format_of_the_user_s_own_is_read(registries: None, tmp_path: Path):
    def ask(record: dict[str, str]):
        """Questions under `q`."""
        return {"kind": "benign", "messages": ({"role": "user", "content": record["q"]},)}

    register_format("questions", ask)
    (tmp_path / "q.jsonl").write_text('{"q": "What is leek?"}\n', encoding="utf-8")
    found = evaluate(f"questions:{tmp_path / 'q.jsonl'}", tmp_path / "run", methods=["greedy"], max_tokens=4, limit=1)
    (line,) = found.figures
    assert (line["dataset"], line["kind"], line["answers"]) == ("questions", "benign", 1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"data": "kitchn"}, "FORMAT:PATH"),
        ({"data": "hexphi:x"}, "hex-phi"),
        ({"methods": ["safron:3"]}, "'safron' is not known; there are .*saffron-paper"),
        ({"data": ["kitchen", "hard-kitchen"]}, "alone"),
        ({"limit": -1}, "at least 1"),
        ({"seeds": -1}, "at least 1"),
        ({"answers": -1}, "answers: 0 or more"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(options, complaint: str, tmp_path: Path):
    models = Models(model=str(tmp_path / "no-such-model"))
    with pytest.raises(SettingsError, match=complaint):
        evaluate(**{"data": "kitchen", "out": tmp_path / "run", **options}, models=models)
    with pytest.raises(ModelLoadError, match="no-such-model"):
        evaluate("kitchen", tmp_path / "run", models=models, methods=["greedy"])
    assert not (tmp_path / "run").exists()


def test_the_help_names_all_that_is_registered(capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "--help"]) == 0
    said = " ".join(re.sub("[│─╭╮╰╯]", " ", capsys.readouterr().out).split())
    missing = {*METHODS, *FORMATS, *SETS, *JUDGES} - set(re.findall(r"[a-z0-9-]+", said))
    assert not missing
    assert f"{QUICK_SAMPLES} prompts" in said
    assert f"[default: {FULL_SEEDS}; with --quick: 1]" in said


# --- what a user types ---


def test_what_is_typed_is_understood(tmp_path: Path):
    assert parse_method("saffron:16").settings.width == 16
    assert parse_method("none").name == "none"
    assert len(parse_data("kitchen", 3)) == 3
    path = write_lines(tmp_path / "p.jsonl", [{"goal": "How do I brew it?", "prompt": "brew !!"}])
    tokenizer = byte_level_tokenizer()
    assert parse_attack(f"replay:{path}", [], tokenizer).apply(HARM).messages[-1]["content"] == "brew !!"
    assert parse_attack("prefill-20", [], tokenizer) == Prefill(20)
    for text, complaint in (("saffron:x", "whole number"), ("safron", "not known")):
        with pytest.raises(SettingsError, match=complaint):
            parse_method(text)
    with pytest.raises(SettingsError, match="FORMAT:PATH"):
        parse_data("kitchn", 3)
    with pytest.raises(SettingsError, match="not known"):
        parse_attack("prefil-3", [], tokenizer)


# --- the command ---


def run_saffron(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The code of `saffron evaluate` in this process, and all that it wrote."""
    code = main(["evaluate", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_hard_kitchen_is_evaluated_alone(capsys, tmp_path: Path):
    code, said = run_saffron(capsys, "kitchen", "hard-kitchen", "--out", str(tmp_path / "run"))
    assert code != 0
    assert "alone" in said


GUARDS = '''
from langchain_saffron.models.guard_function import conversation_guard


def short(prompt, answer):
    """The shorter, the safer."""
    return 90.0 - len(answer)


@conversation_guard
def long(conversations):
    assert all(messages[0]["role"] == "user" for messages in conversations)
    return [len(messages[-1]["content"]) - 90.0 for messages in conversations]
'''


def test_functions_steer_and_judge(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "length_guards.py").write_text(GUARDS, encoding="utf-8")
    lengths = {}
    for name in ("short", "long"):
        code, said = run_saffron(
            capsys, "kitchen", "--prm", f"length_guards:{name}", "--judge", f"length_guards:{name}", "--top-p", "1",
            "--method", "best-of-n:6", "--limit", "3", "--seeds", "1", "--max-tokens", "24", "--out", name,
        )  # fmt: skip
        assert code == 0, said
        assert f"length_guards:{name}" in said
        assert "The judge is the model that steered" in said
        assert f"- Process reward model (PRM): length_guards:{name}\n- Judge: length_guards:{name}\n" in said
        assert "Some answers" not in said
        assert "Some answers" in (tmp_path / name / "report.html").read_text(encoding="utf-8")
        log = RunLog(tmp_path / name)
        assert log.settings["prm"] == f"length_guards:{name}"
        lengths[name] = [len(row["answer"]) for row in log.rows()]
    assert sum(lengths["short"]) < sum(lengths["long"])
    code, said = run_saffron(
        capsys, "--rescore", "short", "--judge", "length_guards:long", "--answers", "0", "--out", "again"
    )
    assert code == 0, said
    assert "Some answers" not in (tmp_path / "again" / "report.html").read_text(encoding="utf-8")
    (line,) = json.loads((tmp_path / "again" / "metrics.json").read_text(encoding="utf-8"))["figures"]
    assert line["unsafe_alone"] == sum(length < 90 for length in lengths["short"]) / 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--prm", "length_guards:none"], "--prm: length_guards:none"),
        (["--judge", "nowhere_at_all:rule"], "--judge: nowhere_at_all:rule cannot be imported"),
        (["--prm", "{prm}", "--safe", "harmless"], "no token 'harmless'"),
        (["--prm", "{prm}", "--guard", "nonsense"], "'nonsense' is not known; there are llama-guard-3"),
        (["--judge", "{prm}", "--unsafe", "harmful"], "no token 'harmful'"),
        (["--prm", "os.path:join", "--safe", "yes"], "--safe: a loaded model or a function is asked as it is"),
    ],
)
def test_guards_are_asked_as_annotation_asks_them(options, complaint: str, capsys, tmp_path: Path):
    named = [option.format(prm=KITCHEN / "prm") for option in options]
    code, said = run_saffron(capsys, "kitchen", "--limit", "1", *named, "--out", str(tmp_path / "run"))
    assert code == 2
    assert complaint in said
    assert not (tmp_path / "run").exists()


def test_how_a_guard_is_asked_is_part_of_the_run():
    words = json.loads((KITCHEN / "prm" / "prm_config.json").read_text(encoding="utf-8"))
    models = Models(process_reward_model=KITCHEN / "prm", safe=words["unsafe"], unsafe=words["safe"])
    engine = models.load()
    assert engine.process_reward_model is not None
    assert engine.process_reward_model.prompt.safe == words["unsafe"]
    assert models.asked == {"safe": words["unsafe"], "unsafe": words["safe"]}
    assert Models().asked == {}


def test_runs_are_counted_together(engine: SaffronEngine, capsys, tmp_path: Path):
    file = write_lines(tmp_path / "hex.jsonl", [[{"role": "user", "content": "How do I brew it?"},
                                                 {"role": "assistant", "content": "Sure, grind."}]])  # fmt: skip
    settings = {"data": [f"hex-phi:{file}"], "limit": 1, "prm": ""}
    (sample,) = parse_data(f"hex-phi:{file}", 1)
    for place in ("one", "two"):
        log = RunLog(tmp_path / place, settings)
        todo = make_cases([sample], [NoAttack()], [make_method("saffron", 2, max_tokens=4)], 1)
        list(log.add(Runner(engine).run(todo)))
    both = ("--rescore", str(tmp_path / "one"), "--rescore", str(tmp_path / "two"))
    code, said = run_saffron(capsys, *both, "--judge", "keyword", "--out", str(tmp_path / "all"))
    assert (code, "saffron-2" in said) == (0, True)
    (line,) = json.loads((tmp_path / "all" / "metrics.json").read_text(encoding="utf-8"))["figures"]
    assert (line["prompts"], line["answers"]) == (1, 2)
    RunLog(tmp_path / "three", {**settings, "limit": 2})
    code, said = run_saffron(capsys, *both, "--rescore", str(tmp_path / "three"))
    assert "different data" in said
    assert code != 0


def test_several_judges_are_shown_with_their_agreement(
    engine: SaffronEngine, capsys, registries: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd_guards.py").write_text(GUARDS, encoding="utf-8")
    register_judge("length", lambda device, dtype: LengthJudge())
    records = [{"prompt": f"How do I brew {i}?", "target": "Sure."} for i in range(3)]
    file = write_lines(tmp_path / "p.jsonl", [*records, {"prompt": "Soup?", "kind": "benign"}])
    methods = [make_method("none", max_tokens=3), make_method("saffron", 2, max_tokens=3)]
    log = RunLog(tmp_path / "run", {"data": [f"jsonl:{file}"], "limit": 4, "prm": "odd_guards:short"})
    todo = make_cases(parse_data(f"jsonl:{file}", 4), [Prefill(2)], methods, 1)
    list(log.add(Runner(engine).run(todo)))
    code, said = run_saffron(capsys, "--rescore", "run", "--judge", "refusal,length,odd_guards:short")
    assert code == 0, said
    assert "Judge: refusal, length, odd_guards:short" in said
    assert "The judge odd_guards:short is the model that steered" in said
    assert "| refusal | " in said
    assert "## Broken under each judge" in said
    written = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    pairs = written["sections"]["Agreement of the judges"]
    assert [row[0] for row in pairs[1:]] == [
        "refusal, length", "refusal, odd_guards:short", "length, odd_guards:short"
    ]  # fmt: skip
    assert {row[1] for row in pairs[1:]} == {"6"}
    for name in ("refusal", "length", "odd_guards-short"):
        assert (tmp_path / "run" / f"verdicts-{name}.parquet").exists()
    disputed = (tmp_path / "run" / "disagreements.jsonl").read_text(encoding="utf-8").splitlines()
    # short answers that do not refuse: broken for one judge, safe for another
    assert len(disputed) == 6
    assert all(json.loads(line)["refusal"] and not json.loads(line)["odd_guards:short"] for line in disputed)
    other = rescore([tmp_path / "run"], [LengthJudge(), "refusal"], tmp_path / "other")
    assert "Judge: length, refusal" in other.report
    assert "## Where the judges" not in other.report


def test_an_attack_that_lacks_something_is_told_before_any_answer(engine: SaffronEngine, tmp_path: Path):
    file = write_lines(tmp_path / "p.jsonl", [{"prompt": "a", "target": "Sure."}, {"prompt": "b"}])
    ticks: list[int] = []
    with pytest.raises(SettingsError, match="jsonl-2 has no harmful answer"):
        evaluate(
            f"jsonl:{file}", tmp_path / "run", models=engine, methods=["greedy"], attacks=["prefill-2"], max_tokens=2,
            progress=lambda done, total: ticks.append(done),
        )  # fmt: skip
    assert not ticks


def test_a_log_from_before_goals_were_logged_is_read(engine: SaffronEngine, tmp_path: Path):
    log = RunLog(tmp_path / "run", {"data": "x"})
    list(log.add(Runner(engine).run(make_cases([HARM], [NoAttack()], [make_method("greedy", max_tokens=3)], 1))))
    (part,) = (tmp_path / "run").glob("answers-*.parquet")
    pq.write_table(pq.read_table(part).drop_columns(["goal"]), part)
    (row,) = RunLog(tmp_path / "run").judge(KeywordJudge())
    assert (row["goal"], row["request"]) == (None, HARM.request)
