"""Finished trainings that go on with more epochs."""

import json
import shutil

import pytest

from langchain_saffron import MultifurcationRewardModel
from langchain_saffron.errors import TrainingError
from langchain_saffron.training import export
from langchain_saffron.training import train as train_module
from langchain_saffron.training.checkpoints import Checkpoints
from langchain_saffron.training.dataset import RewardData, plan_batches
from langchain_saffron.training.train import train
from unit_tests.disks import content
from unit_tests.training.runs import PEFT_WARNINGS, SETTINGS, STEPS, Stop, data, one_by_one

pytestmark = [PEFT_WARNINGS, pytest.mark.slow]

MORE = SETTINGS.model_copy(update={"epochs": 4})


@pytest.fixture
def finished(tmp_path, trained, beside):
    """A copy of the finished run, beside its base."""
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    return out


def losses(directory):
    return [json.loads(line)["loss"] for line in (directory / "losses.jsonl").read_text().splitlines()]


def without_logs(directory):
    return {name: found for name, found in content(directory).items() if not str(name).startswith("logs")}


def test_more_epochs_go_on_where_it_ended(finished, trained, beside):
    told = []
    before = MultifurcationRewardModel.from_pretrained(finished)
    figures = train(data(), finished, base=beside, settings=MORE, report=told.append)
    assert told == ["going on after 2 of 4 epochs, with a new learning-rate schedule"]
    assert losses(finished)[:STEPS] == losses(trained[0])
    assert len(losses(finished)) == 2 * STEPS
    # the first new step is on the third epoch's first batch, with the weights that were there
    kept, _ = data().split(0.2, 0)
    batch = [kept.samples[i] for i in plan_batches(kept, SETTINGS.batch_size, 4, SETTINGS.seed)[STEPS]]
    wanted, found = one_by_one(before, RewardData(batch, {}))
    assert losses(finished)[STEPS] == pytest.approx(((wanted - found) ** 2).mean(), rel=1e-3)
    assert figures["mse"] < trained[1]["mse"]
    training = MultifurcationRewardModel.from_pretrained(finished).details["training"]
    assert training["run"]["settings"]["epochs"] == 4
    assert training["continued_after"] == [2]
    # once more is no more, and then it goes on again
    after = without_logs(finished)
    assert train(data(), finished, base=beside, settings=MORE, report=told.append) == figures
    assert "already trained" in told[-1]
    assert without_logs(finished) == after
    train(data(), finished, base=beside, settings=MORE.model_copy(update={"epochs": 5}))
    config = json.loads((finished / "mrm_config.json").read_text(encoding="utf-8"))
    assert config["training"]["continued_after"] == [2, 4]


def test_a_continued_run_that_is_killed_ends_the_same(finished, trained, beside, tmp_path):
    def stop(step, steps, loss):
        assert steps == STEPS
        if step == STEPS:
            raise Stop

    whole = tmp_path / "whole"
    shutil.copytree(finished, whole)
    train(data(), whole, base=beside, settings=MORE)
    with pytest.raises(Stop):
        train(data(), finished, base=beside, settings=MORE, progress=stop)
    # what was finished is still there until the rest is
    assert json.loads((finished / "mrm_config.json").read_text())["training"]["held_out"] == trained[1]
    told = []
    train(data(), finished, base=beside, settings=MORE, report=told.append)
    assert "going on from step 9 of 10" in told[-1]
    assert without_logs(finished) == without_logs(whole)


def killed_at(monkeypatch, finished, beside, where, name):
    """Go on, and be killed when `where.name` is called."""

    def stop(*arguments, **options):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(where, name, stop)
        with pytest.raises(Stop):
            train(data(), finished, base=beside, settings=MORE)


def test_a_run_that_is_killed_while_it_is_written_ends_the_same(finished, beside, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    shutil.copytree(finished, whole)
    figures = train(data(), whole, base=beside, settings=MORE)
    # the losses are there, and no weights
    killed_at(monkeypatch, finished, beside, train_module, "write_mrm")
    assert len(losses(finished)) == 2 * STEPS
    # the weights are staged, and only some of them in place
    move = export.os.replace

    def replace(source, target):
        if target.name == "mrm_config.json" and target.parent == finished:
            raise Stop
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(export.os, "replace", replace)
        with pytest.raises(Stop):
            train(data(), finished, base=beside, settings=MORE)
    assert json.loads((finished / "mrm_config.json").read_text())["training"]["run"]["settings"]["epochs"] == 2
    assert (finished / "mrm.safetensors").read_bytes() == (whole / "mrm.safetensors").read_bytes()
    told = []
    assert train(data(), finished, base=beside, settings=MORE, report=told.append) == figures
    assert "already trained" in told[0]
    assert without_logs(finished) == without_logs(whole)


def test_checkpoints_that_a_finished_run_left_are_no_other_run_s(finished, beside, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    shutil.copytree(finished, whole)
    killed_at(monkeypatch, finished, beside, Checkpoints, "clear")
    assert list((finished / "checkpoints").iterdir())
    for out in (whole, finished):
        for epochs in (4, 5):
            train(data(), out, base=beside, settings=MORE.model_copy(update={"epochs": epochs}))
    assert without_logs(finished) == without_logs(whole)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epochs": 1}, "trained for 2 epochs already"),
        ({"epochs": 4, "rank": 2}, "another reward model"),
        ({"epochs": 4, "seed": 1}, "another reward model"),
    ],
)
def test_nothing_else_goes_on(finished, beside, changes, complaint):
    before = content(finished)
    with pytest.raises(TrainingError, match=complaint):
        train(data(), finished, base=beside, settings=SETTINGS.model_copy(update=changes))
    with pytest.raises(TrainingError, match="another reward model"):
        train(data(seed=5), finished, base=beside, settings=MORE)
    assert content(finished) == before


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "mrm.safetensors", "losses.jsonl"])
def test_a_damaged_one_is_told(finished, beside, name):
    (finished / name).write_bytes(b"{}")
    with pytest.raises(TrainingError, match=r"cannot go on, it is damaged .*another --out"):
        train(data(), finished, base=beside, settings=MORE)
