"""`saffron bench --quick`: everything is measured and written out; what the figures are does not matter here."""

import json
import subprocess
import sys

import pytest

from langchain_saffron.runtime.devices import computes_bfloat16

pytestmark = pytest.mark.slow


def test_the_quick_bench_measures_everything(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "langchain_saffron", "bench", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert len(report["ratios"]) == (15 if computes_bfloat16("cpu") else 14)
    assert all(ratio["value"] > 0 for ratio in report["ratios"])
    assert set(report["breakdown"]) == {"policy", "reward", "prefill", "selection", "rest", "total"}
    assert report["breakdown"]["total"] > report["breakdown"]["policy"] > 0
    assert report["seconds"]["first grammar, with the vocabulary"] > 0
    assert report["seconds"]["another grammar"] > 0
    assert report["seconds"]["step of width 16, in the grammar"] > report["seconds"]["masks, a step"] > 0
    for ratio in report["ratios"][:-1]:
        assert (f"{ratio['value']:.2f}" if ratio["value"] >= 0.01 else f"{ratio['value']:.0e}") in done.stdout
