"""Random JSON schemas on random models: whatever is searched and however, each answer fits its schema."""

import json
import math
import os
import random
from datetime import date
from typing import Any

import jsonschema
import pytest
import torch

from langchain_saffron import MultifurcationRewardModel, SaffronEngine, SearchSettings
from langchain_saffron.grammar import Grammar
from unit_tests.builders import byte_level_tokenizer, metaspace_tokenizer
from unit_tests.tiny_models import random_model

pytestmark = pytest.mark.slow

# more, such as a thousand, by SAFFRON_SCHEMAS
SCHEMAS = int(os.environ.get("SAFFRON_SCHEMAS", "400"))
# no document that a schema allows is longer, in bytes: a token is at least one
LONGEST = 200
# each engine: the policy's family, and a tokenizer
ENGINES: dict[str, tuple[str, Any]] = {
    "llama, almost bytes": ("llama", lambda: byte_level_tokenizer(300)),
    "qwen3, byte-level": ("qwen3", lambda: byte_level_tokenizer(700, pattern=None)),
    "mistral, metaspace": ("mistral", metaspace_tokenizer),
    "gemma2, legacy metaspace": ("gemma2", lambda: metaspace_tokenizer(legacy=True)),
}
SEARCHES: list[dict[str, Any]] = [
    {"width": 1},
    {"width": 1, "temperature": 1.0, "top_p": 1.0},
    {"width": 4},
    {"width": 4, "top_p": 0.5, "commit_lag": 4, "safety_weight": 0.5},
    {"width": 4, "temperature": 1.0, "top_p": 1.0},
    {"width": 4, "ranking": "paper"},
    {"search": "greedy"},
    {"search": "sample", "temperature": 1.0, "top_p": 1.0},
]
WORDS = ["a", "id", "name", "größe", "a b", 'q"', "x/y", "value", "日", "list"]
FORMATS = jsonschema.FormatChecker([])


@FORMATS.checks("date", raises=ValueError)
def is_date(text: Any) -> bool:
    """RFC 3339 has a year 0, which Python has not; it is as long as the year 2000."""
    return not isinstance(text, str) or bool(date.fromisoformat(text.replace("0000-", "2000-", 1)))


class Schemas:
    """Random schemas of a bounded length.

    Every method returns a schema and the most bytes that a document of it can take.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.definitions: dict[str, tuple[dict[str, Any], int]] = {}

    def document(self) -> dict[str, Any]:
        """A schema with its definitions, of documents that are not too long."""
        while True:
            self.definitions = {}
            for name in self.random.sample(["item", "other"], self.random.randint(0, 2)):
                self.definitions[name] = self.value(2)
            schema, longest = self.random.choice([self.record, self.record, self.record, self.value])(3)
            if longest <= LONGEST:
                break
        if self.definitions:
            schema = {**schema, "$defs": {name: inner for name, (inner, _) in self.definitions.items()}}
        return schema

    def value(self, depth: int) -> tuple[dict[str, Any], int]:
        leaves = [self.text, self.text, self.integer, self.number, self.choice, self.constant, self.simple]
        inner = [self.record, self.array, self.either, self.reference]
        return self.random.choice(leaves + inner if depth else leaves)(depth)

    def record(self, depth: int) -> tuple[dict[str, Any], int]:
        names = self.random.sample(WORDS, self.random.randint(0, 4))
        parts = {name: self.value(depth - 1) for name in names}
        required = [name for name in names if self.random.random() < 0.6]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: inner for name, (inner, _) in parts.items()},
            "required": required,
        }
        longest = 2 + sum(len(_dumped(name)) + 4 + size for name, (_, size) in parts.items())
        kind = self.random.choice(["closed", "closed", "full", "patterns"])
        if kind == "full" and required == names and names:
            # other names are allowed, but there is no room for them
            schema["maxProperties"] = len(names)
        else:
            schema["additionalProperties"] = False
        if kind == "patterns" and not names:
            inner, size = self.value(0)
            schema |= {"patternProperties": {"^[a-c]{1,3}$": inner}, "maxProperties": 2}
            longest += 2 * (size + 9)
        return schema, longest

    def array(self, depth: int) -> tuple[dict[str, Any], int]:
        inner, size = self.value(depth - 1)
        least = self.random.randint(0, 2)
        most = least + self.random.randint(0, 2)
        schema = {"type": "array", "items": inner, "minItems": least, "maxItems": most}
        if self.random.random() < 0.2:
            first, more = self.value(0)
            schema = {"type": "array", "prefixItems": [first, inner], "items": False, "minItems": least}
            return schema, 4 + size + more
        return schema, 2 + most * (size + 2)

    def either(self, depth: int) -> tuple[dict[str, Any], int]:
        parts = [self.value(depth - 1) for _ in range(self.random.randint(2, 3))]
        return {"anyOf": [schema for schema, _ in parts]}, max(size for _, size in parts)

    def reference(self, depth: int) -> tuple[dict[str, Any], int]:
        if not self.definitions:
            return self.simple(depth)
        name = self.random.choice(sorted(self.definitions))
        return {"$ref": f"#/$defs/{name}"}, self.definitions[name][1]

    def text(self, depth: int) -> tuple[dict[str, Any], int]:
        kind = self.random.randrange(4)
        if kind == 0:
            return {"type": "string", "format": "date"}, 12
        if kind == 1:
            pattern, size = self.random.choice(
                [("^[a-f]{1,4}$", 4), ("^(x|yy)-[0-9]{2}$", 5), ("^[A-Z][a-zäöü]?$", 3), ("^\\d{1,3}(,\\d{3})?$", 7)]
            )
            return {"type": "string", "pattern": pattern}, size + 2
        most = self.random.randint(0, 3)
        # a character may be written as two escapes
        return {"type": "string", "minLength": self.random.randint(0, most), "maxLength": most}, 2 + 12 * most

    def integer(self, depth: int) -> tuple[dict[str, Any], int]:
        low = self.random.randint(-200, 200)
        high = low + self.random.choice([0, 3, 50, 1000])
        lower = self.random.choice([{"minimum": low}, {"exclusiveMinimum": low - 1}])
        return {"type": "integer", **lower, "maximum": high}, 5

    def number(self, depth: int) -> tuple[dict[str, Any], int]:
        return {"type": "number", "minimum": -9, "maximum": 9, "multipleOf": 0.25}, 6

    def choice(self, depth: int) -> tuple[dict[str, Any], int]:
        values = self.random.sample(["red", "grün", "<tool_call>", 7, -1.5, None, True, [1, "x"], {"k": {}}], 3)
        return {"enum": values}, max(len(_dumped(value)) for value in values)

    def constant(self, depth: int) -> tuple[dict[str, Any], int]:
        value = self.random.choice(["fixed", "a\nb", 12, False, None, {"a": [1, 2]}])
        return {"const": value}, len(_dumped(value))

    def simple(self, depth: int) -> tuple[dict[str, Any], int]:
        kinds = self.random.choice(["boolean", "null", ["boolean", "null"]])
        return {"type": kinds}, 5


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def make_engine(name: str, seed: int) -> SaffronEngine:
    """Random policy and reward model; a seventh of the tokens are unseen."""
    family, make = ENGINES[name]
    tokenizer = make()
    shape = {"vocab_size": len(tokenizer) + 7, "max_position_embeddings": 2 * LONGEST, "num_hidden_layers": 1}
    if family == "gemma2":
        shape["layer_types"] = ["sliding_attention"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    policy = random_model(family, seed, eos_token_id=[end, tokenizer.eos_token_id], **shape)
    reward = random_model("llama", seed + 1, **{k: v for k, v in shape.items() if k != "layer_types"})
    generator = torch.Generator().manual_seed(seed)
    seen = torch.rand(shape["vocab_size"], generator=generator) > 1 / 7
    bias = torch.randn(shape["vocab_size"], generator=generator) + 1
    return SaffronEngine(policy, tokenizer, MultifurcationRewardModel(reward, tokenizer, bias, seen))


@pytest.mark.parametrize("name", ENGINES)
def test_every_answer_fits_its_schema(name: str):
    number = list(ENGINES).index(name)
    engine = make_engine(name, seed=10 * number)
    count = math.ceil(SCHEMAS / len(ENGINES))
    schemas = [Schemas(1000 * number + i).document() for i in range(count)]
    handles = [
        engine.submit(
            [3 + i % 50, 7, 11],
            settings=SearchSettings(**{"max_tokens": LONGEST + 2, "seed": i, **SEARCHES[i % len(SEARCHES)]}),
            grammar=Grammar.json_schema(schema),
        )
        for i, schema in enumerate(schemas)
    ]
    results = [handle.result() for handle in handles]
    assert [result.finish_reason for result in results] == ["stop"] * count
    assert not [result.text for result in results if not result.complete]
    for schema, result in zip(schemas, results, strict=True):
        validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
        validator.validate(json.loads(result.text))
    # the policies are random, so hardly any two answers are the same
    assert len({result.text for result in results}) > count / 2
    engine.close()
