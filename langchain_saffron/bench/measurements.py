"""The single measurements, in seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import torch

from langchain_saffron.bench.replay import Replay
from langchain_saffron.bench.scenario import Scenario, random_model, random_prompt, random_tokenizer
from langchain_saffron.engine import SaffronEngine, SearchResult, candidate_rewards
from langchain_saffron.engine.handle import Handle
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.grammar.matcher import GrammarMatcher
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.settings import Quantization, SearchSettings

# of the beams that were asked for, over a whole answer, which begins with one
_FULL = 0.8


class Bench:
    """Random models, and the measurements on them.

    Everything computes on the engine's thread, `generate` too: on a CPU a second thread that computes would slow
    both down.
    """

    def __init__(
        self,
        scenario: Scenario,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        quantization: Quantization | None = None,
    ) -> None:
        """Build the models."""
        self.scenario = scenario
        self.device = device
        size = scenario.vocabulary
        self.policy = random_model(scenario.policy, size, 0, device, dtype, scenario.sharpness)
        reward = random_model(scenario.reward, size, 1, device, dtype)
        tokenizer = random_tokenizer(size)
        mrm = MultifurcationRewardModel(
            reward,
            tokenizer,
            torch.zeros(size),
            torch.ones(size, dtype=torch.bool),
            owned=True,
            quantization=quantization,
        )
        self.engine = SaffronEngine(self.policy, tokenizer, mrm, quantization=quantization)
        # nothing ends early: every run has the same length
        self.engine.end_tokens = ()
        self._decoders: list[TrieDecoder] = [self.engine.policy, mrm.decoder]
        self._runs = 0
        self._replay: Replay | None = None

    def generate(self, beams: int = 1) -> float:
        """`transformers.generate` with the policy alone, as it was loaded."""
        ids = torch.tensor([self._prompt(self.scenario.prompt)], device=self.device)
        options = {"max_new_tokens": self.scenario.new, "do_sample": False, "num_beams": beams, "eos_token_id": None}
        return self._timed(
            lambda: self.engine.call(lambda: self.policy.generate(ids, attention_mask=torch.ones_like(ids), **options))
        )

    def search(self, width: int) -> float:
        """The search, policy and reward model.

        Raises:
            RuntimeError: It had fewer beams than asked for, as where a policy is sure of every token: the time would
                be a narrower search's.
        """
        answers: list[SearchResult] = []
        seconds = self._timed(lambda: answers.append(self._answer(width)))
        scored = answers[0].stats.policy_calls
        if scored < _FULL * width * self.scenario.new:
            raise RuntimeError(f"only {scored / self.scenario.new:.1f} of {width} beams were there to be measured")
        return seconds

    def warm_up(self) -> None:
        """Let everything run once, and have captured what will be measured, where CUDA graphs compute."""
        self.search(4)
        if self.steps():
            self.search(1)
            self.search(self.scenario.width)

    def eagerly(self, measure: Callable[[], float]) -> float:
        """A measurement with every kernel launched by itself, where CUDA graphs launch those of a step."""
        graphs = [decoder.graphs for decoder in self._decoders]
        try:
            for decoder in self._decoders:
                decoder.graphs = None
            return measure()
        finally:
            for decoder, own in zip(self._decoders, graphs, strict=True):
                decoder.graphs = own

    def steps(self) -> dict[str, Any]:
        """How the forwards of each model were computed, where CUDA graphs do that: counters, and what failed."""
        return {
            decoder.name: {**asdict(decoder.graphs.counts), "failure": decoder.graphs.failure}
            for decoder in self._decoders
            if decoder.graphs is not None
        }

    def search_whole(self, width: int) -> float:
        """The search, with rewards computed for the whole vocabulary in place of candidates alone."""
        # no share of the vocabulary is small enough to be gathered
        with patch.object(candidate_rewards, "MOST_COLUMNS", -1.0):
            return self.search(width)

    def constrained(self) -> float:
        """The wide search under the grammar of a JSON schema.

        The first token is forced, so it has one narrow step more than the search without: as many wide ones then.
        """
        return self._timed(lambda: self._answer(self.scenario.width, self.grammar()))

    def grammar(self, longer: int = 0) -> Grammar:
        """Lists too long to be closed within an answer: every beam is in a string, number or object of its own."""
        kinds = [{"type": "string"}, {"type": "integer"}, {"type": "object"}, {"type": "boolean"}]
        items = {"anyOf": kinds}
        return Grammar.json_schema({"type": "array", "items": items, "minItems": 4 * self.scenario.new + longer})

    def compiling(self) -> tuple[float, float]:
        """The first grammar of a model, for which its vocabulary is read, and another one."""
        tokenizer, rows = self.engine.tokenizer, self.scenario.vocabulary
        compiler = GrammarCompiler(tokenizer, rows, self.engine.end_tokens)
        first = self._timed(lambda: compiler.compile(self.grammar()))
        return first, self._timed(lambda: compiler.compile(self.grammar(longer=1)))

    def masks(self) -> tuple[float, float]:
        """What may follow all beams, a step, and the whole step of the wide search in a grammar."""
        spent: list[float] = []
        with self._watch(GrammarMatcher, "allowed", lambda arguments, seconds: spent.append(seconds)):
            total = self.constrained()
        return sum(spent) / len(spent), total / len(spent)

    def bare(self) -> float:
        """The forwards of the wide search with nothing around them."""
        if self._replay is None:
            self._replay = Replay(self._decoders)
            with self._replay.recording():
                self.eagerly(lambda: self._timed(lambda: self._answer(self.scenario.width)))
        replay = self._replay
        return self._timed(lambda: self.engine.call(replay.run))

    def chats(self, together: bool) -> float:
        """Short chats, all at once or one after the other."""
        length, count = max(self.scenario.prompt // 16, 8), self.scenario.chats
        prompts = [random_prompt(length, self.scenario.vocabulary, seed) for seed in range(count)]

        def run() -> None:
            if together:
                for handle in [self._submit(prompt, 4) for prompt in prompts]:
                    handle.result()
            else:
                for prompt in prompts:
                    self._submit(prompt, 4).result()

        return self._timed(run)

    def breakdown(self) -> dict[str, float]:
        """One wide search by what its time went into."""
        spent = {"prefill": 0.0, "policy": 0.0, "reward": 0.0, "selection": 0.0}
        width = self.scenario.width

        def book_forward(name: str) -> Callable[[tuple[Any, ...], float], None]:
            def book(arguments: tuple[Any, ...], seconds: float) -> None:
                spent["prefill" if len(arguments[0]) > width else name] += seconds

            return book

        def book_selection(arguments: tuple[Any, ...], seconds: float) -> None:
            spent["selection"] += seconds

        with (
            self._watch(self._decoders[0], "forward", book_forward("policy")),
            self._watch(self._decoders[1], "forward", book_forward("reward")),
            self._watch(self.engine.scheduler, "_advance", book_selection),
        ):
            total = self._timed(lambda: self._answer(width))
        return {**spent, "rest": total - sum(spent.values()), "total": total}

    def cache_overhead(self) -> float:
        """Peak bytes of the tensors of keys and values, over those of the distinct live nodes at that moment.

        For a bench that has searched before: else the pools have not been filled beyond this one search.
        """
        decoder = self.engine.policy
        peak = {"bytes": 0, "live": 1}

        def book(arguments: tuple[Any, ...], seconds: float) -> None:
            live = decoder.forest.live_nodes(arguments[0]) * decoder.pool.bytes_per_slot
            if live >= peak["live"]:
                peak.update(bytes=decoder.pool.allocated_bytes, live=live)

        with self._watch(decoder, "forward", book):
            self._answer(self.scenario.width)
        return peak["bytes"] / peak["live"]

    def close(self) -> None:
        """End the engine's thread."""
        self.engine.close()

    def _answer(self, width: int, grammar: Grammar | None = None) -> SearchResult:
        return self._submit(self._prompt(self.scenario.prompt), width, grammar).result()

    def _submit(self, prompt: list[int], width: int, grammar: Grammar | None = None) -> Handle:
        # a salt of its own for every run: nobody profits from an earlier one's prompt
        self._runs += 1
        tokens = self.scenario.new + (grammar is not None)
        settings = SearchSettings(width=width, max_tokens=tokens, min_tokens=tokens)
        return self.engine.submit(prompt, settings=settings, cache_salt=str(self._runs), grammar=grammar)

    def _prompt(self, length: int) -> list[int]:
        return random_prompt(length, self.scenario.vocabulary)

    def _timed(self, run: Callable[[], object]) -> float:
        self._wait()
        began = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()

    @contextmanager
    def _watch(self, owner: Any, name: str, book: Callable[[tuple[Any, ...], float], None]) -> Iterator[None]:
        real, own = getattr(owner, name), vars(owner).get(name)

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
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
