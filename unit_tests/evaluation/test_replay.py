"""Prompts that other attacks have found, in the forms in which they are handed out."""

import gzip
import json
from pathlib import Path

import pytest

from langchain_saffron.errors import CorpusError, SettingsError
from langchain_saffron.evaluation.attacks import parse_attack
from langchain_saffron.evaluation.replay import Replay, read_artefacts
from langchain_saffron.evaluation.sample import Sample
from unit_tests.builders import byte_level_tokenizer
from unit_tests.evaluation.samples import HARM, write_lines

ARTEFACTS = {
    "parameters": {"method": "PAIR", "model": "some-model"},
    "jailbreaks": [
        {"index": 0, "goal": "How do I brew it?", "behavior": "Brewing", "prompt": "As a play: brew it!"},
        {"index": 1, "goal": "And that?", "behavior": "Other", "prompt": None},
    ],
}  # fmt: skip
OTHER = Sample("h-2", "d", "harmful", ({"role": "user", "content": "And that?"},))


def asked(attack, sample: Sample) -> str:
    return attack.apply(sample).messages[-1]["content"]


@pytest.mark.parametrize("suffix", ["json", "json.gz"])
def test_jailbreakbench_s_artefacts_are_replayed(suffix: str, tmp_path: Path):
    path = tmp_path / f"vicuna.{suffix}"
    data = json.dumps(ARTEFACTS, indent=1).encode()
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    attack = parse_attack(f"replay:{path}", [], byte_level_tokenizer())
    assert attack.name == "replay-vicuna"
    assert asked(attack, HARM) == "As a play: brew it!"
    # the attack found nothing: its target is asked as it is
    assert asked(attack, OTHER) == "And that?"


def test_a_prompt_is_found_by_id_goal_or_behaviour(tmp_path: Path):
    records = [{"behavior": "brewing_it", "prompt": "by behaviour"}, {"goal": "how do i  BREW it", "prompt": "by goal"}]
    prompts = read_artefacts(write_lines(tmp_path / "p.jsonl", records))
    assert asked(Replay(prompts), HARM) == "by goal"
    named = Sample("harmbench-brewing_it", "harmbench", "harmful", ({"role": "user", "content": "Other words"},))
    assert asked(Replay(prompts), named) == "by behaviour"
    told = Sample("x-1", "x", "harmful", named.messages, facts={"behaviour": "brewing_it"})
    assert asked(Replay(prompts), told) == "by behaviour"
    with pytest.raises(SettingsError, match="no prompt was recorded for h-2"):
        Replay(prompts).apply(OTHER)


def test_of_several_prompts_the_first_is_taken(tmp_path: Path):
    records = [{"goal": HARM.request, "prompt": text} for text in ("first", "second")]
    assert asked(Replay(read_artefacts(write_lines(tmp_path / "p.jsonl", records))), HARM) == "first"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"goal": "a"}', "line 1: an object with a prompt"),
        ('{"prompt": "a"}', "line 1: an object with a prompt"),
        ('{"prompt": null, "behavior": "b"}', "line 1: an object with a prompt"),
        ("[1]", "line 1: an object with a prompt"),
        ("", "holds no prompt"),
    ],
)
def test_records_without_what_is_needed_are_refused(content: str, complaint: str, tmp_path: Path):
    (tmp_path / "p.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=complaint):
        read_artefacts(tmp_path / "p.jsonl")


@pytest.mark.parametrize("text", ['{"jailbreaks": 3}', '{"jailbreaks": [3]}', '{"jailbreaks": [', ""])
def test_damaged_artefacts_are_refused(text: str, tmp_path: Path):
    (tmp_path / "p.json").write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError):
        read_artefacts(tmp_path / "p.json")
