"""Which guards share a policy's vocabulary: compared where both are here, else by tokens or by name."""

import re

import pytest

from langchain_saffron.embedded import KITCHEN, SMOLLM2
from langchain_saffron.errors import ModelNotFoundError
from langchain_saffron.models import known_guards
from langchain_saffron.models.known_guards import GUARDS, VOCABULARIES, Vocabulary, matching_guards
from langchain_saffron.templates.guard_prompt import preset_of
from unit_tests.builders import byte_level_tokenizer

QWEN_GUARDS = [f"Qwen/Qwen3Guard-{kind}-{size}B" for kind in ("Gen", "Stream") for size in ("0.6", "4")]


def sharing(policy):
    family, matches = matching_guards(policy)
    return family, [match.guard.id for match in matches if match.shared]


@pytest.mark.parametrize(
    ("policy", "family", "guards"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "Llama 3", ["meta-llama/Llama-Guard-3-1B", "meta-llama/Llama-Guard-3-8B"]),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen 2 and 3", QWEN_GUARDS),
        ("Qwen/Qwen3.5-4B", None, []),
        ("google/gemma-2-2b-it", "Gemma 1 and 2", ["google/shieldgemma-2b", "google/shieldgemma-9b"]),
        ("google/gemma-3-1b-it", "Gemma 3", []),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral v3", ["allenai/wildguard"]),
        ("some/model", None, []),
    ],
)
def test_a_policy_on_the_hub_is_told_by_its_name(policy, family, guards):
    assert sharing(policy) == (family, guards)


def test_what_is_here_is_compared():
    for policy in ("kitchen", str(KITCHEN / "policy")):
        matches = matching_guards(policy)[1]
        assert (matches[0].guard.id, matches[0].shared, matches[0].evidence) == ("kitchen", True, "compared")
        assert not any(match.shared for match in matches[1:])


def test_a_vocabulary_is_told_by_its_tokens(tmp_path, monkeypatch):
    tokenizer = byte_level_tokenizer(340)
    tokenizer.save_pretrained(tmp_path / "renamed")
    token, index = next(iter(tokenizer.get_vocab().items()))
    known = Vocabulary("Llama 3", re.compile("(?!)"), {token: index})
    monkeypatch.setattr(known_guards, "VOCABULARIES", (known, *VOCABULARIES))
    _, matches = matching_guards(str(tmp_path / "renamed"))
    assert {match.evidence for match in matches if match.shared} == {"tokens"}
    assert {match.guard.vocabulary for match in matches if match.shared} == {"Llama 3"}


def test_a_path_that_is_not_there_is_an_error():
    for missing in ("./nothing", "/no/where", "policy.gguf"):
        with pytest.raises(ModelNotFoundError):
            matching_guards(missing)


def test_every_guard_has_a_vocabulary_and_a_way_to_be_asked():
    names = {one.name for one in VOCABULARIES}
    for guard in GUARDS:
        assert guard.vocabulary in names
        assert next(one.name for one in VOCABULARIES if one.models.search(guard.id)) == guard.vocabulary
        # one that labels tokens is asked no question
        asked = guard.id not in ("kitchen", "smollm2") and not guard.labels_tokens
        assert not asked or preset_of(guard.id) is not None


def test_commands_name_policy_and_guard():
    _, matches = matching_guards(str(SMOLLM2 / "policy"))
    assert all(str(SMOLLM2 / "policy") in match.command and match.guard.id in match.command for match in matches)
    (endpoint,) = [match for match in matches if match.guard.endpoint]
    assert "--guard http://" in endpoint.command
