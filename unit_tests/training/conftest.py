"""Bases, finished runs and annotations."""

import json
import shutil

import pytest

from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.settings import AnnotateSettings
from langchain_saffron.training.train import train
from unit_tests.disks import content
from unit_tests.training.annotations import QUESTION, save_guard
from unit_tests.training.runs import SETTINGS, cut_short, data, function_prm, save_base


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("models") / "base", num_hidden_layers=2)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, base):
    """A finished run, and what it returned; nobody writes into it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    shutil.copytree(base, out.parent / "base")
    before = content(out.parent / "base")
    figures = train(data(), out, base=out.parent / "base", settings=SETTINGS)
    assert content(out.parent / "base") == before
    return out, figures


@pytest.fixture
def beside(tmp_path, base):
    """A copy of the base, so that runs beside it name it as the finished one does."""
    shutil.copytree(base, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def annotated(tmp_path):
    records = [{"prompt": f"question {i}", "response": f"answer {i}, {'and so on' * (i % 3)}"} for i in range(10)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    annotate(Corpus.open(path), function_prm(), tmp_path / "rewards", AnnotateSettings(shard_size=4))
    return tmp_path / "rewards"


@pytest.fixture(scope="session")
def halfway(tmp_path_factory, base):
    """A directory with a base and a run that was cut short after its second checkpoint."""
    directory = tmp_path_factory.mktemp("halfway")
    shutil.copytree(base, directory / "base")
    cut_short(directory / "out", directory / "base")
    assert sorted(path.name for path in (directory / "out" / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000006",
    ]
    return directory


@pytest.fixture(scope="session")
def guard(tmp_path_factory):
    return save_guard(tmp_path_factory.mktemp("models") / "guard")


@pytest.fixture(scope="session")
def prm(guard):
    return ProcessRewardModel.from_pretrained(str(guard), QUESTION)
