"""Standard streams that are closed, as services have them, or lead to a disk that is full."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_saffron.cli.app import main

PROGRAM = [sys.executable, "-m", "langchain_saffron"]


def test_what_is_written_to_a_closed_stream_is_lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["--version"]) == 0
    assert main(["no-such-command"]) == 2
    said, told = capsys.readouterr()
    assert said == ""
    assert "No such command" in told


def test_a_closed_input_is_empty(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", "-"]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' disk that is always full")
def test_a_full_disk_is_one_line_and_code_1():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "saffron: the output cannot be written: No space left on device\n"


def test_an_error_of_the_system_that_is_none_of_the_disk_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def broken(*_):
        raise ConnectionRefusedError(111, os.strerror(111))

    monkeypatch.setattr("langchain_saffron.models.known_guards.matching_guards", broken)
    with pytest.raises(ConnectionRefusedError):
        main(["models", "kitchen"])
