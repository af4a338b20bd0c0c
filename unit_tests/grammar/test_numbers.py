"""Numbers within bounds, as regular expressions, against arithmetic with decimals."""

import re
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from langchain_saffron.grammar.numbers import ANY_INTEGER, ANY_NUMBER, number_patterns

COMPARED = {
    "minimum": lambda value, bound: value >= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "multipleOf": lambda value, bound: value % bound == 0,
}
NEAR = [Decimal(one) for one in ("0", "1", "-1", "0.1", "-0.1", "0.001", "-0.001", "0.0005", "-0.0005")]


def reads(patterns: list[str] | None, text: str) -> bool:
    assert patterns is not None
    return bool(patterns) and all(re.fullmatch(pattern, text) for pattern in patterns)


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_read_exactly_if_they_are_within_the_bounds(kind: str, seed: int):
    chance = Random(seed)
    whole = kind == "integer"
    for _ in range(150):
        schema: dict[str, Any] = {"type": kind}
        for key in [key for key in COMPARED if chance.random() < 0.35]:
            size = 10 ** chance.randint(0, 3)
            schema[key] = (
                chance.randint(-size, size) if whole else round(chance.uniform(-size, size), chance.randint(0, 3))
            )
        if "multipleOf" in schema:
            schema["multipleOf"] = chance.choice([1, 2, 5, 10] if whole else [0.01, 0.1, 1, 0.5, 0.25, 5])
        patterns = number_patterns(schema)
        bounds = {key: Decimal(str(value)) for key, value in schema.items() if key != "type"}
        values = [bound + step for key, bound in bounds.items() if key != "multipleOf" for step in NEAR]
        values += [round(Decimal(chance.uniform(-1000, 1000)), chance.randint(0, 3)) for _ in range(10)]
        for value in values:
            if whole and value != int(value):
                continue
            # as answers write it
            text = str(int(value)) if value == int(value) else format(value.normalize(), "f")
            expected = all(COMPARED[key](value, bound) for key, bound in bounds.items())
            assert reads(patterns, text) == expected, (schema, text)


def test_bounds_that_exclude_nothing_are_dropped():
    int64 = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    assert number_patterns(int64) == [ANY_INTEGER]
    assert number_patterns({"type": "number", "minimum": -1.797e308, "maximum": 1.797e308}) == [ANY_NUMBER]
    assert number_patterns({"type": "number", "exclusiveMaximum": float("inf")}) == [ANY_NUMBER]
    assert reads(number_patterns({**int64, "minimum": 0}), "17")
    assert not reads(number_patterns({**int64, "minimum": 0}), "-17")


def test_digits_end():
    for schema in (
        {"type": "number"},
        {"type": "integer"},
        {"type": "number", "minimum": 0.5},
        {"type": "number", "multipleOf": 0.5},
    ):
        patterns = number_patterns(schema)
        assert reads(patterns, "1")
        assert not reads(patterns, "1" * 40)
        assert not reads(patterns, "1." + "0" * 40)
    assert reads([ANY_NUMBER], "9" * 15 + "e289")
    assert float("9" * 15 + "e289") != float("inf")
    assert not reads([ANY_NUMBER], "1e290")
    assert reads([ANY_NUMBER], "1e+100")
    assert not reads([ANY_NUMBER], "1e999")


def test_what_has_no_number_and_what_is_beyond_digits():
    assert number_patterns({"type": "integer", "minimum": 3, "maximum": 1}) == []
    assert number_patterns({"type": "number", "exclusiveMinimum": 1, "maximum": 1}) == []
    assert number_patterns({"type": "integer", "multipleOf": 3}) is None
    assert number_patterns({"type": "integer", "minimum": 1, "exclusiveMinimum": True}) is not None
