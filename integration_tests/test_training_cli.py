"""`saffron annotate` and `saffron train` as a user runs them: interrupted, in several processes, with bad input."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from langchain_saffron import MultifurcationRewardModel, SaffronEngine, SearchSettings
from langchain_saffron.cli import main
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.kitchen.recipe.prm import encode_reward
from langchain_saffron.models.prm import ProcessRewardModel

FIT = ["--epochs", "6", "--batch-size", "7", "--learning-rate", "3e-3", "--checkpoint-every", "5"]
SAFFRON = [sys.executable, "-m", "langchain_saffron"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def talk(corpus):
    """Conversations without tools and passages: a small corpus teaches one thing only."""
    return (c for c in conversations(corpus, 1000, seed=3) if not c.tools and "ontext" not in c.messages[0]["content"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = [json.dumps({"messages": conversation.messages}) for conversation in islice(talk("mrm"), 100)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rewards(corpus) -> Path:
    out = corpus.parent / "rewards"
    assert main(["annotate", str(corpus), "--out", str(out), "--shard-size", "10"]) == 0
    return out


@pytest.fixture(scope="module")
def trained(rewards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("mrm") / "trained"
    assert main(["train", str(rewards), "--out", str(out), *FIT]) == 0
    return out


@pytest.fixture
def run(capsys):
    """Run the command in this process; returns exit code, stdout and what it tells on stderr."""

    def call(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, [line for line in err.splitlines() if line.startswith("saffron: ")]

    return call


def contents(directory: Path) -> dict[str, bytes]:
    files = sorted(file for file in directory.rglob("*") if file.is_file() and "logs" not in file.parts)
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def kill_when(command: list[str], ready) -> None:
    process = subprocess.Popen([*SAFFRON, *command], env=ONE_THREAD, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def losses(directory: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (directory / "losses.jsonl").read_text().splitlines()]


def test_strict_fails_on_a_reward_model_that_saw_too_little(rewards, tmp_path, run):
    command = ["train", rewards, "--out", tmp_path / "mrm", "--held-out-share", "0.95", "--epochs", "1"]
    code, out, told = run(*command, "--strict")
    assert code == 1
    assert out == ""
    assert "is written, but not likely to work: " in told[-1]
    assert "its training showed few tokens" in told[-1]
    code, out, told = run(*command)
    assert code == 0
    assert "% of held-out tokens seen" in out
    assert "its training showed few tokens" in told[-1]


# --- interrupted ---


@pytest.mark.slow
def test_a_killed_annotation_goes_on_and_ends_with_the_same_bytes(corpus, rewards, tmp_path):
    out = tmp_path / "rewards"
    command = ["annotate", str(corpus), "--out", str(out), "--shard-size", "10"]
    kill_when(command, lambda: (out / "shard-00004.parquet").exists())
    assert not json.loads((out / "manifest.json").read_text())["complete"]
    done = {file: file.stat().st_mtime_ns for file in out.glob("shard-*.parquet")}
    assert 5 <= len(done) < 10
    subprocess.run([*SAFFRON, *command], env=ONE_THREAD, check=True)
    assert contents(out) == contents(rewards)
    assert all(file.stat().st_mtime_ns == when for file, when in done.items()), "finished shards were written again"


@pytest.mark.slow
def test_a_training_killed_half_way_ends_with_the_same_weights(rewards, trained, tmp_path):
    out = tmp_path / "trained"
    steps = len(losses(trained))
    command = ["train", str(rewards), "--out", str(out), *FIT]
    half = steps // 2 // 5 * 5
    kill_when(command, lambda: (out / "checkpoints" / f"step-{half:08d}").exists())
    assert not (out / "mrm_config.json").exists()
    done = subprocess.run([*SAFFRON, *command], env=ONE_THREAD, capture_output=True, text=True, check=True)
    assert "going on from step" in done.stderr
    found, expected = contents(out), contents(trained)
    assert found.keys() == expected.keys()
    # directories of the same depth name the base by the same relative path
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow
def test_two_processes_follow_the_losses_of_one(rewards, trained, tmp_path):
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "-m", "langchain_saffron", "train", rewards, "--out", tmp_path / "two", *FIT]
    place = {**ONE_THREAD, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([str(word) for word in command], env=place, check=True, timeout=240)
    one, two = np.array(losses(trained)), np.array(losses(tmp_path / "two"))
    assert len(one) == len(two) > 40
    assert float(one[0]) > 5 * float(one[-1])
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4)
    figures = [
        json.loads((d / "mrm_config.json").read_text())["training"]["held_out"] for d in (trained, tmp_path / "two")
    ]
    assert figures[1]["mse"] == pytest.approx(figures[0]["mse"], rel=1e-3)
    assert figures[1]["rewards"] == figures[0]["rewards"]


# accelerate has counted its processes when it trained before
@pytest.mark.usefixtures("trained")
@pytest.mark.slow
def test_processes_that_would_train_alone_are_refused(rewards, tmp_path, run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, told = run("train", rewards, "--out", tmp_path / "mrm")
    assert code == 2
    assert "2 processes" in told[-1]


def test_forecasts_are_annotated(corpus, tmp_path, run):
    forecast = ("--rollouts", "2", "--policy", "kitchen", "--rollout-tokens", "4", "--rollout-every", "8")
    code, out, told = run("annotate", corpus, "--limit", "3", *forecast, "--out", tmp_path / "forecasts")
    assert code == 0, told
    assert " rewards of 4 answers" in out
    manifest = json.loads((tmp_path / "forecasts" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["rollouts"] | {"policy": ""} == {
        "count": 2, "tokens": 4, "every": 8, "temperature": 1.0, "top_p": 0.95, "seed": 0, "policy": "",
    }  # fmt: skip
    assert manifest["counts"]["unknown"] > manifest["counts"]["rewards"] > 0


def test_candidates_are_annotated(corpus, tmp_path, run):
    others = ("--candidates", "2", "--policy", "kitchen", "--candidates-every", "8", "--candidates-after", "3")
    code, out, told = run("annotate", corpus, "--limit", "3", *others, "--out", tmp_path / "candidates")
    assert code == 0, told
    manifest = json.loads((tmp_path / "candidates" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["candidates"] | {"policy": ""} == {
        "count": 2, "every": 8, "after": 3, "policy": "",
    }  # fmt: skip
    assert f", and {manifest['counts']['candidates']} of candidates, " in out
    assert f" and {manifest['counts']['after']} of what follows them, in " in out
    assert 0 < manifest["counts"]["candidates"] < manifest["counts"]["rewards"]


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(rewards, trained, run):
    before = contents(trained)
    code, out, told = run("train", rewards, "--out", trained, *FIT)
    assert code == 0
    assert "already trained" in told[-1]
    assert "held-out r" in out
    assert contents(trained) == before


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_epochs(rewards, trained, tmp_path, run):
    out = tmp_path / "trained"
    shutil.copytree(trained, out)
    code, said, told = run("train", rewards, "--out", out, "--epochs", "8", *FIT[2:])
    assert code == 0, told
    assert any("going on after 6 of 8 epochs" in line for line in told)
    assert "held-out r" in said
    assert losses(out)[: len(losses(trained))] == losses(trained)
    assert len(losses(out)) == len(losses(trained)) * 8 // 6
    assert "8 epoch(s) (finished after 6, and continued)" in (out / "README.md").read_text(encoding="utf-8")
    assert MultifurcationRewardModel.from_pretrained(out).details["training"]["continued_after"] == [6]


# --- what comes of it ---


@pytest.mark.slow
def test_the_trained_model_steers_a_search(trained):
    engine = SaffronEngine.from_pretrained(reward_model=trained)
    prompt = engine.tokenizer.apply_chat_template(
        [{"role": "user", "content": "How do I make leek soup?"}], add_generation_prompt=True
    )["input_ids"]
    result = engine.generate(prompt, settings=SearchSettings(width=4, max_tokens=20))
    assert result.stats.reward_calls > 0
    engine.close()


@pytest.mark.slow
def test_the_trained_model_predicts_the_prm(trained):
    mrm = MultifurcationRewardModel.from_pretrained(trained)
    prm = ProcessRewardModel.from_pretrained(WEIGHTS / "prm")
    rows = [encode_reward(prm.tokenizer, item) for item in islice(talk("held_out"), 12)]
    wanted = torch.cat(prm.score([(row.prompt, row.response) for row in rows]))
    found = [mrm.rewards(row.prompt + row.response[:i])[token] for row in rows for i, token in enumerate(row.response)]
    assert float(torch.corrcoef(torch.stack([wanted, torch.stack(found)]))[0, 1]) > 0.9


@pytest.mark.slow
def test_the_directory_moves_with_its_base(trained, rewards, tmp_path):
    base, mrm = tmp_path / "prm", tmp_path / "mrm"
    shutil.copytree(WEIGHTS / "prm", base)
    assert main(["train", str(rewards), "--base", str(base), "--out", str(mrm), "--limit-is-not-an-option"]) == 2
    assert main(["train", str(rewards), "--base", str(base), "--out", str(mrm), "--batch-size", "50"]) == 0
    (tmp_path / "elsewhere").mkdir()
    for path in (base, mrm):
        path.rename(tmp_path / "elsewhere" / path.name)
    MultifurcationRewardModel.from_pretrained(tmp_path / "elsewhere" / "mrm")
    assert str(tmp_path) not in (tmp_path / "elsewhere" / "mrm" / "mrm_config.json").read_text()


def test_rows_in_the_form_of_safety4m_train(tmp_path, run):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(12):
        ids = rng.integers(0, 1400, 20).tolist()
        rows.append({"input_ids": ids, "rewards": [None, *rng.normal(size=19).tolist()]})
    path = tmp_path / "safety4m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    code, out, told = run("train", path, "--out", tmp_path / "a")
    assert code == 2
    assert "--base" in told[-1]
    code, out, _ = run("train", path, "--out", tmp_path / "mrm", "--base", WEIGHTS / "prm", "--held-out-share", "0.2")
    assert code == 0, out
    seen = MultifurcationRewardModel.from_pretrained(tmp_path / "mrm").seen
    assert set(np.flatnonzero(seen.numpy()).tolist()) <= {token for row in rows for token in row["input_ids"][1:]}


def test_a_python_function_annotates(corpus, tmp_path, run, monkeypatch):
    # as it is for the installed command, which has no current directory to look for modules in
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge_of_mine.py").write_text(
        "def score(prompt, answer):\n    assert 'Agent:' in prompt\n    return -1.0 if 'grind' in answer else 1.0\n"
    )
    arguments = ("annotate", corpus, "--out", tmp_path / "out", "--prm", "judge_of_mine:score", "--limit", "40")
    code, _, told = run(*arguments)
    assert code == 2
    assert "--tokenizer" in told[-1]
    code, out, _ = run(*arguments, "--tokenizer", WEIGHTS / "prm")
    assert code == 0
    assert "rewards of" in out
    code, _, told = run("train", tmp_path / "out", "--out", tmp_path / "mrm")
    assert code == 2
    assert "base" in told[-1]
    assert run("train", tmp_path / "out", "--out", tmp_path / "mrm", "--base", WEIGHTS / "prm")[0] == 0


@pytest.mark.slow
def test_narrow_types_and_accumulation(rewards, tmp_path):
    command = ["train", str(rewards), "--out", str(tmp_path / "mrm"), "--batch-size", "25", "--micro-batch-size", "4"]
    subprocess.run([*SAFFRON, *command, "--mixed-precision", "bf16", "--dtype", "bfloat16"], env=ONE_THREAD, check=True)
    assert np.isfinite(losses(tmp_path / "mrm")).all()
    assert MultifurcationRewardModel.from_pretrained(tmp_path / "mrm").bias.dtype == torch.float32


# --- bad input ---


def test_broken_records_are_told_counted_and_skipped(corpus, tmp_path, run):
    lines = corpus.read_text().splitlines()[:20]
    lines[3], lines[7], lines[11] = "{broken", "[1, 2]", json.dumps({"messages": [{"role": "user", "content": "hi"}]})
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join(lines))
    code, out, told = run("annotate", path, "--out", tmp_path / "out")
    assert code == 0
    assert "3 broken records skipped" in out
    for line in (4, 8, 12):
        assert any(f"line {line}:" in told_line and "skipped" in told_line for told_line in told)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["broken"] == 3
    code, _, told = run("annotate", path, "--out", tmp_path / "strict", "--strict")
    assert code == 2
    assert "broken.jsonl, line 4: " in told[-1]


BAD = {
    "no corpus": (["annotate", "nowhere.jsonl"], "nowhere.jsonl"),
    "an empty corpus": (["annotate", "empty.jsonl"], "empty"),
    "a corpus of another shape": (["annotate", "shape.jsonl"], "known are messages"),
    "a corpus of no known kind": (["annotate", "corpus.xyz"], "jsonl"),
    "an unknown guard": (["annotate", "good.jsonl", "--guard", "nonsense"], "llama-guard-3"),
    "a guard without its words": (["annotate", "good.jsonl", "--safe", "harmless"], "no token 'harmless'"),
    "no such model": (["annotate", "good.jsonl", "--prm", "./nowhere"], "nowhere"),
    "no such function": (["annotate", "good.jsonl", "--prm", "os:nothing", "--tokenizer", "prm"], "os:nothing"),
    "a part that is none": (["annotate", "good.jsonl", "--part", "3/2"], "part 3 of 2"),
    "forecasts without a policy": (["annotate", "good.jsonl", "--rollouts", "2"], "--policy"),
    "candidates without a policy": (["annotate", "good.jsonl", "--candidates", "2"], "--policy"),
    "candidates and forecasts": (
        ["annotate", "good.jsonl", "--candidates", "2", "--rollouts", "2", "--policy", "prm"],
        "choose one of them",
    ),
    "places of no candidates": (["annotate", "good.jsonl", "--candidates-after", "2"], "how many as well"),
    "a policy without forecasts": (["annotate", "good.jsonl", "--policy", "prm"], "--rollouts"),
    "a word for turns": (["annotate", "good.jsonl", "--turns", "some"], "turns"),
    "no rewards": (["train", "nowhere"], "nowhere"),
    "conversations instead of rewards": (["train", "good.jsonl", "--base", "prm"], "saffron annotate"),
    "rewards from another tokenizer": (["train", "{rewards}", "--base", "{guard}"], "another tokenizer"),
    "a base that is not there": (["train", "{rewards}", "--base", "./nowhere"], "nowhere"),
    "layers that are not there": (["train", "{rewards}", "--target-modules", "nothing"], "--target-modules"),
    "half an epoch": (["train", "{rewards}", "--epochs", "0"], "epochs"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(case, corpus, rewards, checkpoints, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").touch()
    Path("corpus.xyz").write_text("?")
    Path("shape.jsonl").write_text('{"headline": "x", "body": "y"}\n' * 3)
    Path("good.jsonl").write_text("\n".join(corpus.read_text().splitlines()[:3]))
    Path("prm").symlink_to(WEIGHTS / "prm")
    arguments, wanted = BAD[case]
    code, out, told = run(
        *(word.format(rewards=rewards, guard=checkpoints.guard) for word in arguments), "--out", "out"
    )
    assert code == 2, (out, told)
    told = [line for line in told if "toy PRM annotates" not in line]
    assert len(told) == 1
    assert wanted in told[0]
    assert not Path("out").exists()


@pytest.mark.slow
def test_what_belongs_to_others_is_not_overwritten(rewards, trained, corpus, tmp_path, run):
    before = contents(trained)
    for other in (["--rank", "2"], ["--epochs", "2", *FIT[2:]]):
        code, _, told = run("train", rewards, "--out", trained, *FIT, *other)
        assert code == 2
        assert "choose another --out" in told[-1] or "fewer need another --out" in told[-1]
        assert contents(trained) == before
    before = contents(rewards)
    code, _, told = run("annotate", corpus, "--out", rewards, "--max-tokens", "64")
    assert code == 2
    assert "max_tokens" in told[-1]
    assert contents(rewards) == before


def with_file_limit(size: int):
    def limit() -> None:
        # a write beyond it fails, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit


@pytest.mark.slow
@pytest.mark.parametrize("what", ["annotate", "train"])
def test_a_full_disk_is_told_and_leaves_only_whole_files(what, corpus, rewards, trained, tmp_path):
    out = tmp_path / "out"
    command = {
        "annotate": ["annotate", str(corpus), "--out", str(out), "--shard-size", "50"],
        "train": ["train", str(rewards), "--out", str(out), *FIT],
    }[what]
    limit = with_file_limit(6_000 if what == "annotate" else 30_000)
    full = subprocess.run([*SAFFRON, *command], env=ONE_THREAD, capture_output=True, text=True, preexec_fn=limit)
    assert full.returncode == 2, full.stderr
    assert "could not be written" in full.stderr
    assert "Traceback" not in full.stderr
    assert not [file for file in out.rglob("*") if "partial" in file.name]
    assert not list(out.glob("shard-*"))
    assert not (out / "mrm_config.json").exists()
    done = subprocess.run([*SAFFRON, *command], env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
