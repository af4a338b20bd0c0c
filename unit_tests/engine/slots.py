"""What an engine holds while it works, waiting for it, and faults at a chosen call."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_saffron import SaffronEngine


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


@contextmanager
def held_up(engine: SaffronEngine) -> Iterator[None]:
    """The engine's thread is busy: what is submitted within begins in one step, behind it."""
    began, release = threading.Event(), threading.Event()
    blocker = threading.Thread(target=lambda: engine.call(lambda: (began.set(), release.wait(60))), daemon=True)
    blocker.start()
    assert began.wait(60)
    try:
        yield
    finally:
        release.set()
        blocker.join(60)


def slots_in_use(engine: SaffronEngine) -> int:
    """Slots of the caches that are neither free nor kept for later prompts."""
    models = (engine.reward_model, engine.process_reward_model)
    decoders = [engine.policy, *(model.decoder for model in models if model is not None and model.decoder is not None)]
    for decoder in decoders:
        decoder.forest.drop_kept()
    return sum(decoder.forest.used for decoder in decoders)


def slots_held(engine: SaffronEngine) -> int:
    """The same between two steps, while the engine lives."""
    return engine.call(lambda: slots_in_use(engine))


def failing(function: Callable[..., Any], at: int, error: BaseException) -> Any:
    """`function`, but call number `at` raises; `.calls` says how many there were."""

    def run(*args: Any, **kwargs: Any) -> Any:
        run.calls += 1
        if run.calls == at:
            raise error
        return function(*args, **kwargs)

    run.calls = 0
    return run
