"""Everything that a request calls fails once, at every call of a run: who suffers, and what is left behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from langchain_saffron import ChatSaffron, SaffronEngine, SearchSettings
from langchain_saffron.cache import TokenForest, kv_pool
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.engine.handle import Handle
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.engine.stop_strings import StopChecker
from langchain_saffron.engine.text_stream import TextStream
from langchain_saffron.errors import SaffronError
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.matcher import GrammarMatcher
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.search import saffron
from langchain_saffron.search.budget import BudgetMeter
from unit_tests.builders import CHATML
from unit_tests.engine.slots import failing, held_up, slots_held
from unit_tests.engine.test_sharing_slots import engine_of
from unit_tests.tiny_models import PROMPTS, random_engine, random_model, random_prm, random_reward_model, tiny_tokenizer

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
    "the detokenizer": (TextStream, "pieces"),
    "its end": (TextStream, "last_pieces"),
    "a look for stop strings": (StopChecker, "__call__"),
    "an event": (Handle, "put"),
}


class Panic(BaseException):
    """What no `except Exception` catches."""


def answers(engine: SaffronEngine, requests: Any = REQUESTS, **options: Any) -> list[list[int] | BaseException]:
    """Of all requests, which begin in one step."""
    with held_up(engine):
        handles = [engine.submit(prompt, settings=settings, timeout=60, **options) for prompt, settings in requests]
    found: list[list[int] | BaseException] = []
    for handle in handles:
        try:
            found.append(handle.result().token_ids)
        except BaseException as error:
            found.append(error)
    return found


def fails_at_every_call(
    monkeypatch: pytest.MonkeyPatch,
    engine: SaffronEngine,
    owner: Any,
    name: str,
    ask: Callable[[], list[Any]],
    error: BaseException | None = None,
) -> int:
    """Let call 1, 2, … of `owner.name` fail until a run has none left; how many failed a request."""
    expected, struck = ask(), 0
    assert all(isinstance(one, list) for one in expected), expected
    for at in range(1, 400):
        engine.call(lambda: [decoder.clear() for decoder in engine.scheduler._decoders.values()])
        with monkeypatch.context() as patched:
            fails = failing(getattr(owner, name), at, error or RuntimeError("injected"))
            patched.setattr(owner, name, fails)
            found = ask()
        failed = [one for one in found if isinstance(one, BaseException)]
        assert all(isinstance(one, SaffronError) for one in failed), failed
        # what is shared is tried for each alone, and everything else belongs to one request
        assert len(failed) <= 1, (at, failed)
        assert all(one in failed or one == wanted for one, wanted in zip(found, expected, strict=True))
        assert slots_held(engine) == 0
        struck += len(failed)
        if fails.calls < at:
            break
    assert 1 < at < 399, "the point is never reached, or always"
    assert ask() == expected
    return struck


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
    error = Panic("injected") if panics else None
    fails_at_every_call(monkeypatch, engine, *POINTS[point], lambda: answers(engine), error)


@pytest.mark.slow
def test_a_tokenizer_that_fails_once_at_every_call(engine, monkeypatch):
    fails_at_every_call(monkeypatch, engine, engine.tokenizer, "decode", lambda: answers(engine))


def test_a_pool_that_cannot_grow_once(monkeypatch):
    engine = SaffronEngine(random_model("llama"), tiny_tokenizer(), random_reward_model(shift=2.0))
    # the first slots are enough for tiny requests, which would never let it grow
    for decoder in engine.scheduler._decoders.values():
        decoder.pool._initial = 4
        decoder.clear()

    def ask() -> list[Any]:
        return answers(engine, REQUESTS[:2])

    fails_at_every_call(monkeypatch, engine, kv_pool, "_longer", ask)
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pause", "resume"])
def test_a_pause_that_fails_once_at_every_call(monkeypatch, name):
    engine = engine_of(120, prm=True)
    asked = [
        (prompt, SearchSettings(search=search, width=width, max_tokens=6, min_tokens=6, seed=i))
        for i, prompt in enumerate(PROMPTS[:4])
        for search, width in (("saffron", 5), ("best_of_n", 3), ("greedy", 1))
    ]
    struck = fails_at_every_call(monkeypatch, engine, RequestCache, name, lambda: answers(engine, asked))
    assert struck
    engine.close()


def test_a_search_that_fails_once_while_it_becomes_narrower(monkeypatch):
    engine = engine_of(30)
    asked = [(prompt, SearchSettings(width=12, max_tokens=6, min_tokens=6, top_p=1.0)) for prompt in PROMPTS[:2]]
    struck = fails_at_every_call(monkeypatch, engine, RequestCache, "squeeze", lambda: answers(engine, asked))
    assert struck
    engine.close()


@pytest.mark.parametrize("name", ["advance", "allowed"])
def test_a_grammar_that_fails_once_at_every_call(monkeypatch, name):
    # an end token that no text needs
    engine = random_engine("qwen3", random_reward_model(shift=1.0), eos_token_id=313)
    asked = [
        (prompt, SearchSettings(width=width, max_tokens=4)) for prompt, width in ((PROMPTS[2], 2), (PROMPTS[5], 1))
    ]
    grammar = Grammar.json_object()
    struck = fails_at_every_call(
        monkeypatch, engine, GrammarMatcher, name, lambda: answers(engine, asked, grammar=grammar)
    )
    assert struck
    engine.close()


class Raises(BaseCallbackHandler):
    """Fails at token number `at`."""

    raise_error = True

    def __init__(self, at: int) -> None:
        self.at, self.heard = at, 0

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.heard += 1
        if self.heard == self.at:
            raise RuntimeError("injected")


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_callback_that_fails_once_at_every_token(engine, way):
    chat = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=5, min_tokens=5, effort="low")

    def ask(listener: Raises) -> str:
        config: Any = {"callbacks": [listener]}

        async def collect() -> str:
            return "".join([chunk.text async for chunk in chat.astream("Hello!", config=config)])

        if way == "astream":
            return asyncio.run(asyncio.wait_for(collect(), 60))
        return "".join(chunk.text for chunk in chat.stream("Hello!", config=config))

    silent = Raises(0)
    expected = ask(silent)
    assert silent.heard > 1
    for at in range(1, silent.heard + 1):
        # the callback's own error: it is the user's code that failed
        with pytest.raises(RuntimeError, match="injected"):
            ask(Raises(at))
        assert ask(Raises(0)) == expected
        assert slots_held(engine) == 0
