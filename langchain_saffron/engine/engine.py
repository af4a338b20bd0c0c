"""The engine: one worker thread that owns the models, and the calls that hand it requests."""

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Unpack

import torch

from langchain_saffron.embedded import KITCHEN_NAME
from langchain_saffron.engine.admission import Admission
from langchain_saffron.engine.handle import AsyncHandle, Handle
from langchain_saffron.engine.loading import load_models
from langchain_saffron.engine.metrics import EngineMetrics
from langchain_saffron.engine.model_limits import Lengths
from langchain_saffron.engine.prm_cache import PrmScorer
from langchain_saffron.engine.prm_function import FunctionScorer
from langchain_saffron.engine.request import RequestOptions
from langchain_saffron.engine.result import PromptRisk, SearchResult
from langchain_saffron.engine.reward_columns import RewardColumns
from langchain_saffron.engine.scheduler import Scheduler
from langchain_saffron.engine.worker import Worker
from langchain_saffron.models.decoder import DEFAULT_CACHE_TOKENS, TrieDecoder
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.quantization import sample_ids
from langchain_saffron.models.reward_head import RewardHead
from langchain_saffron.models.source import ModelSource
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.search import look_ahead
from langchain_saffron.search.registry import StartSearch
from langchain_saffron.settings import Quantization, SearchSettings

R = TypeVar("R")

# requests that may wait: far more than one host's threads, and little memory
DEFAULT_QUEUE = 4096


class SaffronEngine:
    """A policy and its reward model behind one queue of requests; knows nothing of LangChain.

    All models run on one worker thread. Requests that run at the same time share its forwards, whoever
    sends them and from whatever thread.

    Attributes:
        policy: The policy over its trie cache.
        reward_model: The MRM or the head, if there is one.
        process_reward_model: The PRM, if there is one.
        name: A short name of the policy.
        loaded_from: What it was asked for by, where it is shared by all who ask for the same; empty otherwise.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        reward_model: MultifurcationRewardModel | RewardHead | None = None,
        max_cache_tokens: int = DEFAULT_CACHE_TOKENS,
        name: str = "",
        attn_implementation: str | None = None,
        owned: bool = False,
        process_reward_model: ProcessRewardModel | None = None,
        max_queue: int = DEFAULT_QUEUE,
        quantization: Quantization | None = None,
        enforce_eager: bool = False,
    ) -> None:
        """Take loaded models; `from_pretrained` loads them.

        Args:
            model: The policy, a transformers causal LM.
            tokenizer: Its tokenizer.
            reward_model: The MRM, or a head on this policy, where a search needs one.
            max_cache_tokens: The policy's KV cache's bound in tokens.
            name: What the policy is called; without it, what the model says.
            attn_implementation: `"sdpa"` or `"eager"` in place of the tree's own attention.
            owned: Whether `model` may be changed for speed; else that is done in a copy.
            process_reward_model: A guard, a classifier or a function, for `search="best_of_n"`, `"rebase"` and
                `"deal"`. It is asked on the engine's thread: ask it yourself through `call` while the engine lives.
            max_queue: How many requests may wait until they begin; one more is an `EngineBusyError`.
            quantization: `"int8"` for the policy's weights in int8, on a CPU.
            enforce_eager: Whether decode steps launch their kernels one by one, where on a GPU CUDA graphs do.

        Raises:
            VocabularyMismatchError: Policy and reward models do not share their ordinary tokens.
            ModelLoadError: A head was trained on another policy.
            UnsupportedModelError: A model cannot share a trie.
        """
        for scorer in (reward_model, process_reward_model):
            if scorer is not None and not isinstance(scorer, RewardHead):
                check_vocabularies(tokenizer, scorer.tokenizer)
        self.process_reward_model = process_reward_model
        prm: PrmScorer | FunctionScorer | None = None
        if process_reward_model is not None:
            function = process_reward_model.function
            prm = PrmScorer(process_reward_model) if function is None else FunctionScorer(function)
        text = None if quantization is None else sample_ids(tokenizer, model.get_input_embeddings().weight.shape[0])
        self.policy = TrieDecoder(model, "policy", max_cache_tokens, attn_implementation, owned, text)
        if isinstance(reward_model, RewardHead):
            reward_model = reward_model.on(self.policy, tokenizer)
        self.reward_model = reward_model
        self.name = name or getattr(model, "name_or_path", "") or type(model).__name__
        rewards = None if reward_model is None else RewardColumns(reward_model, self.policy)
        self._admission = Admission(
            self.policy,
            tokenizer,
            end_token_ids(model, tokenizer),
            reward_model,
            rewards,
            prm,
            getattr(model, "generation_config", None),
        )
        # nothing that the worker's thread reaches may hold the engine: dropping the engine ends the thread
        decoder = reward_model.decoder if isinstance(reward_model, MultifurcationRewardModel) else None
        if not enforce_eager:
            self.policy.capture_steps()
            if decoder is not None:
                decoder.capture_steps()
        self.scheduler = Scheduler(self.policy, decoder, rewards, prm)
        self._worker = Worker(self.scheduler, max_queue)
        self._finalizer = weakref.finalize(self, self._worker.close)
        self.loaded_from: dict[str, Any] = {}

    @property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return self._admission.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._admission.tokenizer = tokenizer

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens that end a turn."""
        return self._admission.end_tokens

    @end_tokens.setter
    def end_tokens(self, tokens: Sequence[int]) -> None:
        self._admission.end_tokens = tuple(tokens)

    @property
    def context(self) -> int:
        """Tokens that there is room for in the policy, prompt and answer together."""
        return self.policy.context

    @property
    def is_kitchen(self) -> bool:
        """Whether this is the small embedded demonstration model."""
        return self.name == KITCHEN_NAME

    def limit(self, max_running: int | None = None, max_context: int | None = None) -> None:
        """Bound what requests may ask of it from now on; `None` leaves a bound as it is.

        Args:
            max_running: How many search at a time; others wait.
            max_context: Tokens of prompt and answer together, where the models take more.
        """
        if max_running is not None:
            self.scheduler.max_running = max_running
        if max_context is not None:
            self.policy.context = min(self.policy.context, max_context)

    def metrics(self) -> EngineMetrics:
        """What it has done since it was loaded, and how things stand now; may be asked from any thread."""
        forest = self.policy.forest
        return self.scheduler.metrics.copy(
            num_requests_running=self.scheduler.running,
            num_requests_waiting=self._worker.waiting,
            kv_cache_usage_perc=1 - forest.available / forest.capacity,
            kv_cache_evictions=forest.evictions,
            pauses=self.scheduler.pauses,
            admission_rejections=self._worker.rejections.copy(),
        )

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its answers depend on, for `models.fingerprint`."""
        policy = self.policy.model, self.tokenizer, self.end_tokens, self._admission.generation_config
        return *policy, self.reward_model, self.process_reward_model

    @classmethod
    def from_pretrained(
        cls,
        model: ModelSource | None = None,
        reward_model: str | Path | MultifurcationRewardModel | RewardHead | None = None,
        reward_base: ModelSource | None = None,
        process_reward_model: ModelSource | ProcessRewardModel | Callable[..., Any] | None = None,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
        *,
        tokenizer: Any = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
        quantization: Quantization | None = None,
        quantization_config: Any = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        hf_token: str | None = None,
        max_cache_tokens: int = DEFAULT_CACHE_TOKENS,
        max_queue: int = DEFAULT_QUEUE,
        enforce_eager: bool = False,
    ) -> "SaffronEngine":
        """Load an engine.

        Args:
            model: The policy: a hub id, a directory, a GGUF file or a loaded causal LM. `None` takes the embedded
                kitchen models, policy and reward model; `"smollm2"` a small real policy with its own.
            reward_model: An MRM directory or hub id (published layout or ours), a head's, or a loaded one. `None` is
                enough for `search="greedy"` and `"sample"`.
            reward_base: The MRM's base model, where its directory does not name one that can be found.
            process_reward_model: A guard's or classifier's hub id or directory, a function of a prompt's and an
                answer's text or a `conversation_guard`, or a loaded `ProcessRewardModel`, for
                `search="best_of_n"`, `"rebase"` and `"deal"`.
            device: `"cpu"`, `"cuda"`, `"cuda:1"`, …
            dtype: Of the weights, such as `"float32"` or `"bfloat16"`; `"auto"` for the checkpoint's own.
            tokenizer: The policy's, or its directory or hub id, for a model that does not say where its own is.
            device_map: Passed to transformers (accelerate).
            attn_implementation: `"sdpa"` or `"eager"` in place of the tree's own attention.
            quantization: `"int8"` for the weights of policy and reward model in int8, on a CPU; a loaded reward model
                stays as it is.
            quantization_config: Passed to transformers, for the policy.
            revision: The policy's branch, tag or commit on the hub.
            trust_remote_code: Whether code in checkpoints may run.
            hf_token: For gated or private models.
            max_cache_tokens: The KV cache's bound in tokens, for each model.
            max_queue: How many requests may wait until they begin; one more is an `EngineBusyError`.
            enforce_eager: Whether decode steps launch their kernels one by one, where on a GPU CUDA graphs do.

        Raises:
            ModelLoadError: Something cannot be found, is damaged, or does not fit.
            SettingsError: A quantization that does not go with the rest.
        """
        parts = load_models(
            model,
            reward_model,
            reward_base,
            process_reward_model,
            device=device,
            dtype=dtype,
            tokenizer=tokenizer,
            quantization=quantization,
            quantization_config=quantization_config,
            revision=revision,
            max_cache_tokens=max_cache_tokens,
            device_map=device_map,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            hf_token=hf_token,
        )
        return cls(**parts, max_queue=max_queue, enforce_eager=enforce_eager)

    def generate(
        self,
        prompt_ids: Sequence[int],
        reward_prompt_ids: Sequence[int] | None = None,
        settings: SearchSettings | None = None,
        record_beams: bool = False,
        **options: Unpack[RequestOptions],
    ) -> SearchResult:
        """Search for an answer, and wait for it. May be called from many threads at once.

        Args:
            prompt_ids: The policy's prompt, taken as it is: no template, no BOS added.
            reward_prompt_ids: The reward model's prompt; `None` takes the policy's.
            settings: How to search; `None` for the defaults.
            record_beams: Whether `SearchResult.beams` is wanted.
            **options: See `RequestOptions`.

        Returns:
            The answer.

        Raises:
            SettingsError: Settings that cannot work, before any forward.
            GrammarError: A grammar that cannot be compiled, before any forward, or that became too complex.
            ExtraRequiredError: A grammar without llguidance.
            ContextOverflowError: The prompt leaves no room for an answer.
            EngineBusyError: Too many requests wait already.
            TimeoutError: The timeout passed.
        """
        return self.submit(prompt_ids, reward_prompt_ids, settings, record_beams, **options).result()

    def look_ahead(
        self,
        prompt_ids: Sequence[int],
        reward_prompt_ids: Sequence[int] | None = None,
        settings: SearchSettings | None = None,
        **options: Unpack[RequestOptions],
    ) -> PromptRisk:
        """How safe the policy's next words are likely to be: one forward of the prompt, which an answer then shares.

        Args:
            prompt_ids: As for `generate`.
            reward_prompt_ids: As for `generate`.
            settings: `top_p`, `temperature` and `budget` count.
            **options: See `RequestOptions`.

        Raises:
            RewardModelRequiredError: There is no MRM.
        """
        settings = (settings or SearchSettings()).model_copy(
            update={"search": "saffron", "verify": None, "max_tokens": 1, "stop": ()}
        )
        handle = Handle()
        self._submit(handle, prompt_ids, reward_prompt_ids, settings, start=look_ahead, **options)
        result = handle.result()
        return PromptRisk(result.reward, result.stats.min_reward, result.stats)

    def submit(
        self,
        prompt_ids: Sequence[int],
        reward_prompt_ids: Sequence[int] | None = None,
        settings: SearchSettings | None = None,
        record_beams: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Handle:
        """Like `generate`, but returns at once; `handle.result()` waits for the answer."""
        handle = Handle()
        self._submit(handle, prompt_ids, reward_prompt_ids, settings, record_beams, **options)
        return handle

    def stream(
        self,
        prompt_ids: Sequence[int],
        reward_prompt_ids: Sequence[int] | None = None,
        settings: SearchSettings | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generator[str | SearchResult, None, None]:
        """Like `generate`, but gives text as it becomes final, and the result last.

        Closing the iterator stops the search within a step.
        """
        yield from self.submit(prompt_ids, reward_prompt_ids, settings, **options).events()

    async def astream(
        self,
        prompt_ids: Sequence[int],
        reward_prompt_ids: Sequence[int] | None = None,
        settings: SearchSettings | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[str | SearchResult, None]:
        """Like `stream`, on the running event loop, which is never blocked.

        Cancelling the task or closing the iterator stops the search within a step.
        """
        handle = AsyncHandle(asyncio.get_running_loop())
        submit = partial(self._submit, handle, prompt_ids, reward_prompt_ids, settings, **options)
        try:
            if options.get("grammar") is None:
                submit()
            else:
                # a grammar may take seconds to compile
                await asyncio.to_thread(submit)
            ended = False
            while not ended:
                item = await handle.receive()
                ended = isinstance(item, SearchResult)
                yield item
        finally:
            handle.close()

    def call(self, function: Callable[[], R]) -> R:
        """Run `function` on the engine's thread, between two steps of its requests, and wait for it.

        Models must not be used from two threads at once; and on a CPU, a second thread that computes slows the
        first one down for as long as it lives. Within `function`, another `call` runs at once, and a request is a
        `ReentrantCallError`: it would wait for itself.

        Raises:
            EngineClosedError: The engine was closed.
        """
        return self._worker.call(function)

    def close(self) -> None:
        """Stop the worker; running requests fail with `EngineClosedError`."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether it was closed, and takes no more requests."""
        return self._worker.closed

    def resolve(
        self,
        settings: SearchSettings | None,
        prompt_length: int,
        reward_length: int | None = None,
        prm_length: int | None = None,
    ) -> SearchSettings:
        """Fill in what the models decide: `max_tokens`, `safety_threshold` and `mask`.

        Raises:
            RewardModelRequiredError: The search needs a reward model that is not there.
            SettingsError: The search is not available, or the settings contradict each other.
            ContextOverflowError: The prompt leaves no room for an answer.
        """
        reward_length = reward_length or prompt_length
        lengths = Lengths(prompt_length, reward_length, prm_length or reward_length)
        return self._admission.models.resolve(settings or SearchSettings(), lengths)

    def _submit(
        self,
        handle: Handle | AsyncHandle,
        prompt_ids: Sequence[int],
        reward_prompt_ids: Sequence[int] | None,
        settings: SearchSettings | None,
        record_beams: bool = False,
        start: StartSearch | None = None,
        **options: Unpack[RequestOptions],
    ) -> None:
        """Check a request on the caller's thread, and queue it for the worker."""
        request = self._admission.request(
            handle, prompt_ids, reward_prompt_ids, settings, record_beams=record_beams, start=start, **options
        )
        self._worker.submit(request)
        # not before: a request that is turned away leaves no timer behind
        handle.watch(self._worker, request.deadline)
