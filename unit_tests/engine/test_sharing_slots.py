"""Requests that share a cache too small for all of them: who starts, who pauses, and that answers stay the same."""

import threading
import time

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.engine.waiting_line import PATIENCE
from langchain_saffron.errors import CacheFullError
from unit_tests.engine.slots import held_up, slots_held
from unit_tests.tiny_models import PROMPTS, random_model, random_prm, random_reward_model, tiny_tokenizer

SHORT = SearchSettings(width=1, max_tokens=4, min_tokens=4)


def engine_of(slots: int, prm: bool = False) -> SaffronEngine:
    reward = random_reward_model(shift=2.0)
    reward.decoder.forest.capacity = reward.decoder.pool.capacity = slots
    reward.decoder.forest.clear()
    judge = random_prm() if prm else None
    return SaffronEngine(
        random_model("llama"), tiny_tokenizer(), reward, max_cache_tokens=slots, process_reward_model=judge
    )


@pytest.mark.parametrize("slots", [120, 170, 300])
def test_answers_of_requests_that_pause_are_those_of_each_alone(slots):
    engine = engine_of(slots, prm=True)
    asked = [
        (prompt, SearchSettings(search=search, width=width, max_tokens=12, min_tokens=10, seed=i))
        for i, prompt in enumerate(PROMPTS[:8])
        for search, width in (("saffron", 5), ("best_of_n", 3), ("saffron", 1), ("rebase", 3), ("greedy", 1))
    ]
    expected = [engine.generate(prompt, settings=settings) for prompt, settings in asked]
    assert engine.scheduler.pauses == 0
    handles = [engine.submit(prompt, settings=settings) for prompt, settings in asked]
    found = [handle.result() for handle in handles]
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.stats.reward_calls for one in found] == [one.stats.reward_calls for one in expected]
    assert engine.scheduler.pauses > 0
    assert slots_held(engine) == 0
    engine.close()


def test_a_paused_request_can_be_cancelled():
    settings = SearchSettings(search="best_of_n", width=3, max_tokens=50, min_tokens=50, seed=1)
    engine = engine_of(250, prm=True)
    handles = [engine.submit(prompt, settings=settings) for prompt in PROMPTS[:6]]
    ends = time.monotonic() + 60
    while not engine.scheduler.pauses and time.monotonic() < ends:
        time.sleep(0.001)
    assert engine.scheduler.pauses
    for handle in handles[1:]:
        handle.cancelled.set()
    assert len(handles[0].result().token_ids) == 50
    assert engine.call(lambda: engine.scheduler.waiting) == 0
    assert slots_held(engine) == 0
    engine.close()


def test_a_search_too_large_even_alone_is_an_error_of_that_search():
    engine = engine_of(64)
    settings = SearchSettings(width=8, min_width=8, max_tokens=60, min_tokens=60)
    large = engine.submit(PROMPTS[0], settings=settings)
    small = [engine.submit(prompt, settings=SHORT) for prompt in PROMPTS[:4]]
    assert all(len(handle.result().token_ids) == 4 for handle in small)
    with pytest.raises(CacheFullError, match="max_cache_tokens"):
        large.result()
    with pytest.raises(CacheFullError, match="max_cache_tokens"):
        engine.generate([3] * 100, settings=SHORT)
    assert slots_held(engine) == 0
    engine.close()


def test_a_narrow_request_does_not_wait_for_the_end_of_the_widest():
    engine = engine_of(2000)
    ends: list[str] = []

    def ask(name: str, prompt: list[int], settings: SearchSettings) -> threading.Thread:
        thread = threading.Thread(target=lambda: (engine.generate(prompt, settings=settings), ends.append(name)))
        thread.start()
        return thread

    # 64 times 100 slots could not be set aside for it
    wide = ask("wide", PROMPTS[9], SearchSettings(width=64, max_tokens=100, min_tokens=100))
    while not engine.policy.forest.used:
        time.sleep(0.001)
    narrow = [ask("narrow", prompt, SHORT) for prompt in PROMPTS[:3]]
    for thread in (wide, *narrow):
        thread.join(120)
    assert ends == ["narrow"] * 3 + ["wide"]
    engine.close()


def test_a_short_prompt_does_not_wait_for_long_ones(monkeypatch):
    engine = engine_of(4000)
    ends: list[int] = []
    finish = engine.scheduler._finish
    monkeypatch.setattr(
        engine.scheduler, "_finish", lambda request, answer: (ends.append(request.arrival), finish(request, answer))
    )
    prompts = [[5 + i % 200 for i in range(240)]] * 4 + [PROMPTS[2]]
    settings = SearchSettings(search="greedy", max_tokens=1)
    with held_up(engine):
        handles = [engine.submit(prompt, settings=settings, cache_salt=f"{i}") for i, prompt in enumerate(prompts)]
    assert all(handle.result().token_ids for handle in handles)
    # the last that came, though all prompts together are more than a step reads
    assert ends[0] == 5
    assert sorted(ends) == [1, 2, 3, 4, 5]
    engine.close()


def test_what_does_not_fit_is_overtaken_but_not_for_ever(monkeypatch):
    engine = engine_of(270)
    began: list[int] = []
    begin = engine.scheduler._begin
    monkeypatch.setattr(engine.scheduler, "_begin", lambda request: (began.append(request.arrival), begin(request)))
    handles = [
        engine.submit([9] * 60, settings=SearchSettings(width=1, max_tokens=150, min_tokens=150)),
        engine.submit([7 + i % 100 for i in range(230)], settings=SHORT),
        *(engine.submit(PROMPTS[1 + i % 8], settings=SHORT) for i in range(2 * PATIENCE)),
    ]
    assert all(handle.result().token_ids for handle in handles)
    assert sorted(began) == list(range(1, len(handles) + 1))
    # the second in the line came after as many as it had patience for
    assert began.index(2) == 1 + PATIENCE
    engine.close()


def test_one_forward_scores_a_bounded_number_of_nodes(monkeypatch):
    monkeypatch.setattr("langchain_saffron.engine.scheduler.ROWS_A_STEP", 10)
    engine = engine_of(3000)
    rows: list[int] = []
    forward = engine.policy.forward

    def counted(slots, scored, groups=None):
        rows.append(len(scored))
        return forward(slots, scored, groups)

    settings = SearchSettings(width=4, max_tokens=12, min_tokens=12)
    expected = [engine.generate(prompt, settings=settings).token_ids for prompt in PROMPTS[:6]]
    monkeypatch.setattr(engine.policy, "forward", counted)
    handles = [engine.submit(prompt, settings=settings) for prompt in PROMPTS[:6]]
    assert [handle.result().token_ids for handle in handles] == expected
    assert 4 < max(rows) <= 10
    engine.close()
