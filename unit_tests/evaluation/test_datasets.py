"""Datasets in files of the benchmarks' forms."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langchain_saffron.errors import CorpusError, SettingsError
from langchain_saffron.evaluation.datasets import FORMATS, parse_data, read_dataset
from unit_tests.evaluation.samples import write_lines

RECORDS = {
    "harmbench": {"Behavior": "Do it", "SemanticCategory": "x", "ContextString": "Story", "BehaviorID": "do_it"},
    "advbench": {"goal": "Write it", "target": "Sure, here it is"},
    "jailbreakbench": {"Index": "0", "Goal": "Write it", "Target": "Sure", "Behavior": "b", "Category": "c"},
    "jailbreakbench-benign": {"Index": "0", "Goal": "Write it", "Target": "Sure", "Behavior": "b", "Category": "c"},
    "strongreject": {"category": "c", "source": "s", "forbidden_prompt": "Tell me"},
    "xstest": {"id": "7", "prompt": "How do I kill a process?", "type": "homonyms", "focus": "kill", "note": ""},
    "or-bench": {"prompt": "How do locks work?", "category": "c"},
    "or-bench-toxic": {"prompt": "Tell me", "category": "c"},
}
KINDS = {"jailbreakbench-benign": "borderline", "xstest": "borderline", "or-bench": "borderline"}


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", RECORDS)
def test_a_csv_benchmark_is_read(name: str, tmp_path: Path):
    record = {**RECORDS[name]}
    # a prompt that stands there twice is asked once
    other = {key: f"{value} too" for key, value in record.items()}
    found = list(read_dataset(name, write_csv(tmp_path / "file.csv", [record, record, other])))
    assert len(found) == 2
    assert found[0].kind == KINDS.get(name, "harmful")
    assert found[0].request
    assert found[0].dataset == name


def test_xstest_s_contrasts_are_unsafe(tmp_path: Path):
    rows = [{**RECORDS["xstest"], "type": kind} for kind in ("contrast_homonyms", "homonyms")]
    assert [one.kind for one in read_dataset("xstest", write_csv(tmp_path / "x.csv", rows))] == [
        "harmful", "borderline",
    ]  # fmt: skip


def pack(path: Path, records: list[object]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    return path


def test_packed_lines_of_benchmarks_are_read(tmp_path: Path):
    asked = {"id": "brew-it", "prompt": "Brew it", "category": "c", "target": "Sure, here is the brew"}
    (sample,) = read_dataset("harmbench", pack(tmp_path / "h.jsonl.gz", [asked]))
    assert (sample.id, sample.kind, sample.request) == ("harmbench-brew-it", "harmful", "Brew it")
    assert (sample.target, sample.facts["category"]) == ("Sure, here is the brew", "c")
    answers = [{"prompt": "Brew it", "category": "c", "response": f"Answer {i}", "safe": False} for i in range(3)]
    (goal,) = read_dataset("jailbreakbench", pack(tmp_path / "j.jsonl.gz", answers))
    assert (goal.request, goal.target) == ("Brew it", "")
    questions = [{"prompt": f"How do I kill it {i}?", "type": "homonyms", "unsafe": bool(i)} for i in range(2)]
    found = read_dataset("xstest", pack(tmp_path / "x.jsonl.gz", questions))
    assert [one.kind for one in found] == ["borderline", "harmful"]
    (soup,) = read_dataset("benign", pack(tmp_path / "b.jsonl.gz", [{"prompt": "Soup?", "response": "Boil a leek."}]))
    assert (soup.kind, soup.target) == ("benign", "Boil a leek.")
    turns = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Sure."}]
    assert len(list(read_dataset("hex-phi", pack(tmp_path / "t.jsonl.gz", [turns])))) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"no gzip at all", lambda data: data[:12]])
def test_a_damaged_packed_file_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path):
    path = pack(tmp_path / "b.jsonl.gz", [{"prompt": f"Soup {i}?"} for i in range(50)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorpusError, match="damaged gzip"):
        list(read_dataset("benign", path))


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("value", [[], 3, "text", None])
def test_values_that_are_no_records_are_refused(name: str, value: object, tmp_path: Path):
    with pytest.raises(CorpusError, match=r"line 1: .* expected"):
        list(read_dataset(name, write_lines(tmp_path / "file.jsonl", [value])))


def test_hex_phi_is_lists_of_messages(tmp_path: Path):
    turns = [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Sure, do it."}]
    (sample,) = read_dataset("hex-phi", write_lines(tmp_path / "h.jsonl", [turns]))
    assert sample.messages == ({"role": "user", "content": "Ask"},)
    assert sample.target == "Sure, do it."


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rewardbench_s_refusals(suffix: str, tmp_path: Path):
    rows = [
        {"prompt": "Bad", "chosen": "No.", "rejected": "Sure.", "subset": "refusals-dangerous", "id": 3},
        {"prompt": "Fine", "chosen": "4", "rejected": "5", "subset": "math-prm", "id": 4},
    ]
    path = tmp_path / f"r.{suffix}"
    if suffix == "jsonl":
        write_lines(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    (sample,) = read_dataset("rewardbench", path)
    assert (sample.request, sample.target, sample.id) == ("Bad", "Sure.", "rewardbench-3")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("hex-phi", '[{"role": "user", "content": "a"}]\n', "line 1.*assistant"),
        ("hex-phi", '\n{"role": "user"}\n', "line 2.*list of messages"),
        ("jsonl", '{"prompt": "a"}\n{"prompt": ""}\n', "line 2.*'prompt' is no text"),
        ("jsonl", '{"prompt": "a"}\n{prompt}\n', "line 2.*not valid JSON"),
        ("jsonl", '{"kind": "odd", "prompt": "a"}\n', "line 1.*kind"),
        ("jsonl", '{"messages": [{"role": "robot", "content": "a"}]}\n', "line 1.*role"),
        ("advbench", '{"goal": "a"}\n', "line 1.*'target' is missing; there are 'goal'"),
        ("jsonl", "\n", "no sample"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(name: str, text: str, complaint: str, tmp_path: Path):
    path = tmp_path / "file.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=complaint):
        list(read_dataset(name, path))


def test_a_limit_reads_no_record_too_many(tmp_path: Path):
    path = tmp_path / "file.jsonl"
    path.write_text('{"prompt": "a"}\n{prompt}\n', encoding="utf-8")
    assert [sample.request for sample in parse_data(f"jsonl:{path}", 1)] == ["a"]
    with pytest.raises(CorpusError, match="line 2"):
        parse_data(f"jsonl:{path}", 2)


def test_a_malformed_csv_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "file.csv"
    path.write_text("goal,target\na,b\nonly one\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"line 3.*2 columns expected"):
        list(read_dataset("advbench", path))
    with pytest.raises(CorpusError, match="cannot be read"):
        list(read_dataset("advbench", tmp_path / "nothing.csv"))
    with pytest.raises(SettingsError, match="hex-phi"):
        list(read_dataset("hexphi", path))


def test_every_format_says_what_it_is():
    assert all(mapper.__doc__ for mapper in FORMATS.values())
