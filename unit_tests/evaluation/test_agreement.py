"""How far judges agree, against figures worked out by hand and by scikit-learn's formula."""

import json
import math
from pathlib import Path

import pytest

from langchain_saffron.evaluation.agreement import agree, agreement_tables, write_disagreements


def test_agreement_is_raw_and_beyond_chance():
    # a textbook's table: 20 both yes, 15 both no, 5 and 10 apart; kappa is 0.4
    first = [True] * 20 + [True] * 5 + [False] * 10 + [False] * 15
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = agree(first, second)
    assert (found.answers, found.raw, found.only_first, found.only_second) == (50, 0.7, 5, 10)
    assert found.kappa == pytest.approx(0.4)
    assert agree([True, False], [False, True]).kappa == pytest.approx(-1)
    same = agree([True, True], [True, True])
    assert same.raw == 1
    assert math.isnan(same.kappa)
    assert agree([], []).answers == 0


def rows(*verdicts: bool, kind: str = "harmful"):
    return [
        {"key": f"none/none/d/s{i // 2}/{i % 2}", "method": "none", "attack": "none", "dataset": "d", "kind": kind,
         "sample": f"s{i // 2}", "tflops": 0.5, "unsafe": verdict}
        for i, verdict in enumerate(verdicts)
    ]  # fmt: skip


def test_tables_say_who_calls_what_broken(tmp_path: Path):
    judged = {"first": rows(True, True, True, False), "second": rows(True, True, False, False)}
    broken, pairs, disputed = (table for _, table in agreement_tables(judged))
    assert broken[0] == ["", "method", "TFLOP", "broken: first", "broken: second", "under all", "kappa"]
    (line,) = broken[1:]
    assert line[:3] == ["d, none", "none", "0.5"]
    assert [cell.split()[0] for cell in line[3:]] == ["0.750", "0.500", "0.500", "0.500"]
    assert pairs[1] == ["first, second", "4", "0.750", "0.500", "1", "0"]
    assert disputed[1:] == [["d", "s1", "2", "1"]]
    write_disagreements(tmp_path / "d.jsonl", judged)
    (found,) = map(json.loads, (tmp_path / "d.jsonl").read_text(encoding="utf-8").splitlines())
    assert found == {"key": "none/none/d/s1/0", "first": True, "second": False}


def test_one_judge_and_harmless_prompts_have_no_such_tables():
    assert agreement_tables({"first": rows(True)}) == []
    assert agreement_tables({name: rows(True, kind="benign") for name in ("first", "second")}) == []
