"""Errors name what sets a field on the command line, as the commands themselves declare it."""

import os
import subprocess
import sys
import time

import pytest
import typer

from langchain_saffron.bench.report import PARTS
from langchain_saffron.cli import console
from langchain_saffron.cli.app import app
from langchain_saffron.cli.console import one_line, option_names, told_if_slow
from langchain_saffron.errors import SettingsError

NAMES = option_names(typer.main.get_command(app))


def test_every_option_goes_by_its_longest_name():
    assert NAMES["max_tflops"] == "--max-tflops"
    assert NAMES["model"] == "--model"
    assert NAMES["out"] == "--out"
    assert NAMES["as_json"] == "--json"
    assert NAMES["rescored"] == "--rescore"
    assert NAMES["on_exhausted"] == NAMES["on_budget"] == "--on-budget"
    assert NAMES["hf_token"] == "HF_TOKEN"
    # an argument is no option
    assert "prompt" not in NAMES


def test_fields_become_options_where_they_are_named():
    error = SettingsError("width: too small; pass reward_model= (not search=), see on_exhausted: it says so")
    assert one_line(error, NAMES) == (
        "--width: too small; pass --reward-model (not search=), see on_exhausted: it says so"
    )
    assert one_line(SettingsError("max_retries: x; seed: y"), NAMES) == "max_retries: x; --seed: y"
    assert one_line(SettingsError("run again, or pass skip_failed=True."), NAMES) == "run again, or pass --skip-failed."
    assert one_line(error) == str(error)
    assert one_line(ValueError("nobody expected this"), NAMES) is None


def test_what_takes_long_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(console, "SLOW", 0.2)
    with told_if_slow("loading …"):
        pass
    time.sleep(0.4)
    assert capsys.readouterr().err == ""
    with told_if_slow("loading …"):
        time.sleep(0.6)
        assert capsys.readouterr().err == "saffron: loading …\n"
    time.sleep(0.4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("command", "expected"), [("train", "PASSIVE"), ("serve", "None"), ("bench", "None")])
def test_threads_wait_passively_beside_other_programs_but_for_an_engine_s(command, expected):
    """Set before torch is imported, which reads it then; an engine gives way by itself."""
    code = (
        "import os, sys; from langchain_saffron.cli import main; assert 'torch' not in sys.modules\n"
        f"try:\n    main(['{command}', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('policy:', os.environ.get('OMP_WAIT_POLICY'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert f"policy: {expected}" in ended.stdout


def test_the_bench_names_all_of_its_parts():
    bench = typer.main.get_command(app).commands["bench"]
    (only,) = (parameter for parameter in bench.params if parameter.name == "only")
    assert all(part in only.help for part in PARTS)
