"""What an engine holds while it works, and waiting for it."""

import time
from collections.abc import Callable

from langchain_saffron import SaffronEngine


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def slots_in_use(engine: SaffronEngine) -> int:
    """Slots of the caches that are neither free nor kept for later prompts."""
    decoders = [engine.policy, *([engine.reward_model.decoder] if engine.reward_model else [])]
    for decoder in decoders:
        decoder.forest.drop_kept()
    return sum(decoder.forest.used for decoder in decoders)
