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


def test_a_guard_that_labels_tokens_takes_no_adapter(capsys):
    assert main(["models", "Qwen/Qwen3-0.6B"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  Qwen/Qwen3Guard-")]
    assert {line.endswith("the adapter is on the policy)") for line in lines if "-Stream-" in line} == {True}
    assert {line.endswith("the adapter is on the policy)") for line in lines if "-Gen-" in line} == {False}


def test_without_a_policy_the_guards_are_listed(capsys):
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(GUARDS)
    assert sum(line.startswith("Qwen/Qwen3Guard-Stream-") and line.endswith(", labels tokens") for line in lines) == 2


@pytest.mark.parametrize("policy", ["./nothing", "nothing.gguf"])
def test_a_path_that_is_not_there_is_one_line(policy, capsys):
    assert main(["models", policy]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
