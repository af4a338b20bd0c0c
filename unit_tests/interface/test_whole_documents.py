"""Documents of random classes under a policy of random weights: whole before `max_tokens` wherever one fits into it.

`SAFFRON_ALL_CLASSES=1` tries 500 classes in place of 24.
"""

import json
import os
from typing import Any

import pytest
import torch

from langchain_saffron import ChatSaffron, MultifurcationRewardModel, SaffronEngine
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.interface.response_format import schema_of
from langchain_saffron.tools import tool_request
from langchain_saffron.tools.request import closed_schema
from unit_tests.builders import CHATML, byte_level_tokenizer
from unit_tests.class_models import ClassMaker
from unit_tests.tiny_models import random_model

KINDS: list[dict[str, Any]] = [
    {"effort": "off"}, {"search": "sample", "temperature": 1.0, "seed": 1}, {"width": 3},
    {"width": 2, "temperature": 1.0, "seed": 2, "commit_lag": 3},
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    tokenizer = byte_level_tokenizer(vocab_size=400)
    shape = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(len(tokenizer), generator=generator) < 0.9
    bias = torch.randn(len(tokenizer), generator=generator) + 2
    rewards = MultifurcationRewardModel(random_model("llama", 1, **shape), tokenizer, bias, seen)
    return SaffronEngine(random_model("llama", **shape), tokenizer, rewards)


def compiler_of(engine: SaffronEngine) -> GrammarCompiler:
    """Grammars in an engine's tokens."""
    return GrammarCompiler(engine.tokenizer, len(engine.tokenizer), [engine.tokenizer.eos_token_id])


def written(engine: SaffronEngine, seed: int, max_tokens: int) -> bool:
    """Write a document of the class of a seed; whether one fits into `max_tokens`, and if so it has to be right."""
    made = ClassMaker(seed).make()
    chat = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=max_tokens, **KINDS[seed % len(KINDS)])
    matcher = compiler_of(engine).compile(Grammar.json_schema(closed_schema(schema_of(made))))
    shortest = matcher.shortest()
    assert shortest is not None, "every class has a document"
    assert matcher.accepts(engine.tokenizer.decode(shortest))
    answer = chat.with_structured_output(made, include_raw=True).invoke("Hello!")
    if answer["raw"].response_metadata["finish_reason"] == "length":
        # chance may find tokens for less than the shortest form that is known, such as a UUID of zeros
        assert len(shortest) > max_tokens, f"seed {seed}: {answer['raw'].text}"
        return False
    assert answer["parsing_error"] is None, f"seed {seed}: {answer['raw'].text}"
    assert isinstance(answer["parsed"], made)
    return True


def test_documents_are_whole(engine: SaffronEngine):
    assert sum(written(engine, seed, 160) for seed in range(12)) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [64, 512])
@pytest.mark.parametrize("part", range(10 if os.environ.get("SAFFRON_ALL_CLASSES") else 1))
def test_many_documents_are_whole(engine: SaffronEngine, max_tokens: int, part: int):
    count = 50 if os.environ.get("SAFFRON_ALL_CLASSES") else 24
    assert sum(written(engine, seed, max_tokens) for seed in range(50 * part, 50 * part + count)) >= 0.8 * count


def test_nothing_is_computed_where_there_is_room(engine: SaffronEngine, monkeypatch: pytest.MonkeyPatch):
    """Ends are looked for when tokens run short, and not before."""
    from langchain_saffron.grammar.answer_closing import AnswerCloser

    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    asked: list[bytes] = []
    ends = AnswerCloser.ends
    monkeypatch.setattr(AnswerCloser, "ends", lambda self, text: asked.append(text) or ends(self, text))
    chat = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=500, effort="off")
    assert json.loads(chat.invoke("Hello!", response_format=schema).text)["a"] in ("x", "y")
    assert asked in ([], [b""])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_forced_call_ends(engine: SaffronEngine, kind: dict[str, Any]):
    def search(query: str, filters: list[str] | None = None, limit: float = 3.0) -> str:
        """Search."""
        return query

    chat = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=200, tool_format="hermes", **kind)
    message = chat.bind_tools([search], tool_choice="search").invoke("Hello!")
    assert not message.invalid_tool_calls
    assert message.tool_calls[0]["name"] == "search"
    assert isinstance(message.tool_calls[0]["args"]["query"], str)
    assert message.response_metadata["finish_reason"] == "stop"
    assert tool_request([search]).tools


def test_where_no_document_fits_the_finish_reason_says_so(engine: SaffronEngine):
    chat = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=5, effort="off")
    schema = {"type": "string", "minLength": 300}
    message = chat.invoke("Hello!", response_format=schema)
    assert message.response_metadata["finish_reason"] == "length"
