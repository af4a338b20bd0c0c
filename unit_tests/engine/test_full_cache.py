"""A cache that is too small for a search as wide as it was meant to be: what becomes narrower, and what fails."""

import time
from collections.abc import Iterator

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.engine import waiting_line
from langchain_saffron.engine.narrowing import hurries
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.errors import CacheFullError, RequestTimeoutError
from langchain_saffron.search import Expand, SearchInputs
from langchain_saffron.search.protocol import Search
from langchain_saffron.search.registry import _STARTS, register_search
from langchain_saffron.settings import SEARCHES
from unit_tests.engine.slots import held_up, slots_held, wait_until
from unit_tests.engine.test_verify import tiny_engine
from unit_tests.tiny_models import PROMPTS

SLOTS = 72


def wide(**changes: object) -> SearchSettings:
    return SearchSettings(**{"width": 16, "max_tokens": 40, "min_tokens": 40, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine() -> Iterator[SaffronEngine]:
    made = tiny_engine(SLOTS)
    yield made
    made.close()


def test_nothing_fails_and_the_stats_say_how_narrow_it_became(engine):
    before = engine.metrics().narrowed
    alone = [engine.generate(prompt, settings=wide()) for prompt in PROMPTS[:5]]
    with held_up(engine):
        handles = [engine.submit(prompt, settings=wide()) for prompt in PROMPTS[:5]]
    together = [handle.result() for handle in handles]
    assert all(len(one.token_ids) == 40 for one in together)
    narrowed = [one.stats for one in together if one.stats.narrowed]
    assert len(narrowed) > 2
    for stats in narrowed:
        assert 1 <= stats.narrowest_width < 16 == stats.width
    assert all(one.stats.narrowest_width is None for one in together if not one.stats.narrowed)
    # how narrow one becomes is its own affair: whoever else is there only makes it wait
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.stats.narrowest_width for one in together] == [one.stats.narrowest_width for one in alone]
    assert engine.metrics().narrowed - before == 2 * len(narrowed)
    assert slots_held(engine) == 0


def test_no_narrower_than_the_user_allows(engine):
    (free,) = [engine.generate(PROMPTS[4], settings=wide())]
    floor = free.stats.narrowest_width
    held = engine.generate(PROMPTS[4], settings=wide(min_width=floor))
    assert (held.token_ids, held.stats.narrowest_width) == (free.token_ids, floor)
    for least in (floor + 1, 16, 99):
        with pytest.raises(CacheFullError, match="min_width"):
            engine.generate(PROMPTS[4], settings=wide(min_width=least))
        assert slots_held(engine) == 0
    # others are none the worse for one that fails
    with held_up(engine):
        strict = engine.submit(PROMPTS[4], settings=wide(min_width=16))
        other = engine.submit(PROMPTS[4], settings=wide())
    assert other.result().token_ids == free.token_ids
    with pytest.raises(CacheFullError):
        strict.result()


def test_with_room_min_width_changes_nothing():
    roomy = tiny_engine()
    found = [roomy.generate(PROMPTS[3], settings=wide(min_width=least)) for least in (None, 3, 16)]
    roomy.close()
    assert found[0].token_ids == found[1].token_ids == found[2].token_ids
    assert {one.stats.narrowed for one in found} == {0}


@pytest.mark.parametrize(
    "changes",
    [
        {"step_back": True, "safety_threshold": 9.0},
        {"verify": "prm", "top_p": 0.3, "mask": "off", "safety_threshold": 0.0},
        {"search": "best_of_n", "seed": 1},
        {"search": "rebase", "seed": 1},
        {"search": "deal", "lookahead": 20, "max_tokens": 30, "min_tokens": 30},
    ],
)
def test_every_search_comes_to_its_end(engine, changes):
    settings = wide(**changes)
    with held_up(engine):
        handles = [engine.submit(prompt, settings=settings) for prompt in PROMPTS[1:4]]
    found = [handle.result() for handle in handles]
    assert all(len(one.token_ids) == settings.max_tokens or one.finish_reason == "refusal" for one in found)
    again = engine.generate(PROMPTS[1], settings=settings)
    assert (again.token_ids, again.stats.narrowed) == (found[0].token_ids, found[0].stats.narrowed)
    if settings.search == "best_of_n":
        # all samples are drawn, one after the other where need be
        assert {one.stats.narrowed for one in found} == {0}
        assert {one.stats.width for one in found} == {16}
    assert slots_held(engine) == 0


def test_a_search_that_knows_nothing_of_it_fails_as_ever(engine):
    def stubborn(inputs: SearchInputs) -> Search:
        from langchain_saffron.search import ROOT

        yield Expand(tuple(ROOT.child(token).child(token) for token in range(3, 3 + SLOTS // 2)))
        raise AssertionError("there is no room for so many")

    register_search("stubborn", stubborn)
    try:
        with pytest.raises(CacheFullError, match="max_cache_tokens"):
            engine.generate(PROMPTS[0], settings=wide(search="stubborn"))
    finally:
        del _STARTS["stubborn"], SEARCHES["stubborn"]
    assert slots_held(engine) == 0


def test_one_that_is_cancelled_while_it_is_narrow_leaves_nothing(engine, monkeypatch):
    squeezed: list[RequestCache] = []
    squeeze = RequestCache.squeeze
    monkeypatch.setattr(
        RequestCache, "squeeze", lambda cache, expand: (squeezed.append(cache), squeeze(cache, expand))[1]
    )
    with held_up(engine):
        handles = [engine.submit(prompt, settings=wide()) for prompt in (PROMPTS[4], PROMPTS[2])]
    wait_until(lambda: bool(squeezed))
    handles[0].cancelled.set()
    assert len(handles[1].result().token_ids) == 40
    wait_until(lambda: not engine.call(lambda: engine.scheduler.busy))
    assert slots_held(engine) == 0


class TestHurry:
    """Requests whose time runs out while others hold the slots."""

    LONG = SearchSettings(width=4, max_tokens=100, min_tokens=100)

    def ask(self, engine: SaffronEngine, monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[object]:
        """A long request, and one beside it that has spent half of its time as soon as it comes."""
        begun = time.perf_counter
        monkeypatch.setattr("langchain_saffron.engine.metrics.time.perf_counter", begun)
        with held_up(engine):
            first = engine.submit(PROMPTS[0], settings=self.LONG)
            second = engine.submit(PROMPTS[9], settings=wide(max_tokens=12, min_tokens=12, **changes), timeout=60)
        return [handle.result() for handle in (first, second)]
