"""Speed as ratios within one run: the search against bare forwards and against `transformers.generate`.

The models are random: what they say does not matter for how long it takes.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.cache.attention import activate
from langchain_saffron.engine import SaffronEngine
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.settings import SearchSettings


@dataclass(frozen=True)
class Shape:
    """A Llama's shape."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int


@dataclass(frozen=True)
class Scenario:
    """What is measured.

    Attributes:
        policy: The policy's shape.
        reward: The reward model's.
        vocabulary: Tokens of both.
        prompt: Prompt tokens.
        new: Tokens of an answer.
        repeats: Measurements of each figure; the median counts.
    """

    policy: Shape = Shape(30, 576, 9, 3, 1536)
    reward: Shape = Shape(16, 512, 8, 2, 1408)
    vocabulary: int = 16_384
    prompt: int = 1024
    new: int = 64
    repeats: int = 3


QUICK = Scenario(Shape(2, 64, 4, 2, 128), Shape(2, 64, 4, 2, 128), vocabulary=512, prompt=64, new=16, repeats=1)


@dataclass(frozen=True)
class Ratio:
    """One figure.

    Attributes:
        name: What is divided by what.
        value: The ratio.
        reach: What it should be.
        at_most: Whether smaller is better.
    """

    name: str
    value: float
    reach: float
    at_most: bool = True


@dataclass
class Report:
    """All figures of a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    breakdown: dict[str, float] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


class Bench:
    """Random models, and the measurements on them."""

    def __init__(self, scenario: Scenario, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.scenario = scenario
        self.device = device
        self.policy = self._model(scenario.policy, 0, dtype)
        reward = self._model(scenario.reward, 1, dtype)
        tokenizer = _tokenizer()
        size = scenario.vocabulary
        mrm = MultifurcationRewardModel(reward, tokenizer, torch.zeros(size), torch.ones(size, dtype=torch.bool))
        self.engine = SaffronEngine(self.policy, tokenizer, mrm)
        # nothing ends early: every run has the same length
        self.engine.end_tokens = ()
        self._runs = 0

    def generate(self, beams: int = 1) -> float:
        """Seconds of `transformers.generate` with the policy alone."""
        ids = torch.tensor([self._prompt(self.scenario.prompt)], device=self.device)
        options = {"max_new_tokens": self.scenario.new, "do_sample": False, "num_beams": beams, "eos_token_id": None}
        return self._timed(lambda: self.policy.generate(ids, attention_mask=torch.ones_like(ids), **options))

    def search(self, width: int) -> float:
        """Seconds of the search, policy and reward model."""
        return self._timed(lambda: self._answer(self._prompt(self.scenario.prompt), width))

    def bare(self, width: int) -> float:
        """Seconds of the same forwards with nothing around them: no search, no scheduler, plans made beforehand."""
        assert self.engine.reward_model is not None
        loops = [_Bare(d, self._prompt(self.scenario.prompt), width, self.scenario.new) for d in self._decoders()]

        def run() -> None:
            for step in range(self.scenario.new):
                for loop in loops:
                    loop.step(step)

        seconds = self._timed(run)
        for loop in loops:
            loop.close()
        return seconds

    def chats(self, together: bool, count: int = 16) -> float:
        """Seconds of short chats, all at once or one after the other."""
        prompts = [self._prompt(self.scenario.prompt // 16, seed=i) for i in range(count)]
        new = max(self.scenario.new // 4, 4)

        def run() -> None:
            if together:
                for handle in [self._submit(prompt, 4, new) for prompt in prompts]:
                    handle.result()
            else:
                for prompt in prompts:
                    self._submit(prompt, 4, new).result()

        return self._timed(run)

    def breakdown(self, width: int) -> dict[str, float]:
        """Seconds of one search by what they went into."""
        spent = {"policy": 0.0, "reward": 0.0, "prefill": 0.0, "selection": 0.0}
        scheduler, decoders = self.engine.scheduler, self._decoders()

        def book_forward(name: str) -> Callable[[tuple[Any, ...], float], None]:
            def book(arguments: tuple[Any, ...], seconds: float) -> None:
                spent["prefill" if len(arguments[0]) > width else name] += seconds

            return book

        def book_selection(arguments: tuple[Any, ...], seconds: float) -> None:
            spent["selection"] += seconds

        with (
            self._watch(decoders[0], "forward", book_forward("policy")),
            self._watch(decoders[1], "forward", book_forward("reward")),
            self._watch(scheduler, "_advance", book_selection),
        ):
            began = time.perf_counter()
            self._answer(self._prompt(self.scenario.prompt), width)
            total = time.perf_counter() - began
        return {**spent, "rest": total - sum(spent.values()), "total": total}

    def cache_overhead(self, width: int) -> float:
        """Peak bytes of keys and values in use, over those of the distinct live nodes at that moment."""
        decoder = self.engine.policy
        decoder.forest.drop_kept()
        peak = {"used": 0, "live": 1}

        def book(arguments: tuple[Any, ...], seconds: float) -> None:
            if decoder.forest.used > peak["used"]:
                peak.update(used=decoder.forest.used, live=decoder.forest.live_nodes(arguments[0]))

        with self._watch(decoder, "forward", book):
            self._answer(self._prompt(self.scenario.prompt), width)
        return peak["used"] / peak["live"]

    def _answer(self, prompt: list[int], width: int) -> None:
        self._submit(prompt, width).result()

    def _submit(self, prompt: list[int], width: int, new: int | None = None) -> Any:
        # a salt of its own for every run: nobody profits from an earlier one's prompt
        self._runs += 1
        new = new or self.scenario.new
        settings = SearchSettings(width=width, max_tokens=new, min_tokens=new)
        return self.engine.submit(prompt, settings=settings, cache_salt=str(self._runs))

    def _decoders(self) -> list[TrieDecoder]:
        assert self.engine.reward_model is not None
        return [self.engine.policy, self.engine.reward_model.decoder]

    def _timed(self, run: Callable[[], object]) -> float:
        found = []
        for _ in range(self.scenario.repeats):
            self._wait()
            began = time.perf_counter()
            run()
            self._wait()
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    @contextmanager
    def _watch(self, owner: Any, name: str, book: Callable[[tuple[Any, ...], float], None]) -> Iterator[None]:
        real = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = real(*arguments, **options)
            self._wait()
            book(arguments, time.perf_counter() - began)
            return result

        setattr(owner, name, watched)
        try:
            yield
        finally:
            delattr(owner, name)

    def _prompt(self, length: int, seed: int = 0) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        found: list[int] = torch.randint(0, self.scenario.vocabulary, (length,), generator=generator).tolist()
        return found

    def _model(self, shape: Shape, seed: int, dtype: torch.dtype) -> Any:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=self.scenario.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
        return LlamaForCausalLM(config).to(device=self.device, dtype=dtype).eval()


class _Bare:
    """A model's forwards in the rhythm of a search, each step's plan made beforehand."""

    def __init__(self, decoder: TrieDecoder, prompt: list[int], width: int, new: int) -> None:
        self._decoder = decoder
        self._nodes = [decoder.forest.insert(prompt, salt="bare")]
        self._steps = [(self._nodes[0], [len(prompt) - 1])]
        tips = [self._nodes[0][-1]] * width
        for step in range(new - 1):
            # beams that part at the first token and stay apart
            tips = [decoder.forest.insert([beam if step == 0 else 0], parent=tip)[-1] for beam, tip in enumerate(tips)]
            self._nodes.append(tips)
            self._steps.append((tips, list(range(width))))
        self._prepared = [self._prepare(rows, scored) for rows, scored in self._steps]

    def _prepare(self, rows: list[int], scored: list[int]) -> tuple[np.ndarray, Any, dict[str, torch.Tensor]]:
        slots = np.array(rows)
        device = self._decoder.device
        self._decoder.forest.filled[slots] = True
        inputs = {
            "input_ids": torch.tensor([[self._decoder.forest.token(slot) for slot in rows]], device=device),
            "position_ids": torch.from_numpy(self._decoder.forest.depth[slots])[None].to(device),
            "logits_to_keep": torch.tensor(scored, device=device),
        }
        return slots, self._decoder.plan(slots, [len(rows)]), inputs

    @torch.inference_mode()
    def step(self, index: int) -> None:
        """One forward."""
        slots, plan, inputs = self._prepared[index]
        self._decoder.pool.aim(slots)
        with activate(plan):
            self._decoder.model(**inputs, past_key_values=self._decoder.pool, use_cache=True)

    def close(self) -> None:
        """Give the slots back."""
        for nodes in reversed(self._nodes[1:]):
            for node in nodes:
                self._decoder.forest.release(node)
        self._decoder.forest.release(self._nodes[0][-1])


def _tokenizer() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def run(scenario: Scenario, device: str = "cpu") -> Iterator[str | Report]:
    """Measure everything; gives the name of what is measured next, and the report last."""
    report = Report(machine={"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__})
    bench = Bench(scenario, device)
    seconds = report.seconds
    yield "warm-up"
    bench.search(4)
    bench.generate()
    for name, measure in (
        ("greedy generate", bench.generate),
        ("search, width 1", lambda: bench.search(1)),
        ("search, width 16", lambda: bench.search(16)),
        ("bare forwards, width 16", lambda: bench.bare(16)),
        ("generate, 16 beams", lambda: bench.generate(16)),
        ("16 chats one by one", lambda: bench.chats(together=False)),
        ("16 chats together", lambda: bench.chats(together=True)),
    ):
        yield name
        seconds[name] = measure()
    yield "breakdown"
    report.breakdown = bench.breakdown(16)
    overhead = bench.cache_overhead(16)
    yield "bfloat16"
    narrow = Bench(scenario, device, torch.bfloat16)
    narrow.search(4)
    seconds["greedy generate, bfloat16"] = narrow.generate()
    seconds["search, width 16, bfloat16"] = narrow.search(16)
    report.ratios = [
        _ratio(seconds, "search, width 16", "bare forwards, width 16", 1.10),
        _ratio(seconds, "search, width 16", "greedy generate", 2.3),
        _ratio(seconds, "generate, 16 beams", "search, width 16", 5.4, at_most=False),
        _ratio(seconds, "search, width 1", "greedy generate", 1.45),
        _ratio(seconds, "search, width 16, bfloat16", "greedy generate, bfloat16", 1.8),
        Ratio("bytes of K and V ÷ those of the live nodes, at the peak", overhead, 1.3),
        _ratio(seconds, "16 chats one by one", "16 chats together", 3.0, at_most=False),
    ]
    yield report


def _ratio(seconds: dict[str, float], over: str, under: str, reach: float, at_most: bool = True) -> Ratio:
    return Ratio(f"{over} ÷ {under}", seconds[over] / seconds[under], reach, at_most)
