"""The one way into the engine: from what a caller asks for to a request that the models allow."""

import time
import warnings
from collections.abc import Sequence
from typing import Any, Literal, Unpack

from langchain_saffron.engine.detokenizer import MarkerSigns, StopChecker, TextStream
from langchain_saffron.engine.handle import AsyncHandle, Handle
from langchain_saffron.engine.prm_cache import PrmScorer
from langchain_saffron.engine.prm_function import FunctionScorer
from langchain_saffron.engine.request import Request, RequestOptions
from langchain_saffron.engine.reward_columns import RewardColumns
from langchain_saffron.engine.said_nodes import SaidNodes
from langchain_saffron.engine.sentence_ends import SentenceEnds, SpokenSentences
from langchain_saffron.engine.thought_reader import SpokenStops, ThoughtStream
from langchain_saffron.errors import CacheFullError, ContextOverflowError, RewardModelRequiredError, SettingsError
from langchain_saffron.grammar import Grammar
from langchain_saffron.grammar.after_thought import AfterThought
from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.grammar.thought_tokens import ThoughtTokens
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.reward_head import RewardHead
from langchain_saffron.search import Constraint, SearchInputs, find_search
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.protocol import Sentences
from langchain_saffron.search.recorder import Recorder
from langchain_saffron.search.registry import StartSearch
from langchain_saffron.settings import DEFAULT_REWARD_ERROR, DEFAULT_SAFETY_THRESHOLD, SearchSettings
from langchain_saffron.templates.thought_form import ThoughtForm
from langchain_saffron.templates.thought_markers import Thoughts

DEFAULT_MAX_TOKENS = 512
# enough of what an answer continues to know whether it begins with a space
CONTEXT_TOKENS = 8
# how a refusal begins: alone; what may stand before it; both
_OPENINGS = ("I can't", ".", ". I can't")
# parts of a generation config that plain decoding here does not apply
IGNORED_PROCESSORS = (
    "no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "sequence_bias",
    "guidance_scale",
)


class Admission:
    """Checks ids and settings, fills in what the models decide, compiles the grammar and opens the budget.

    All of it happens on the caller's thread and before any forward.

    Attributes:
        tokenizer: The policy's tokenizer.
        end_tokens: Tokens that end a turn.
    """

    def __init__(
        self,
        policy: TrieDecoder,
        tokenizer: Any,
        end_tokens: Sequence[int],
        reward_model: MultifurcationRewardModel | RewardHead | None = None,
        rewards: RewardColumns | None = None,
        prm: PrmScorer | FunctionScorer | None = None,
        generation_config: Any = None,
    ) -> None:
        """Take the models that requests are checked against.

        Args:
            policy: The policy over its cache.
            tokenizer: Its tokenizer.
            end_tokens: Tokens that end a turn.
            reward_model: The MRM, if there is one.
            rewards: The same over the policy's vocabulary.
            prm: The process reward model, if there is one.
            generation_config: The policy's, for `max_new_tokens` and `repetition_penalty`.
        """
        self.end_tokens = tuple(end_tokens)
        self._policy = policy
        self.tokenizer = tokenizer
        self._reward_model = reward_model
        self._mask: Literal["strict", "soft"] | None = None
        self._rewards = rewards
        self._prm = prm
        self.generation_config = generation_config
        self._compiler: GrammarCompiler | None = None
        self._thought_tokens: dict[ThoughtForm, ThoughtTokens] = {}
        self._warned = False

    def request(
        self,
        handle: Handle | AsyncHandle,
        prompt_ids: Sequence[int],
        reward_prompt_ids: Sequence[int] | None,
        settings: SearchSettings | None,
        *,
        record_beams: bool = False,
        start: StartSearch | None = None,
        **options: Unpack[RequestOptions],
    ) -> Request:
        """A request that can run; the arguments are those of `SaffronEngine.generate`.

        Args:
            handle: Where its events arrive.
            prompt_ids: The policy's prompt.
            reward_prompt_ids: The reward model's; `None` takes the policy's.
            settings: How to search; `None` for the defaults.
            record_beams: Whether the live beams of every step are wanted.
            start: What searches, in place of what the settings name.
            **options: See `RequestOptions`.

        Raises:
            SettingsError: Ids or settings that cannot work.
            GrammarError: A grammar that cannot be compiled.
            RequestTimeoutError: The timeout passed while it was.
            ContextOverflowError: The prompt leaves no room for an answer.
        """
        thoughts = options.get("thoughts")
        context, timeout = options.get("context_ids", ())[-CONTEXT_TOKENS:], options.get("timeout")
        policy_ids = _checked(prompt_ids, self._policy, "prompt_ids")
        reward_ids = policy_ids
        if reward_prompt_ids is not None and isinstance(self._reward_model, MultifurcationRewardModel):
            reward_ids = _checked(reward_prompt_ids, self._reward_model.decoder, "reward_prompt_ids")
        prm_ids: Sequence[int] = reward_ids
        if (given := options.get("prm_prompt_ids")) is not None and self._prm is not None:
            # a function may need what ids remember besides themselves
            prm_ids = _checked(given, self._prm.decoder, "prm_prompt_ids") if self._prm.decoder else given
        settings = self.resolve(settings or SearchSettings(), len(policy_ids), len(reward_ids), len(prm_ids))
        if options.get("record_trace") and settings.search != "saffron":
            raise SettingsError(f"record_trace: search={settings.search!r} has no tree to record: use search='saffron'")
        # its time runs while the grammar is compiled
        deadline = None if timeout is None else time.perf_counter() + timeout
        constraint = self._constraint(options.get("grammar"), timeout, thoughts)
        plain = not settings.needs_reward_model
        if plain:
            self._warn_of_processors()
        prm = self._prm if settings.needs_process_reward_model else None
        inputs = SearchInputs(
            settings=settings,
            end_tokens=self.end_tokens,
            seen=None if settings.mask == "off" or self._rewards is None else self._rewards.seen,
            stops=SpokenStops(self.tokenizer, thoughts, settings.stop, context)
            if thoughts
            else StopChecker(self.tokenizer, settings.stop, context),
            budget=self._meter(settings, len(policy_ids), len(reward_ids), len(prm_ids)),
            repetition_penalty=getattr(self.generation_config, "repetition_penalty", None) or 1.0,
            prompt=policy_ids,
            trace=[] if record_beams else None,
            recorder=Recorder() if options.get("record_trace") else None,
            constraint=constraint,
            marks=tuple(thoughts.markers.signs) if thoughts else (),
            refusing=self._refusing(settings, bool(context)) if not (constraint or thoughts) else None,
            sentences=self._sentences(context, thoughts, options.get("reward_thoughts", True))
            if settings.verify
            else None,
            reward_error=self._reward_error(),
        )
        markers = MarkerSigns(options.get("markers") or {})
        return Request(
            inputs=inputs,
            start=start or find_search(settings.search),
            policy_ids=policy_ids,
            # a head reads what the policy reads
            reward_ids=None if plain or isinstance(self._reward_model, RewardHead) else reward_ids,
            prm_ids=prm_ids if prm else None,
            salt=options.get("cache_salt", ""),
            stream=ThoughtStream(self.tokenizer, thoughts, settings.stop, context, markers)
            if thoughts
            else TextStream(self.tokenizer, settings.stop, context, markers),
            send=handle.put,
            deadline=deadline,
            cancelled=handle.cancelled,
            question=len(prm.suffix) if prm else 0,
            said=SaidNodes(self.tokenizer, thoughts) if thoughts and not options.get("reward_thoughts", True) else None,
        )

    def resolve(
        self, settings: SearchSettings, prompt_length: int, reward_length: int, prm_length: int
    ) -> SearchSettings:
        """Fill in what the models decide: `max_tokens`, `safety_threshold` and `mask`.

        Args:
            settings: What the user set.
            prompt_length: Tokens of the policy's prompt.
            reward_length: Tokens of the reward model's.
            prm_length: Tokens of the process reward model's.

        Raises:
            RewardModelRequiredError: The search needs a reward model that is not there.
            SettingsError: The settings contradict each other.
            ContextOverflowError: The prompt leaves no room for an answer.
        """
        search = settings.search
        if settings.needs_reward_model and self._reward_model is None:
            raise RewardModelRequiredError(
                f"search={search!r} needs a reward model: pass reward_model=, or use search='greedy'"
            )
        if settings.needs_process_reward_model and self._prm is None:
            asks, instead = f"search={search!r}", "use search='saffron'"
            if settings.verify is not None:
                asks, instead = f"verify={settings.verify!r}", "leave verify= out"
            raise RewardModelRequiredError(
                f"{asks} asks a process reward model: pass process_reward_model=, or {instead}"
            )
        if settings.refusal_threshold is not None and not settings.needs_reward_model:
            raise SettingsError(f"refusal_threshold has no effect on search={search!r}: use search='saffron'")
        rooms = [("policy", self._policy, prompt_length)]
        if settings.needs_reward_model and self._reward_model is not None:
            rooms.append(("reward model", self._reward_model.decoder, reward_length))
        if settings.needs_process_reward_model and self._prm is not None and self._prm.decoder is not None:
            rooms.append(("process reward model", self._prm.decoder, prm_length + len(self._prm.suffix)))
        for name, decoder, length in rooms:
            if length >= decoder.context == decoder.capacity:
                raise CacheFullError(
                    f"the prompt has {length} tokens, but the {name}'s KV cache has {decoder.capacity} slots, for the "
                    "answer too: raise max_cache_tokens, or shorten the messages"
                )
            if length >= decoder.context:
                raise ContextOverflowError(
                    f"the prompt has {length} tokens, but the {name}'s context has {decoder.context} with the answer "
                    "included: shorten the messages"
                )
        room = min(decoder.context - length for _, decoder, length in rooms)
        configured = getattr(self.generation_config, "max_new_tokens", None)
        max_tokens = settings.max_tokens or configured or DEFAULT_MAX_TOKENS
        threshold = settings.safety_threshold
        if threshold is None and self._reward_model is not None:
            threshold = self._reward_model.safety_threshold
        if threshold is None:
            threshold = DEFAULT_SAFETY_THRESHOLD
        mask = settings.mask
        if mask == "auto":
            # counted once: on a device, asking how many tokens were seen waits for all that is being computed
            if self._mask is None:
                self._mask = self._reward_model.mask if self._reward_model is not None else "strict"
            mask = self._mask
        filled = {"max_tokens": min(max_tokens, room), "safety_threshold": threshold, "mask": mask}
        return settings.model_copy(update=filled)

    def _reward_error(self) -> float:
        error = None if self._reward_model is None else self._reward_model.error
        return DEFAULT_REWARD_ERROR if error is None else error

    def _meter(self, settings: SearchSettings, prompt_length: int, reward_length: int, prm_length: int) -> BudgetMeter:
        """What the request may spend, and what its steps cost in these models."""
        policy, prm = self._policy, self._prm if settings.needs_process_reward_model else None
        reward = self._reward_model.decoder if settings.needs_reward_model and self._reward_model else None

        unembedding = reward.unembedding if reward else None
        later = unembedding.product * unembedding.outputs / 1e12 if unembedding else 0.0

        def row_cost(length: int) -> float:
            cost = policy.row_cost(prompt_length - 1 + length)
            return cost + reward.row_cost(reward_length - 1 + length) if reward else cost

        def prompt_cost() -> float:
            cost = policy.prompt_cost(prompt_length)
            cost += reward.prompt_cost(reward_length) if reward else 0.0
            return cost + (prm.prompt_cost(prm_length) if prm else 0.0)

        return BudgetMeter(
            settings.budget,
            row_cost=row_cost,
            later_cost=later,
            calls_per_row=1 if settings.needs_reward_model else 0,
            prm_cost=(lambda length: prm.call_cost(prm_length + length)) if prm else None,
            prm_row_cost=(lambda length: prm.row_cost(prm_length + length)) if prm else None,
            prm_each_row=settings.verify is None,
            prompt_cost=prompt_cost,
            least_width=settings.width_floor or 1,
        )

    def _refusing(self, settings: SearchSettings, continues: bool) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """What a refusal in the model's own words begins with, at the beginning and behind other words."""
        may_refuse = settings.refusal_threshold is not None or settings.verify is not None
        if settings.refusal_text is not None or not may_refuse:
            return None
        ids = [tuple(self.tokenizer(text, add_special_tokens=False).input_ids) for text in _OPENINGS]
        alone, stop, behind = ids
        # some tokenizers begin every text with a space
        behind = behind[len(stop) :] if behind[: len(stop)] == stop else alone
        return (behind if continues else alone), behind

    def _sentences(self, context: Sequence[int], thoughts: Thoughts | None, in_thoughts: bool) -> Sentences:
        """Where sentences end in what the process reward model reads."""
        if thoughts is None or in_thoughts:
            return SentenceEnds(self.tokenizer, context)
        return SpokenSentences(self.tokenizer, thoughts, context)

    def _constraint(
        self, grammar: Grammar | None, timeout: float | None, thoughts: Thoughts | None
    ) -> Constraint | None:
        """The grammar, compiled for the policy's tokens; what it says begins behind the thought."""
        if grammar is None:
            return None
        compiler = self._compiler
        if compiler is None or compiler.end_tokens != self.end_tokens:
            self._compiler = compiler = GrammarCompiler(self.tokenizer, self._policy.vocabulary, self.end_tokens)
            self._thought_tokens.clear()
        if thoughts is None or thoughts.supposed:
            return compiler.compile(grammar, timeout)
        form = thoughts.markers.form
        tokens = self._thought_tokens.get(form)
        if tokens is None:
            tokens = ThoughtTokens(thoughts.markers, compiler.written(), self.end_tokens)
            self._thought_tokens[form] = tokens
        place, again, calls = thoughts.place, bool(form.lead), None
        # of calls or a document, only the document has a lead
        if form.lead and place != "said" and (both := grammar.alternatives()):
            calls, grammar = compiler.compile(both[0], timeout), both[1]
        root = compiler.compile(grammar, timeout)
        return AfterThought.start(tokens, root, place, grammar.is_document, again, calls)

    def _warn_of_processors(self) -> None:
        """Name, once, the parts of the policy's generation config that plain decoding here leaves out."""
        odd = [name for name in IGNORED_PROCESSORS if getattr(self.generation_config, name, None)]
        if odd and not self._warned:
            self._warned = True
            warnings.warn(
                f"the policy's generation config sets {', '.join(odd)}, which plain decoding here does not apply",
                stacklevel=6,
            )


def _checked(ids: Sequence[int], decoder: TrieDecoder, name: str) -> tuple[int, ...]:
    """Prompt ids as plain integers.

    Raises:
        SettingsError: There are none, some are no integers, or some lie outside the model's vocabulary.
    """
    try:
        checked = tuple(int(i) for i in ids)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{name} has to be a sequence of token ids, not {type(ids).__name__}: {error}") from error
    if not checked:
        raise SettingsError(f"{name} is empty: a prompt needs at least one token")
    if min(checked) < 0 or max(checked) >= decoder.known_tokens:
        raise SettingsError(f"{name} holds ids outside the {decoder.name}'s vocabulary of {decoder.known_tokens}")
    return checked
