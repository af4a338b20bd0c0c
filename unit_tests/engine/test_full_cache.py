"""A cache that is too small for a search as wide as it was meant to be: what becomes narrower, and what fails."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.engine import scheduler, waiting_line
from langchain_saffron.engine.handle import Handle
from langchain_saffron.engine.metrics import RequestTimes
from langchain_saffron.engine.narrowing import hurries
from langchain_saffron.engine.request_cache import RequestCache
from langchain_saffron.errors import CacheFullError
from langchain_saffron.search import ROOT, Answer, Expand, SearchInputs
from langchain_saffron.search.protocol import Search
from langchain_saffron.search.registry import _STARTS, register_search
from langchain_saffron.settings import SEARCHES
from unit_tests.engine.slots import held_up, slots_held, wait_until
from unit_tests.engine.test_verify import tiny_engine
from unit_tests.tiny_models import PROMPTS

SLOTS = 52


def wide(**changes: object) -> SearchSettings:
    return SearchSettings(**{"width": 16, "max_tokens": 24, "min_tokens": 24, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine() -> Iterator[SaffronEngine]:
    made = tiny_engine(SLOTS)
    yield made
    made.close()


def test_nothing_fails_and_the_stats_say_how_narrow_it_became(engine):
    before = engine.metrics().narrowed
    alone = [engine.generate(prompt, settings=wide()) for prompt in PROMPTS[2:6]]
    with held_up(engine):
        handles = [engine.submit(prompt, settings=wide()) for prompt in PROMPTS[2:6]]
    together = [handle.result() for handle in handles]
    assert all(len(one.token_ids) == 24 for one in together)
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
    free = engine.generate(PROMPTS[4], settings=wide())
    floor = free.stats.narrowest_width
    held = engine.generate(PROMPTS[4], settings=wide(min_width=floor))
    assert (held.token_ids, held.stats.narrowest_width) == (free.token_ids, floor)
    for least in (floor + 1, 16, 99):
        with pytest.raises(CacheFullError, match="min_width"):
            engine.generate(PROMPTS[4], settings=wide(min_width=least))
        with pytest.raises(CacheFullError, match="width_floor"):
            engine.generate(PROMPTS[4], settings=wide(width_floor=least))
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
        {"search": "deal", "lookahead": 8, "max_tokens": 12, "min_tokens": 12},
    ],
)
def test_every_search_comes_to_its_end(engine, changes):
    settings = wide(**changes)
    with held_up(engine):
        handles = [engine.submit(prompt, settings=settings) for prompt in PROMPTS[1:3]]
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
        yield Expand(tuple(ROOT.child(token).child(token) for token in range(3, 3 + SLOTS // 2)))
        raise AssertionError("there is no room for so many")

    register_search("stubborn", stubborn)
    try:
        with pytest.raises(CacheFullError, match="max_cache_tokens"):
            engine.generate(PROMPTS[0], settings=wide(search="stubborn"))
    finally:
        del _STARTS["stubborn"], SEARCHES["stubborn"]
    assert slots_held(engine) == 0


@pytest.mark.parametrize("min_width", [None, 1])
@pytest.mark.parametrize("judged", [False, True])
def test_a_search_that_knows_nothing_of_it_is_not_tried_in_vain(monkeypatch, judged, min_width):
    """It waits until there is room for all that it wants scored, however narrow its settings are, or it in a hurry."""
    shared = tiny_engine(140)
    if min_width is not None:
        for module in (waiting_line, scheduler):
            monkeypatch.setattr(module, "hurries", lambda request: hurries(replace(request, times=RequestTimes(0.0))))

    def stubborn(inputs: SearchInputs) -> Search:
        node = ROOT
        for _ in range(30):
            yield Expand((node,))
            node = node.child(3)
        wanted = tuple(node.child(token) for token in range(3, 3 + (10 if judged else 70)))
        if judged:
            scores = yield Expand((), retain=wanted)
            scores = yield Expand((), prm_nodes=wanted)
            assert len(scores.prm_rewards) == len(wanted)
        else:
            scores = yield Expand(wanted)
            assert len(scores.logits) == len(wanted)
        return Answer((3,), "stop", node=ROOT.child(3))

    tries: list[int] = []
    go_on = shared.scheduler._go_on
    monkeypatch.setattr(
        shared.scheduler, "_go_on", lambda request, width: (tries.append(request.arrival), go_on(request, width))[1]
    )
    register_search("stubborn", stubborn, process_reward_model=True)
    try:
        with held_up(shared):
            verified = {"verify": "prm", "safety_threshold": -99.0, "mask": "off"} if judged else {}
            settings = wide(width=4, max_tokens=60, min_tokens=60, **verified)
            long = shared.submit(PROMPTS[0], settings=settings, timeout=90)
            settings = SearchSettings(search="stubborn", width=2, min_width=min_width, max_tokens=4)
            other = shared.submit(PROMPTS[2], settings=settings, timeout=90)
        assert other.result().token_ids == [3]
        assert len(long.result().token_ids) == 60
    finally:
        del _STARTS["stubborn"], SEARCHES["stubborn"]
    # it had to wait, and then there was room
    assert tries == [2]
    assert shared.scheduler.pauses == 1
    assert slots_held(shared) == 0
    shared.close()


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
    assert len(handles[1].result().token_ids) == 24
    wait_until(lambda: not engine.call(lambda: engine.scheduler.busy))
    assert slots_held(engine) == 0


@pytest.mark.parametrize(
    ("least", "tokens", "narrowest", "ends"),
    [(None, 12, None, [1, 2]), (16, 12, None, [1, 2]), (1, 12, None, [2, 1]), (1, 40, 10, [2, 1])],
)
def test_one_in_a_hurry_is_narrow_rather_than_late_where_its_user_wants_that(
    monkeypatch, least, tokens, narrowest, ends
):
    hurried = tiny_engine(130)
    # as if it had spent half of its time before it came
    for module in (waiting_line, scheduler):
        monkeypatch.setattr(module, "hurries", lambda request: hurries(replace(request, times=RequestTimes(0.0))))
    ended: list[int] = []
    finish = hurried.scheduler._finish
    monkeypatch.setattr(
        hurried.scheduler, "_finish", lambda request, answer: (ended.append(request.arrival), finish(request, answer))
    )
    with held_up(hurried):
        long = hurried.submit(PROMPTS[0], settings=wide(width=4, max_tokens=100, min_tokens=100), timeout=90)
        settings = wide(max_tokens=tokens, min_tokens=tokens, min_width=least)
        short = hurried.submit(PROMPTS[9], settings=settings, timeout=90)
    assert len(short.result().token_ids) == tokens
    assert short.result().stats.narrowest_width == narrowest
    # nobody is narrowed for another
    assert long.result().stats.narrowed == 0
    assert ended == ends
    assert slots_held(hurried) == 0
    hurried.close()


@pytest.mark.parametrize(
    ("scored", "width", "narrowest"),
    [(["policy"], 16, None), (["policy"], 3, 3), (["policy", "reward"], 16, None), (["policy", "reward"], 3, None)],
)
def test_one_that_was_scored_before_a_pause_may_go_on_with_fewer_slots(scored, width, narrowest):
    """Scores of all beams count where all models have given them; else all models give those of fewer beams."""
    roomy, handle = tiny_engine(), Handle()
    scheduler, reward = roomy.scheduler, roomy.reward_model
    assert reward is not None
    request = roomy._admission.request(handle, PROMPTS[4], None, wide(max_tokens=8, min_tokens=8))

    def work() -> None:
        scheduler.admit(request)
        while request.expand is None or len(request.expand.nodes) < 16:
            scheduler.tick()
        scheduler._pause(request)
        rows = scheduler._scorer._prefill_rows
        if "reward" not in scored:
            # others have taken the slots of the reward model, which reads a little in every step
            reward.decoder.forest.drop_kept()
            scheduler._scorer._prefill_rows = 2
        scheduler._start_waiting()
        scheduler._scorer.score([request])
        assert list(request.scored) == scored
        scheduler._pause(request)
        scheduler._scorer._prefill_rows = rows
        scheduler._line.remove(request)
        scheduler._active[request] = None
        scheduler._go_on(request, width)
        while scheduler.busy:
            scheduler.tick()

    roomy.call(work)
    found = handle.result()
    assert (len(found.token_ids), found.stats.narrowest_width) == (8, narrowest)
    # what was scored is paid for
    whole = roomy._admission.request(Handle(), PROMPTS[4], None, wide(max_tokens=8, min_tokens=8))
    roomy.call(lambda: (scheduler.admit(whole), [scheduler.tick() for _ in range(12)]))
    assert not scheduler.busy
    assert (request.inputs.budget._all_rows < whole.inputs.budget._all_rows) == (narrowest is not None)
    assert slots_held(roomy) == 0
    roomy.close()


@pytest.mark.parametrize(
    ("bounds", "timeout", "spent", "hurried"),
    [
        ({"min_width": 1}, 10.0, 4.0, False),
        ({"min_width": 1}, 10.0, 6.0, True),
        ({"min_width": 1, "width_floor": 4}, 10.0, 6.0, True),
        ({"min_width": 1}, None, 6.0, False),
        ({}, 10.0, 6.0, False),
        # a bound of somebody else's is no wish of its own
        ({"width_floor": 4}, 10.0, 6.0, False),
    ],
)
def test_half_of_its_time_is_what_it_waits_for(engine, bounds, timeout, spent, hurried):
    options = {"timeout": timeout}
    request = engine._admission.request(Handle(), PROMPTS[0], None, wide(**bounds), **options)
    request.times.arrived -= spent
    request.deadline = None if request.deadline is None else request.deadline - spent
    assert hurries(request) is hurried
