"""Runs that are cut short, damaged checkpoints, other runs in the same place, and disks that are full."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from langchain_saffron.errors import StorageError, TrainingError
from langchain_saffron.training import checkpoints as checkpoints_module
from langchain_saffron.training.checkpoints import Checkpoints
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.train import train
from unit_tests.disks import content, files_of_at_most
from unit_tests.training.runs import PEFT_WARNINGS, SETTINGS, STEPS, cut_short, data, samples, save_base, stop_at

pytestmark = PEFT_WARNINGS


# every fourth line of `progress` comes before a checkpoint that is not there then
@pytest.mark.parametrize(
    ("step", "known"),
    [(1, 0), pytest.param(4, 3, marks=pytest.mark.slow), (7, 6), pytest.param(10, 9, marks=pytest.mark.slow)],
)
def test_a_run_that_was_cut_short_ends_the_same_to_the_bit(tmp_path, beside, trained, step, known):
    out, news = tmp_path / "out", []
    cut_short(out, beside, step)
    assert not (out / "mrm_config.json").exists()
    figures = train(data(), out, base=beside, settings=SETTINGS, report=news.append)
    assert any(f"from step {known} of {STEPS}" in line for line in news) == (known > 0)
    assert figures == trained[1]
    assert content(out, "logs") == content(trained[0], "logs")
    assert not (out / "checkpoints").exists()


def test_a_run_that_was_cut_short_twice_ends_the_same(tmp_path, beside, trained):
    out = tmp_path / "out"
    for step in (4, 7):
        cut_short(out, beside, step)
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out, "logs") == content(trained[0], "logs")


def test_how_the_work_is_spread_may_change_between(tmp_path, beside, trained):
    cut_short(tmp_path / "out", beside)
    settings = SETTINGS.model_copy(update={"micro_batch_size": 2, "checkpoint_every": 5})
    figures = train(data(), tmp_path / "out", base=beside, settings=settings)
    assert figures["mse"] == pytest.approx(trained[1]["mse"], abs=1e-4)


@pytest.mark.slow
def test_a_run_that_broke_while_it_wrote_its_result_ends_the_same(tmp_path, beside, trained, monkeypatch):
    out = tmp_path / "out"
    for broken in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()):
        with monkeypatch.context() as patched:
            patched.setattr("langchain_saffron.training.export.plot_agreement", raising(broken))
            with pytest.raises(StorageError if isinstance(broken, OSError) else KeyboardInterrupt):
                train(data(), out, base=beside, settings=SETTINGS)
        assert not (out / "mrm_config.json").exists()
    with monkeypatch.context() as patched:
        moved, real = [], os.replace

        def replace(source, target):
            if Path(target).parent == out and Path(target).name == "mrm_config.json":
                raise KeyboardInterrupt
            moved.append(target)
            real(source, target)

        patched.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            train(data(), out, base=beside, settings=SETTINGS)
    # all is there but what makes it an MRM
    assert (out / "adapter_model.safetensors").exists()
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out, "logs") == content(trained[0], "logs")


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


OTHERS = {
    "settings": lambda: (data(), SETTINGS.model_copy(update={"learning_rate": 1e-3})),
    "seed": lambda: (data(), SETTINGS.model_copy(update={"seed": 1})),
    "data": lambda: (data(seed=1), SETTINGS),
    "fewer": lambda: (data(23), SETTINGS),
    "records": lambda: (RewardData([Sample(s.record // 2, s.token_ids, s.rewards) for s in samples(24)], {}), SETTINGS),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_in_the_same_place_is_refused(tmp_path, beside, trained, other):
    made, settings = OTHERS[other]()
    cut_short(tmp_path / "out", beside)
    shutil.copytree(trained[0], tmp_path / "finished")
    for out, text in (("out", "checkpoints of another run"), ("finished", "another reward model")):
        before = content(tmp_path / out)
        with pytest.raises(TrainingError, match=text) as caught:
            train(made, tmp_path / out, base=beside, settings=settings)
        assert str(tmp_path / out) in str(caught.value)
        assert content(tmp_path / out) == before


def test_other_held_out_data_are_another_run(tmp_path, beside, trained):
    parts = RewardData(samples(24)[:12], {}), RewardData(samples(24)[12:], {})
    shutil.copytree(trained[0], tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(TrainingError, match="another reward model"):
        train(parts[0], tmp_path / "out", base=beside, held_out=parts[1], settings=SETTINGS)
    assert content(tmp_path / "out") == before


def test_another_base_is_another_run(tmp_path, beside, trained):
    save_base(tmp_path / "second", num_hidden_layers=2)
    shutil.copytree(trained[0], tmp_path / "out")
    with pytest.raises(TrainingError, match="another reward model"):
        train(data(), tmp_path / "out", base=tmp_path / "second", settings=SETTINGS)


def test_a_finished_run_is_not_trained_again(tmp_path, beside, trained):
    shutil.copytree(trained[0], tmp_path / "out")
    before, news = content(tmp_path / "out"), []
    figures = train(data(), tmp_path / "out", base=beside, settings=SETTINGS, progress=stop_at(0), report=news.append)
    assert figures == trained[1]
    assert content(tmp_path / "out") == before
    assert any("already trained" in line for line in news)


FILES = ("weights.safetensors", "optimiser.safetensors", "state.json")
DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_text('{"step": 6, "run": [], "sha256": {}}'),
    "a byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_nothing_overwritten(tmp_path, halfway, name, damage):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "out" / "checkpoints" / "step-00000006" / name)
    before = content(tmp_path / "out")
    with pytest.raises(TrainingError, match=r"step-00000006 is damaged: delete it to go on from step 3"):
        train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)
    assert content(tmp_path / "out") == before


def test_a_state_that_is_no_object_is_damaged(tmp_path, halfway):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "out" / "checkpoints" / "step-00000006" / "state.json"
    state = json.loads(path.read_text())
    for wrong in (None, [], 3, {**state, "run": []}, {**state, "run": None}, {**state, "sha256": []}, {}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(TrainingError, match="damaged"):
            train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)


def test_the_checkpoint_before_a_damaged_one_leads_to_the_same_end(tmp_path, halfway, trained):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000006")
    train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)
    assert content(tmp_path / "out", "logs") == content(trained[0], "logs")


def test_a_lone_damaged_checkpoint_says_to_begin_again(tmp_path, halfway):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000003")
    (tmp_path / "out" / "checkpoints" / "step-00000006" / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="delete it to begin again"):
        train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)


def test_what_a_killed_run_left_half_written_is_ignored(tmp_path, halfway, trained):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    for name in ("checkpoints/step-00000009.partial", ".mrm.partial"):
        (tmp_path / "out" / name).mkdir()
        (tmp_path / "out" / name / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "out" / "losses.jsonl.partial").write_text("half")
    train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)
    assert content(tmp_path / "out", "logs") == content(trained[0], "logs")


def test_the_last_two_checkpoints_are_kept(tmp_path, beside):
    cut_short(tmp_path / "out", beside, 10, checkpoint_every=2)
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000008",
    ]


def test_a_checkpoint_brings_back_weights_and_moments(tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        weights = {"a": torch.nn.Parameter(torch.randn(3, 2)), "b": torch.nn.Parameter(torch.randn(5))}
        return weights, torch.optim.AdamW(
            [{"params": [weights["a"]]}, {"params": [weights["b"]], "weight_decay": 0.0}], lr=0.1
        )

    def step(weights, optimiser, scale):
        for p in weights.values():
            p.grad = torch.full_like(p, scale)
        optimiser.step()

    weights, optimiser = make(0)
    for scale in (1.0, 0.5):
        step(weights, optimiser, scale)
    run = {"settings": {"target_modules": ("a", "b")}}
    Checkpoints(tmp_path, run).save(2, weights, optimiser, [3.0, 1 / 3])
    others, fresh = make(1)
    assert Checkpoints(tmp_path, run).load(others, fresh) == (2, [3.0, 1 / 3])
    for each in ((weights, optimiser), (others, fresh)):
        step(*each, 0.25)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    with pytest.raises(TrainingError, match="other settings"):
        Checkpoints(tmp_path, {"settings": {}}).load(others, fresh)
    Checkpoints(tmp_path, run).clear()
    assert Checkpoints(tmp_path, run).load(others, fresh) == (0, [])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("No space left")])
@pytest.mark.parametrize("file", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_checkpoint_that_finds_no_space_leaves_the_one_before(tmp_path, beside, trained, monkeypatch, error, file):
    calls = []

    def save(tensors, path):
        calls.append(path)
        if len(calls) == 3 + file:
            Path(path).write_bytes(b"half")
            raise error
        save_file(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, "save_file", save)
        with pytest.raises(StorageError, match=r"step-00000006 .*No space left"):
            train(data(), tmp_path / "out", base=beside, settings=SETTINGS)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000003"]
    news = []
    train(data(), tmp_path / "out", base=beside, settings=SETTINGS, report=news.append)
    assert any("from step 3" in line for line in news)
    assert content(tmp_path / "out", "logs") == content(trained[0], "logs")


# the log of a run, a file of a checkpoint
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("size", "named"),
    [
        pytest.param(10, "logs", marks=pytest.mark.slow),
        pytest.param(300, "logs", marks=pytest.mark.slow),
        (7000, "step-00000003"),
    ],
)
def test_a_disk_that_really_takes_no_more_is_told(tmp_path, beside, trained, size, named):
    out = tmp_path / "out"
    with files_of_at_most(size), pytest.raises(StorageError, match=f"{named} could not be written.*too large"):
        train(data(), out, base=beside, settings=SETTINGS)
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("step-*"))
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out, "logs") == content(trained[0], "logs")


def test_the_checkpoints_have_no_pickle_either(halfway):
    found = {path.name for path in (halfway / "out" / "checkpoints").rglob("*") if path.is_file()}
    assert found == set(FILES)
