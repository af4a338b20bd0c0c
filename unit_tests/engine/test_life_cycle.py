"""The engine's life: panics, forks, nested calls, closing; whatever happens, a call ends and the next one works."""

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.cache import TokenForest
from langchain_saffron.engine import registry, step_scorer
from langchain_saffron.engine.registry import shared_engine
from langchain_saffron.engine.scheduler import Scheduler
from langchain_saffron.errors import (
    CacheFullError,
    EngineClosedError,
    EngineFailedError,
    ModelMemoryError,
    ReentrantCallError,
    RequestTimeoutError,
    SaffronError,
)
from langchain_saffron.runtime.forks import ForkSafeLock
from unit_tests.engine.slots import failing, held_up, slots_held
from unit_tests.native_threads import counts_threads, threads_become, threads_now
from unit_tests.tiny_models import random_engine, random_model, random_prm, random_reward_model, tiny_tokenizer

PROMPT = [3, 5, 8, 13, 21]
GREEDY = SearchSettings(search="greedy", max_tokens=6)
WIDE = SearchSettings(width=3, max_tokens=6)


class Panic(BaseException):
    """What a Rust library raises when it panics is no `Exception` either."""


@pytest.fixture
def engine():
    made = random_engine(reward=random_reward_model(shift=2.0))
    yield made
    made.close()


def in_thread(function: Callable[[], Any], seconds: float = 30) -> Any:
    """What `function` returns or raises, called on a thread of its own that must not wait for ever."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(function())
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert box, "it hangs"
    return box[0]


# --- what fails ---


@pytest.mark.parametrize("error", [Panic("it panicked"), RuntimeError("a bug"), SystemExit(3)])
@pytest.mark.parametrize("place", ["forward", "decode"])
def test_a_failure_reaches_its_request_and_the_next_one_works(engine, monkeypatch, place, error):
    expected = engine.generate(PROMPT, settings=GREEDY).token_ids
    owner = engine.policy.model if place == "forward" else engine.tokenizer
    with monkeypatch.context() as patched:
        patched.setattr(owner, place, failing(getattr(owner, place), 2, error))
        got = in_thread(lambda: engine.generate(PROMPT, settings=GREEDY))
    assert isinstance(got, EngineFailedError)
    assert got.__cause__ is error
    assert in_thread(lambda: engine.generate(PROMPT, settings=GREEDY)).token_ids == expected
    assert slots_held(engine) == 0


def test_what_ends_the_thread_is_told_to_all_and_the_next_call_starts_another(engine, monkeypatch):
    expected = engine.generate(PROMPT, settings=GREEDY).token_ids
    first = engine._worker._thread
    with monkeypatch.context() as patched:
        patched.setattr(Scheduler, "tick", failing(Scheduler.tick, 3, Panic("beyond repair")))
        handles = [engine.submit(PROMPT, settings=GREEDY) for _ in range(3)]
        told = [in_thread(handle.result) for handle in handles]
        first.join(10)
    assert any(isinstance(one, EngineFailedError) and "beyond repair" in str(one) for one in told)
    assert not first.is_alive()
    assert in_thread(lambda: engine.generate(PROMPT, settings=GREEDY)).token_ids == expected
    assert engine._worker._thread is not first
    assert slots_held(engine) == 0


def test_a_collection_that_waits_for_an_answer_ends_with_an_error(engine, monkeypatch):
    monkeypatch.setattr("langchain_saffron.engine.handle.LOOK", 0.2)
    expected = engine.generate(PROMPT, settings=GREEDY).token_ids
    told, waiting = [], threading.Event()

    class Unread:
        """A stream in a cycle: at its end it waits for whoever writes it, as LangGraph's does."""

        def __init__(self):
            self.itself = self

        def __del__(self):
            waiting.set()
            writer.join(20)

    forward = engine.policy.model.forward

    def interrupted(*arguments, **options):
        if not waiting.is_set():
            Unread()
            gc.collect()
        return forward(*arguments, **options)

    def write():
        try:
            engine.generate(PROMPT, settings=GREEDY)
        except EngineFailedError as error:
            told.append(str(error))

    writer = threading.Thread(target=write)
    with monkeypatch.context() as patched:
        patched.setattr(engine.policy.model, "forward", interrupted)
        writer.start()
        assert waiting.wait(10)
        writer.join(10)
        assert not writer.is_alive()
    assert "the garbage collector" in told[0]
    assert in_thread(lambda: engine.generate(PROMPT, settings=GREEDY)).token_ids == expected
    assert engine._worker.collecting == 0


def test_a_handle_gives_its_result_again(engine):
    handle = engine.submit(PROMPT, settings=GREEDY)
    result = in_thread(handle.result)
    assert in_thread(handle.result) is result
    assert in_thread(lambda: list(handle.events())) == [result]


@pytest.mark.parametrize("place", ["rewards", "cost", "flags"])
def test_what_fails_behind_a_shared_forward_fails_one_request_at_most(engine, monkeypatch, place):
    alone = {kind: engine.generate(PROMPT, settings=kind).token_ids for kind in (GREEDY, WIDE)}
    kinds = [WIDE, *[GREEDY] * 3, *[WIDE] * 3]
    error = MemoryError("out of memory")
    if place == "rewards":
        translate = engine.scheduler._scorer._translate
        monkeypatch.setitem(translate, "reward", failing(translate["reward"], 3, error))
    elif place == "cost":
        monkeypatch.setattr(engine.reward_model.decoder, "cost", failing(engine.reward_model.decoder.cost, 9, error))
    else:
        monkeypatch.setattr(step_scorer, "read_flags", failing(step_scorer.read_flags, 3, error))
    handles = [engine.submit(PROMPT, settings=kind) for kind in kinds]
    told = [in_thread(handle.result) for handle in handles]
    failed = [one for one in told if isinstance(one, BaseException)]
    assert all(isinstance(one, ModelMemoryError) for one in failed)
    assert len(failed) <= 1
    assert all(one in failed or one.token_ids == alone[kind] for one, kind in zip(told, kinds, strict=True))
    assert slots_held(engine) == 0


def test_a_failure_while_a_request_is_closed_ends_nothing(engine, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(TokenForest, "keep", failing(TokenForest.keep, 1, Panic("while closing")))
        assert engine.generate(PROMPT, settings=WIDE).token_ids
    assert slots_held(engine) == 0
    assert engine.generate(PROMPT, settings=WIDE).token_ids


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        SearchSettings(width=3, max_tokens=4),
        SearchSettings(search="best_of_n", width=3, max_tokens=3, seed=1),
        SearchSettings(search="rebase", width=3, max_tokens=3, seed=1),
    ],
    ids=lambda one: one.search,
)
def test_every_acquire_may_fail(monkeypatch, settings):
    """At the first, the second, … until a run needs no more of them: all slots come back every time."""
    engine = SaffronEngine(
        random_model("llama"), tiny_tokenizer(), random_reward_model(shift=2.0), process_reward_model=random_prm()
    )
    expected = engine.generate(PROMPT, settings=settings).token_ids
    for at in range(1, 400):
        engine.call(lambda: [decoder.clear() for decoder in engine.scheduler._decoders.values()])
        acquire = failing(TokenForest.acquire, at, CacheFullError("full"))
        with monkeypatch.context() as patched:
            patched.setattr(TokenForest, "acquire", acquire)
            got = in_thread(lambda: engine.generate(PROMPT, settings=settings))
        assert slots_held(engine) == 0
        if isinstance(got, BaseException):
            assert isinstance(got, SaffronError)
        elif not got.stats.narrowed:
            assert got.token_ids == expected
        if acquire.calls < at:
            break
    assert 5 < at < 399
    engine.close()


# --- time ---


def test_the_timeout_holds_though_the_engine_is_busy(engine):
    engine.generate(PROMPT, settings=GREEDY)
    with held_up(engine):
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError, match="timeout="):
            engine.generate(PROMPT, settings=GREEDY, timeout=0.2)

        async def ask() -> None:
            async for _ in engine.astream(PROMPT, settings=GREEDY, timeout=0.2):
                pass

        with pytest.raises(TimeoutError, match="timeout="):
            asyncio.run(ask())
        assert time.monotonic() - began < 5
    assert engine.generate(PROMPT, settings=GREEDY).token_ids


def test_calls_without_a_pause_leave_room_for_requests(engine):
    engine.generate(PROMPT, settings=GREEDY)
    stop = threading.Event()

    def hammer() -> None:
        while not stop.is_set():
            engine.call(lambda: time.sleep(0.01))

    threads = [threading.Thread(target=hammer, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        assert in_thread(lambda: engine.generate(PROMPT, settings=GREEDY), 20).token_ids
    finally:
        stop.set()
    for thread in threads:
        thread.join(10)


# --- calls within calls ---


def test_a_call_within_a_call_runs_and_a_request_within_one_is_refused(engine):
    assert in_thread(lambda: engine.call(lambda: engine.call(lambda: 7))) == 7
    refused = in_thread(lambda: engine.call(lambda: engine.generate(PROMPT, settings=GREEDY)))
    assert isinstance(refused, ReentrantCallError)
    assert in_thread(lambda: engine.generate(PROMPT, settings=GREEDY)).token_ids
    assert in_thread(lambda: engine.call(engine.close)) is None
    assert isinstance(in_thread(lambda: engine.generate(PROMPT, settings=GREEDY)), EngineClosedError)


# --- sharing ---


def test_a_closed_engine_is_not_handed_out_again(monkeypatch):
    monkeypatch.setattr(registry, "_registry", registry._Registry())
    model, tokenizer = random_model("llama"), tiny_tokenizer()
    first = shared_engine(model=model, tokenizer=tokenizer)
    assert shared_engine(model=model, tokenizer=tokenizer) is first
    first.close()
    second = shared_engine(model=model, tokenizer=tokenizer)
    assert second is not first
    assert second.generate(PROMPT, settings=GREEDY).token_ids
    second.close()


def test_an_engine_keeps_the_objects_that_it_goes_by(monkeypatch):
    """Else another object at the same address would be answered by it."""
    monkeypatch.setattr(registry, "_registry", registry._Registry())
    tokenizer = tiny_tokenizer()
    engine = shared_engine(model=random_model("llama"), tokenizer=tokenizer)
    assert engine.loaded_from["tokenizer"] is tokenizer
    assert isinstance(engine.loaded_from["model"], type(engine.policy.model))
    engine.close()


# --- forks ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("when", ["idle", "running"])
def test_a_forked_child_answers(engine, when):
    expected = engine.generate(PROMPT, settings=WIDE).token_ids
    running = [engine.submit(PROMPT, settings=SearchSettings(width=3, max_tokens=60, min_tokens=60))]
    if when == "idle":
        running.pop().result()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = engine.generate(PROMPT, settings=WIDE, timeout=20).token_ids
            os.write(write, b"same" if answer == expected else b"other")
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    killer = threading.Timer(40, os.kill, (child, signal.SIGKILL))
    killer.start()
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    killer.cancel()
    assert told == b"same", told or "it hangs"
    assert all(handle.result().token_ids for handle in running)
    assert engine.generate(PROMPT, settings=WIDE).token_ids == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_is_free_in_a_forked_child():
    lock = ForkSafeLock()
    with lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            with lock:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@counts_threads
@pytest.mark.parametrize("ask", ["generate", "call"])
def test_who_asks_the_engine_keeps_no_helper_threads_beside_its(engine, ask):
    """With two teams on the cores of one, neither waits actively, and decoding takes half as long again."""

    def ask_engine() -> None:
        if ask == "generate":
            engine.generate(PROMPT, settings=GREEDY)
        else:
            engine.call(lambda: None)

    def work() -> bool:
        torch.set_num_threads(2)
        alone = threads_now()
        torch.ones(1 << 18).sum()
        assert threads_become(alone + 1)
        ask_engine()
        return threads_become(alone)

    ask_engine()
    threads = torch.get_num_threads()
    try:
        assert in_thread(work)
    finally:
        torch.set_num_threads(threads)


@counts_threads
def test_an_idle_engine_leaves_active_waiting_to_others(engine):
    """Two models in one process, say, that are used in turns."""

    def work() -> int:
        torch.set_num_threads(2)
        torch.ones(1 << 18).sum()
        return threads_now()

    engine.call(lambda: None)
    alone, threads = threads_now(), torch.get_num_threads()
    try:
        assert engine.call(work) == alone + 1
        assert threads_become(alone)
    finally:
        torch.set_num_threads(threads)
