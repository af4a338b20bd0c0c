"""Functions named on the command line: where they are looked for, and what is said where there is none."""

import sys
from pathlib import Path

import pytest

from langchain_saffron.cli.app import main
from langchain_saffron.cli.guards import named_function
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.errors import SettingsError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory that is not on the path, as for an installed command."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_is_found_in_the_current_directory(here: Path):
    (here / "rule_beside_me.py").write_text("from word_beside_me import WORD\ndef rule(*texts): return WORD\n")
    (here / "word_beside_me.py").write_text("WORD = 3.0\n")
    function = named_function("prm", "rule_beside_me:rule")
    assert function is not None
    assert function("", "") == 3.0


def test_what_lies_there_stands_in_for_no_library(here: Path):
    (here / "colorsys.py").write_text("raise RuntimeError('not the one')\n")
    sys.modules.pop("colorsys", None)
    assert named_function("prm", "colorsys:rgb_to_hsv") is not None


def test_a_model_is_no_function(here: Path):
    (here / "odd:name").mkdir()
    assert named_function("prm", None) is None
    assert named_function("prm", "meta-llama/Llama-Guard-3-1B") is None
    assert named_function("prm", "odd:name") is None
    assert named_function("prm", "org/guard-GGUF:guard.Q4_1.gguf") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nowhere_at_all:rule", "prm: nowhere_at_all:rule cannot be imported: ModuleNotFoundError.*current directory"),
        ("broken_rule:rule", "cannot be imported: SyntaxError"),
        ("needy_rule:rule", "cannot be imported: ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("good_rule:rle", r"there is no rle in .*good_rule\.py"),
        ("good_rule:LIMIT", "is of the type int, no function"),
        (":rule", "cannot be imported"),
    ],
)
def test_what_cannot_be_imported_is_said(here: Path, text: str, complaint: str):
    (here / "broken_rule.py").write_text("def rule(:\n")
    (here / "needy_rule.py").write_text("import nothing_like_it\n")
    (here / "good_rule.py").write_text("LIMIT = 3\ndef rule(prompt, answer): return LIMIT\n")
    with pytest.raises(SettingsError, match=complaint):
        named_function("prm", text)


@pytest.mark.slow
def test_fit_is_told_of_its_own_option_for_how_a_guard_is_asked(tmp_path, capsys):
    """Its `--guard` names the model, which that of `saffron annotate` does not."""
    (tmp_path / "prompts.txt").write_text("Hello!\n")
    # a directory: nothing asks the hub
    given = ["--guard", str(KITCHEN / "policy"), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path)]
    assert main(["fit", "kitchen", *given]) == 2
    assert "saffron: --guard-as: how is " in capsys.readouterr().err
