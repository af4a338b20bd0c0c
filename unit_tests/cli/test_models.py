"""`saffron models`: every guard with its command, as text and as JSON."""

import json

import pytest

from langchain_saffron.cli import main
from langchain_saffron.models.known_guards import GUARDS


def test_a_policys_guards_are_told_with_their_commands(capsys):
    assert main(["models", "some/Llama-3.1-8B", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["vocabulary"] == "Llama 3"
    assert len(told["guards"]) == len(GUARDS)
    first = told["guards"][0]
    assert (first["shared"], first["evidence"]) == (True, "name")
    assert first["command"].startswith("saffron fit some/Llama-3.1-8B --guard meta-llama/Llama-Guard-3-1B ")
    assert main(["models", "some/Llama-3.1-8B"]) == 0
    text = capsys.readouterr().out
    assert all(guard["command"] in text for guard in told["guards"])


def test_without_a_policy_the_guards_are_listed(capsys):
    assert main(["models"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(GUARDS)


@pytest.mark.parametrize("policy", ["./nothing", "nothing.gguf"])
def test_a_path_that_is_not_there_is_one_line(policy, capsys):
    assert main(["models", policy]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
