"""Grammars that take long to compile: bounded in time and memory, and nobody else waits for them."""

import asyncio
import threading
import time

import pytest

from langchain_saffron import SearchSettings
from langchain_saffron.errors import GrammarError, RequestTimeoutError
from langchain_saffron.grammar import Grammar, trial
from langchain_saffron.grammar.compiler import GrammarCompiler
from unit_tests.families import VOCABULARY
from unit_tests.tiny_models import PROMPTS, random_engine, tiny_tokenizer


def intersections(count: int) -> Grammar:
    """Whether a text fits all of them takes exponential time to tell."""
    patterns = [{"type": "string", "pattern": f"(a|b)*{'ab'[i % 2]}(a|b){{{i}}}$"} for i in range(count)]
    return Grammar.json_schema({"type": "object", "properties": {"a": {"allOf": patterns}}, "required": ["a"]})


def compiler() -> GrammarCompiler:
    return GrammarCompiler(tiny_tokenizer(), VOCABULARY, [2])


@pytest.mark.slow
def test_a_grammar_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr("langchain_saffron.grammar.compiler.SECONDS", 1.5)
    began = time.monotonic()
    with pytest.raises(GrammarError, match=r"the JSON schema takes more than 1\.5 seconds or 2 GB to compile"):
        compiler().compile(intersections(40))
    assert time.monotonic() - began < 10


def test_its_timeout_ends_it_and_others_do_not_wait():
    one, errors = compiler(), []

    def ask() -> None:
        try:
            one.compile(intersections(40), timeout=4.0)
        except RequestTimeoutError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert one.compile(Grammar.regex("a|b"))
    assert time.monotonic() - began < 3.5
    assert not errors
    for thread in threads:
        thread.join(30)
    assert [str(error).split(":")[0] for error in errors] == [
        "the request ran into its timeout while its grammar was compiled"
    ] * 2
    assert one._begun == {}


@pytest.mark.slow
def test_too_much_memory_is_the_same(monkeypatch):
    monkeypatch.setattr(trial, "GIGABYTES", 1)
    monkeypatch.setattr("langchain_saffron.grammar.compiler.SECONDS", 60.0)
    with pytest.raises(GrammarError, match="1 GB to compile"):
        compiler().compile(intersections(28))


def test_patterns_that_can_be_joined_still_are():
    schema = {"allOf": [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "b$"}]}
    matcher = compiler().compile(Grammar.json_schema(schema))
    assert matcher.accepts('"a b"')
    assert not matcher.accepts('"b"')


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ('{"allOf": [{"pattern": "a"}, {"pattern" : "b"}]}', True),
        ('{"patternProperties": {"a": {}}}', True),
        ('{"properties": {"x": {"pattern": "a"}, "y": {"pattern": "b"}}}', False),
        ('{"$ref": "#/$defs/a", "pattern": "a"}', False),
    ],
)
def test_only_what_may_take_long_is_tried(source, needed):
    assert trial.needs_trial(source) is needed


def test_many_threads_get_one_grammar():
    one = compiler()
    grammar = Grammar.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    found = []
    threads = [threading.Thread(target=lambda: found.append(one.compile(grammar))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert all(matcher.accepts('{"a": 12}') for matcher in found)


def test_the_event_loop_goes_on_meanwhile():
    engine = random_engine("llama")
    greedy = SearchSettings(search="greedy")
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        with pytest.raises(TimeoutError, match="grammar"):
            async for _ in engine.astream(PROMPTS[0], settings=greedy, grammar=intersections(40), timeout=2.0):
                pass
        ticking.cancel()

    asyncio.run(main())
    assert len(gaps) > 20
    assert max(gaps) < 1.0
    engine.close()
