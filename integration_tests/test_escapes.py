"""Some thousand of the attempts of `escapes.py`, on small tokenizers and templates, and that these would be noticed."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from integration_tests.escapes import Attack, run
from langchain_saffron.templates.safe_encoder import replace_surrogates
from unit_tests import builders, call_templates, thought_templates, tool_templates
from unit_tests.builders import CHATML, LLAMA3, byte_level_tokenizer
from unit_tests.prompt_cases import TEMPLATES, TOKENIZERS

CHANGING = re.compile("editing|unigram|calls (marked|own)")
CONTROLS = (*tool_templates.CONTROLS, *call_templates.MARKERS, *thought_templates.CONTROLS)


def rich_tokenizer(template: str) -> Any:
    """One that knows the markers of all templates."""
    markers = tuple(AddedToken(one, normalized=False, special=True) for one in dict.fromkeys(CONTROLS))
    return byte_level_tokenizer(600, template, extra_tokens=(*markers, "<ponder>", "</ponder>"))


def normalizing_tokenizer(template: str) -> Any:
    """One by which look-alikes of markers become these (NFKC), and which finds some of them only then."""
    normal = tuple(AddedToken(one, normalized=True) for one in ("<|normal|>", "<|im_sep|>"))
    made = byte_level_tokenizer(600, extra_tokens=normal)
    config = json.loads(made.backend_tokenizer.to_str())
    config["normalizer"] = {"type": "NFKC"}
    backend = Tokenizer.from_str(json.dumps(config))
    tokenizer = type(made)(tokenizer_object=backend, bos_token=made.bos_token, eos_token=made.eos_token)
    tokenizer.chat_template = template
    return tokenizer


def of_templates() -> Iterator[tuple[str, Attack]]:
    """Every small template, with a tokenizer that knows all markers."""
    templates = {
        "thinking": builders.THINKING,
        "tools": builders.TOOLS,
        **{name: getattr(tool_templates, name) for name in ("QWEN25", "QWEN3", "LLAMA31", "HERMES3", "MISTRAL_TOOLS")},
        **{f"thoughts {name}": getattr(thought_templates, name) for name in ("HARMONY", "HEADER", "PARTS", "CHANNEL")},
        **{f"thoughts {name}": getattr(thought_templates, name) for name in ("CUT", "OWN")},
        **{f"calls {name}": template for name, template in call_templates.FAMILIES.items()},
    }
    for seed, (name, template) in enumerate(templates.items()):
        yield name, Attack(rich_tokenizer(template), template, seed, hermes=seed % 4 == 0)


def of_tokenizers() -> Iterator[tuple[str, Attack]]:
    """Every small tokenizer, with one template or another. Where characters are unknown, nothing can be compared."""
    known = [(name, make) for name, make in TOKENIZERS.items() if "unknown" not in name]
    for seed, (name, make) in enumerate(known):
        for kind, template in list(TEMPLATES.items())[seed % 2 :: 2]:
            yield f"{name} {kind}", Attack(make(chat_template=template), template, seed, hermes=seed % 2 == 0)
    yield "NFKC", Attack(normalizing_tokenizer(CHATML), CHATML, 200, hermes=True)


@pytest.mark.filterwarnings("ignore:chat_template_kwargs", "ignore:this model's chat template ends")
@pytest.mark.parametrize("attacks", [of_templates, of_tokenizers])
def test_no_text_becomes_a_control_token(attacks: Callable[[], Iterator[tuple[str, Attack]]]):
    found = run(attacks(), attempts=100_000, each=2)
    assert found["escapes"] == 0, found["examples"]
    assert found["refused"] == 0, found["examples"]
    # what stands for bytes may be written as text (unigram), and some templates look at what is said, or edit it
    others = {place for place in found["examples"].get("otherwise", {}) if not CHANGING.search(place)}
    assert not others, found["examples"]
    assert found["attempts"] > 1500
    assert min(found["by kind"].values()) > 50


@pytest.mark.filterwarnings("ignore:chat_template_kwargs", "ignore:this model's chat template ends")
@pytest.mark.parametrize("template", [CHATML, LLAMA3, thought_templates.HARMONY])
def test_escapes_would_be_noticed(template: str, monkeypatch: pytest.MonkeyPatch):
    """With transformers' own prompts in place of ours."""
    tokenizer = rich_tokenizer(template)
    attack = Attack(tokenizer, template, 0)

    def naive(messages: Any) -> list[int]:
        roles = {"human": "user", "ai": "assistant"}
        said = [{"role": roles[one.type], "content": replace_surrogates(one.text)} for one in messages]
        return tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)

    monkeypatch.setattr(attack._renderer, "render", lambda messages, *rest, **options: _Prompt(naive(messages)))
    attack.kinds = {"adjacent": attack.kinds["adjacent"]}
    found = run(iter([("naive", attack)]), attempts=200, each=50)
    assert found["escapes"] > 100


class _Prompt:
    def __init__(self, ids: list[int]) -> None:
        self.policy_ids = self.reward_ids = ids


def test_templates_that_take_nothing_are_not_counted():
    assert not Attack(byte_level_tokenizer(), "{{ raise_exception('no') }}", 0).kinds
