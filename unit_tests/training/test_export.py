"""The directory of a trained reward model: its files, its card, and places that hold something else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from langchain_saffron import MultifurcationRewardModel
from langchain_saffron.errors import TrainingError
from langchain_saffron.models.mrm_quality import RewardModelWarning
from langchain_saffron.training.calibration import plot_agreement
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.train import train
from unit_tests.disks import content
from unit_tests.tiny_models import VOCABULARY
from unit_tests.training.runs import PEFT_WARNINGS, SETTINGS, data, samples

pytestmark = PEFT_WARNINGS


def strings(value):
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def test_the_directory_has_no_pickle_and_no_absolute_path(trained):
    out, _ = trained
    assert set(content(out, "logs")) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "held_out.png",
        "losses.jsonl",
        "mrm.safetensors",
        "mrm_config.json",
    }
    assert not [path for path in out.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")]
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:2] not in (b"\x80\x04", b"\x80\x02", b"PK")
    for path in out.rglob("*.json"):
        parsed = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert not [text for text in strings(parsed) if text.startswith(("/", "~")) or str(out.parent) in text]
    for name in ("README.md", "mrm_config.json", "adapter_config.json"):
        assert "../base" in (out / name).read_text()
        assert str(out.parent) not in (out / name).read_text()


def test_the_directory_may_move_with_its_base(tmp_path, trained):
    shutil.copytree(trained[0].parent, tmp_path / "elsewhere")
    moved = MultifurcationRewardModel.from_pretrained(tmp_path / "elsewhere" / trained[0].name)
    stayed = MultifurcationRewardModel.from_pretrained(trained[0])
    assert torch.equal(moved.rewards([5, 6, 7]), stayed.rewards([5, 6, 7]))


def test_a_base_elsewhere_is_found_all_the_same(tmp_path, base):
    out = tmp_path / "deep" / "out"
    train(data(), out, base=base, settings=SETTINGS)
    shutil.move(out, tmp_path / "moved")
    mrm = MultifurcationRewardModel.from_pretrained(tmp_path / "moved")
    assert Path(mrm.details["base_model"]) == base.resolve()


def test_the_model_card_has_the_figures(trained):
    out, figures = trained
    card = (out / "README.md").read_text()
    config = json.loads((out / "mrm_config.json").read_text())["training"]
    for text in (
        f"| prefixes | {figures['rewards']:,} |",
        f"| Pearson r | {figures['pearson_r']:.4f} |",
        f"| within ±1 | {100 * figures['within_1']:.1f}% |",
        f"| AUC, safe against unsafe | {figures['auc']:.4f} |",
        f"| mean squared error | {figures['mse']:.4f} |",
        f"`safety_threshold` is {figures['safety_threshold']:.3f}",
        "80% of the held-out prefixes",
        "held_out.png",
        "base_model: ../base",
        "2 epoch(s)",
    ):
        assert text in card
    rows = [line for line in card.splitlines() if " to " in line and line.startswith("| ")]
    assert len(rows) == len(figures["by_bin"])
    kept, _ = data().split(0.2, 0)
    assert config["rewards"] == sum(len(sample.token_ids) - 3 for sample in kept.samples)
    # rank 4 of q (32 by 32) and v (32 by 16) in two layers, and the bias
    assert config["trained_parameters"] == 2 * 4 * (64 + 48) + VOCABULARY
    assert (config["vocabulary"], config["seen_tokens"]) == (VOCABULARY, int(kept.seen(VOCABULARY).sum()))


def test_without_a_threshold_the_card_says_so(tmp_path, beside):
    safe = [Sample(s.record, s.token_ids, np.abs(s.rewards)) for s in samples(8)]
    with pytest.warns(RewardModelWarning, match="no safety threshold"):
        figures = train(RewardData(safe, {}), tmp_path / "out", base=beside, settings=SETTINGS)
    assert figures["safety_threshold"] is None
    assert "No `safety_threshold` could be calibrated" in (tmp_path / "out" / "README.md").read_text()
    assert MultifurcationRewardModel.from_pretrained(tmp_path / "out").safety_threshold is None


def test_the_plot_is_a_png_and_the_same_each_time(tmp_path, trained):
    wanted, found = np.random.default_rng(0).normal(size=(2, 50))
    for name in ("one.png", "two.png"):
        plot_agreement(tmp_path / name, wanted, found, "a title")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (trained[0] / "held_out.png").read_bytes().startswith(b"\x89PNG")
    plot_agreement(tmp_path / "one.png", np.ones(3), np.ones(3), "constant")


def test_a_place_that_holds_something_else_is_left_alone(tmp_path, beside, trained):
    (tmp_path / "file").write_text("mine")
    published = tmp_path / "published"
    published.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(trained[0] / name, published)
    torch.save(torch.zeros(VOCABULARY), published / "lm_head_bias.pt")
    for out in (tmp_path / "file", beside, published):
        before = content(out) if out.is_dir() else out.read_text()
        with pytest.raises(TrainingError, match=str(out)):
            train(data(), out, base=beside, settings=SETTINGS)
        assert (content(out) if out.is_dir() else out.read_text()) == before


def test_folders_that_were_there_before_stay(tmp_path, beside):
    out = tmp_path / "out"
    for name in ("mrm/model.safetensors", "checkpoints/mine/notes.txt", "logs/notes.txt"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
    before = content(out)
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out).items() >= before.items()
    assert not list((out / "checkpoints").glob("step-*"))
