"""Everything that a request calls fails once, at every call of a run: who suffers, and what is left behind."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.cache import TokenForest
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.engine.detokenizer import StopChecker, TextStream
from langchain_saffron.engine.handle import Handle
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.errors import SaffronError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import saffron
from langchain_saffron.search.budget import BudgetMeter
from unit_tests.tiny_models import PROMPTS, random_model, random_prm, random_reward_model, tiny_tokenizer

REQUESTS = [
    (PROMPTS[2], SearchSettings(width=2, max_tokens=3, min_tokens=3)),
    (PROMPTS[5], SearchSettings(search="greedy", max_tokens=3, min_tokens=3)),
    (PROMPTS[8], SearchSettings(search="best_of_n", width=2, max_tokens=2, min_tokens=2, seed=1)),
]
POINTS: dict[str, tuple[Any, str]] = {
    "a forward": (TrieDecoder, "forward"),
    "its cost": (TrieDecoder, "cost"),
    "the pool's growth or a write": (KeyValuePool, "layer"),
    "an insert": (TokenForest, "insert"),
    "a prompt that is kept": (TokenForest, "keep"),
    "the frontier": (RequestCache, "expand"),
    "what is missing": (RequestCache, "missing"),
    "the closing": (RequestCache, "close"),
    "a selection": (saffron, "select"),
    "a budget's answer": (BudgetMeter, "affords"),
    "a budget's book": (BudgetMeter, "book"),
    "the detokenizer": (TextStream, "push"),
    "its end": (TextStream, "finish"),
    "a look for stop strings": (StopChecker, "__call__"),
    "an event": (Handle, "put"),
}


class Panic(BaseException):
    """What no `except Exception` catches."""


def failing_once(original: Callable[..., Any], at: int, error: BaseException) -> tuple[Callable[..., Any], list[int]]:
    """`original`, whose call number `at` raises; and how often it was called."""
    calls = [0]

    def call(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise error
        return original(*arguments, **named)

    return call, calls


def answers(engine: SaffronEngine) -> list[list[int] | BaseException]:
    """Of all requests, which begin in one step."""
    began, release = threading.Event(), threading.Event()
    blocker = threading.Thread(target=lambda: engine.call(lambda: (began.set(), release.wait(60))))
    blocker.start()
    assert began.wait(60)
    handles = [engine.submit(prompt, settings=settings, timeout=60) for prompt, settings in REQUESTS]
    release.set()
    blocker.join(60)
    found: list[list[int] | BaseException] = []
    for handle in handles:
        try:
            found.append(handle.result().token_ids)
        except BaseException as error:
            found.append(error)
    return found


def held(engine: SaffronEngine) -> int:
    decoders = engine.scheduler._decoders.values()
    return engine.call(lambda: sum(d.forest.capacity - d.forest.available for d in decoders))


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    return SaffronEngine(
        random_model("llama"), tiny_tokenizer(), random_reward_model(shift=2.0), process_reward_model=random_prm()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "panics"),
    [*((point, False) for point in POINTS), *((point, True) for point in ("a forward", "an insert", "an event"))],
)
def test_it_fails_once_at_every_call(engine, monkeypatch, point, panics):
    owner, name = POINTS[point]
    expected = answers(engine)
    assert all(isinstance(one, list) for one in expected)
    for at in range(1, 400):
        engine.call(lambda: [decoder.clear() for decoder in engine.scheduler._decoders.values()])
        error = Panic("injected") if panics else RuntimeError("injected")
        with monkeypatch.context() as patched:
            fails, calls = failing_once(getattr(owner, name), at, error)
            patched.setattr(owner, name, fails)
            found = answers(engine)
        failed = [one for one in found if isinstance(one, BaseException)]
        assert all(isinstance(one, SaffronError) for one in failed), failed
        assert [one for one in found if isinstance(one, list)] == [
            wanted for wanted, one in zip(expected, found, strict=True) if isinstance(one, list)
        ]
        # what is shared is tried for each alone, and everything else belongs to one request
        assert len(failed) <= 1, (at, failed)
        assert held(engine) == 0
        if calls[0] < at:
            break
    assert 1 < at < 399
    assert answers(engine) == expected


@pytest.mark.slow
def test_a_tokenizer_that_fails_once_at_every_call(engine, monkeypatch):
    expected = answers(engine)
    for at in range(1, 200):
        with monkeypatch.context() as patched:
            fails, calls = failing_once(engine.tokenizer.decode, at, RuntimeError("injected"))
            patched.setattr(engine.tokenizer, "decode", fails)
            found = answers(engine)
        failed = [one for one in found if isinstance(one, BaseException)]
        assert len(failed) <= 1
        assert all(isinstance(one, SaffronError) for one in failed)
        assert held(engine) == 0
        if calls[0] < at:
            break
    assert 1 < at < 199
    assert answers(engine) == expected
