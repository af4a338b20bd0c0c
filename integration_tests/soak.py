"""Many requests with everything that can go wrong: cancels, faults, panics, forks of the host, full caches.

Run with `python -m integration_tests.soak --requests 10000`; prints what leaked, which should be nothing.
"""

import argparse
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import torch

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.errors import SaffronError
from unit_tests.engine.slots import slots_held
from unit_tests.tiny_models import PROMPTS, random_model, random_prm, random_reward_model, tiny_tokenizer

SLOTS = 250
THREADS = 12


class Panic(BaseException):
    """What no `except Exception` catches, as a panic of Rust's."""


class Soak:
    """One engine, and threads that ask it and disturb it."""

    def __init__(self, seed: int) -> None:
        torch.set_num_threads(1)
        self.random = random.Random(seed)
        # in double precision, so that rounding decides nothing
        reward = random_reward_model(shift=2.0, dtype=torch.float64)
        reward.decoder.forest.capacity = reward.decoder.pool.capacity = SLOTS
        reward.decoder.forest.clear()
        self.engine = SaffronEngine(
            random_model("llama", dtype=torch.float64),
            tiny_tokenizer(),
            reward,
            max_cache_tokens=SLOTS,
            process_reward_model=random_prm(),
        )
        self.cases = [
            (prompt, SearchSettings(search=search, width=width, max_tokens=tokens, min_tokens=4, seed=i))
            for i, prompt in enumerate(PROMPTS)
            for search, width, tokens in (
                ("greedy", 1, 12),
                ("saffron", 1, 12),
                ("saffron", 4, 20),
                ("saffron", 12, 30),
                ("best_of_n", 4, 10),
                ("rebase", 3, 6),
            )
        ]
        self.expected = [self.engine.generate(prompt, settings=settings).token_ids for prompt, settings in self.cases]
        self.counts: Counter[str] = Counter()
        self.wrong = 0
        self._lock = threading.Lock()
        self._fault: BaseException | None = None
        self._arm()

    def _arm(self) -> None:
        """Have the policy's next forward fail where a fault is set."""
        forward = self.engine.policy.forward

        def faulty(*arguments: Any) -> torch.Tensor:
            fault, self._fault = self._fault, None
            if fault is not None:
                self.counts["faults"] += 1
                raise fault
            return forward(*arguments)

        self.engine.policy.forward = faulty  # type: ignore[method-assign]

    def ask(self, number: int) -> None:
        """One request, of a kind that chance picks."""
        with self._lock:
            case, kind = self.random.randrange(len(self.cases)), self.random.random()
        prompt, settings = self.cases[case]
        name = "answered"
        try:
            if kind < 0.3:
                name = "cancelled"
                events = self.engine.submit(prompt, settings=settings).events()
                next(events, None)
                events.close()
            elif kind < 0.33:
                name = "timed out"
                self.engine.generate(prompt, settings=settings, timeout=0.001)
            else:
                if kind < 0.37:
                    self._fault = RuntimeError("injected") if kind < 0.36 else Panic("injected")
                salt = f"tenant {number % 50}"
                found = self.engine.generate(prompt, settings=settings, cache_salt=salt, timeout=120).token_ids
                self.wrong += found != self.expected[case]
        except SaffronError as error:
            name = type(error).__name__
        with self._lock:
            self.counts[name] += 1

    def fork(self) -> None:
        """A child of the host asks the engine that it has inherited, and ends."""
        child = os.fork()
        if child == 0:
            prompt, settings = self.cases[1]
            found = self.engine.generate(prompt, settings=settings, timeout=60).token_ids
            os._exit(0 if found == self.expected[1] else 1)
        _, status = os.waitpid(child, 0)
        self.counts["forks"] += 1
        self.wrong += status != 0


def run(requests: int, forks: int, seed: int = 0) -> dict[str, Any]:
    """Ask so often, and count what is left behind.

    Args:
        requests: How many.
        forks: How many children are forked meanwhile.
        seed: Of the mixture.
    """
    soak, process = Soak(seed), psutil.Process()
    began, memory = time.perf_counter(), list[int]()
    # a lot at a time: forks come between, as a host forks its workers
    lots = max(1, min(20, requests // 50))
    with ThreadPoolExecutor(THREADS) as pool:
        for lot in range(lots):
            list(pool.map(soak.ask, range(lot * requests // lots, (lot + 1) * requests // lots)))
            for _ in range((lot + 1) * forks // lots - lot * forks // lots):
                soak.fork()
            memory.append(process.memory_info().rss)
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    return {
        "requests": requests,
        "seconds": round(time.perf_counter() - began, 1),
        **dict(sorted(soak.counts.items())),
        "pauses": soak.engine.scheduler.pauses,
        "wrong answers": soak.wrong,
        "slots held": slots_held(soak.engine),
        "threads": sorted(threads),
        "child processes": len(process.children()),
        "memory at the end ÷ after a quarter": round(memory[-1] / memory[len(memory) // 4], 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--forks", type=int, default=40)
    arguments = parser.parse_args()
    json.dump(run(arguments.requests, arguments.forks), sys.stdout, indent=2, ensure_ascii=False)
    print()
