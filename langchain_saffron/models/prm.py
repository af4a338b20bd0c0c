"""The process reward model: the safety reward of every prefix of an answer."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch

from langchain_saffron.embedded import named_part
from langchain_saffron.errors import ModelLoadError, PromptError, SettingsError
from langchain_saffron.models.adapted import adapter_directory, attach_head, has_head
from langchain_saffron.models.classifier import TokenClassifier, label_weights
from langchain_saffron.models.classifier_kind import is_classifier, loading_class
from langchain_saffron.models.decoder import DEFAULT_CACHE_TOKENS, TrieDecoder
from langchain_saffron.models.decoder_scorer import DecoderScorer
from langchain_saffron.models.guard_function import GuardFunction, PromptIds, Score, ScoreConversations
from langchain_saffron.models.guard_retries import Retries
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.prefix_scoring import Branch, Pair
from langchain_saffron.models.prm_config import find_guard_prompt, model_name, stored_template
from langchain_saffron.models.source import ModelSource
from langchain_saffron.models.stream_guard import TEMPLATE as STREAM_TEMPLATE
from langchain_saffron.models.stream_guard import StreamGuard
from langchain_saffron.templates.guard_prompt import GuardPrompt, Turn
from langchain_saffron.templates.reward_template import RewardTemplate


class ProcessRewardModel:
    """`R(s)`, the safety reward of what has been said so far (SAFFRON paper, section 3.1).

    There are three kinds:

    - a guard, a causal LM that is asked after the answer: `R = logit(safe) - logit(unsafe)` (`from_pretrained`);
    - a decoder with a classification head, of texts or of tokens: its score, or the difference of two labels
      (`from_classifier`);
    - any function of the prompt's and the answer's text, or of a batch of conversations (`from_function`).

    The first two score all prefixes of an answer in a few tree forwards.

    Attributes:
        tokenizer: The tokenizer whose ids are scored.
        prompt: How a guard is asked; `None` for the other kinds.
        template: How a conversation is written up to the answer, where no guard prompt says.
        source: Where the reward comes from, in words.
        name: The model's name or path.
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str,
        scorer: DecoderScorer | GuardFunction,
        prompt: GuardPrompt | None = None,
        template: RewardTemplate | None = None,
        name: str = "",
    ) -> None:
        """Put the parts together; the constructors of the three kinds do that."""
        self.tokenizer = tokenizer
        self.source = source
        self.prompt = prompt
        self.template = template or RewardTemplate.for_tokenizer(tokenizer)
        self.name = name
        self._scorer = scorer

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its scores depend on, for `models.fingerprint`."""
        model = self.decoder.model if self.decoder else self.function
        return model, self.weights, self.prompt, self.template, self.tokenizer

    @classmethod
    def from_pretrained(
        cls,
        model: ModelSource,
        guard: str | GuardPrompt | None = None,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
        *,
        safe: str | int | None = None,
        unsafe: str | int | None = None,
        tokenizer: Any = None,
        max_cache_tokens: int = DEFAULT_CACHE_TOKENS,
        **load: Any,
    ) -> Self:
        """Load a guard model, or a classifier.

        Args:
            model: A hub id, a directory, a GGUF file or a loaded model. What its config names as a model for sequence
                or token classification is loaded as such.
            guard: How it is asked: a preset (`"llama-guard-3"`, `"shieldgemma"`, `"granite-guardian"`, `"wildguard"`,
                `"qwen3guard"`, `"chat"` for any other guard with a chat template) or a `GuardPrompt`. `None` takes what
                `prm_config.json` in the directory says, else the preset that the model's name suggests.
            device: Where it runs.
            dtype: Of the weights; rewards are float32 all the same.
            safe: The token (or label) that means safe, in place of the preset's.
            unsafe: The one that means unsafe.
            tokenizer: For a loaded model without a name to load it from.
            max_cache_tokens: The KV cache's bound.
            **load: Further options of the loading (`revision`, `hf_token`, `trust_remote_code`, `device_map`,
                `attn_implementation`, `quantization_config`).

        Raises:
            ModelLoadError: The model cannot be loaded, or lacks the safe or the unsafe token.
            SettingsError: How it is asked is not known.
            UnsupportedModelError: It cannot score a tree of tokens.
        """
        model = named_part(model, "process_reward_model")
        if is_classifier(model, load):
            return cls.from_classifier(
                model, device, dtype, safe=safe, unsafe=unsafe, tokenizer=tokenizer,
                max_cache_tokens=max_cache_tokens, **load,
            )  # fmt: skip
        prompt = find_guard_prompt(model, guard)
        given = {key: value for key, value in (("safe", safe), ("unsafe", unsafe)) if value is not None}
        prompt = prompt.model_copy(update=given)
        if tokenizer is None:
            tokenizer = _tokenizer(model, load)
        # before the weights: a wrong token should not cost their loading
        verdict, suffix = prompt.verdict_ids(tokenizer), prompt.suffix_ids(tokenizer)
        loaded = load_causal_lm(model, "process reward model", device=device, dtype=dtype, **load)
        decoder = _decoder(loaded, model, max_cache_tokens, load)
        if max(verdict) >= decoder.vocabulary:
            raise ModelLoadError(f"the process reward model has {decoder.vocabulary} outputs, none for {verdict}")
        return cls(
            tokenizer,
            f"PRM: logit({prompt.safe!r}) - logit({prompt.unsafe!r}) after the guard's question",
            DecoderScorer(decoder, suffix, {verdict[0]: 1.0, verdict[1]: -1.0}),
            prompt=prompt,
            name=model_name(model),
        )

    @classmethod
    def from_classifier(
        cls,
        model: ModelSource,
        device: str = "cpu",
        dtype: str | torch.dtype = "float32",
        *,
        safe: str | int | None = None,
        unsafe: str | int | None = None,
        template: RewardTemplate | None = None,
        tokenizer: Any = None,
        max_cache_tokens: int = DEFAULT_CACHE_TOKENS,
        **load: Any,
    ) -> Self:
        """Load a decoder with a classification head, such as a reward model, or a guard that labels every token.

        Args:
            model: A hub id, a directory or a loaded model. The directory of an adapter may hold the head as well
                (`models.adapted`).
            device: Where it runs.
            dtype: Of the weights.
            safe: The label that means safe; with a single output, that is the reward. `None` looks for a label that is
                called safe.
            unsafe: The label that means unsafe.
            template: How a conversation is written for it; `None` for what `prm_config.json` beside an adapter says,
                else the published one.
            tokenizer: For a loaded model without a name to load it from.
            max_cache_tokens: The KV cache's bound.
            **load: As in `from_pretrained`.

        Raises:
            ModelLoadError: The model cannot be loaded, or its labels do not say which means safe.
            UnsupportedModelError: It is no decoder.
        """
        if tokenizer is None:
            tokenizer = _tokenizer(model, load)
        load["kind"] = loading_class(model, load)
        adapter = adapter_directory(model) if has_head(model) else None
        if adapter is not None:
            template = template or stored_template(adapter)
        loaded = load_causal_lm(model, "process reward model", device=device, dtype=dtype, **load)
        if adapter is not None:
            attach_head(loaded, adapter)
        classifier = TokenClassifier(loaded)
        if isinstance(loaded, StreamGuard):
            template = template or STREAM_TEMPLATE
        weights = label_weights(loaded.config, safe, unsafe)
        decoder = _decoder(classifier, model, max_cache_tokens, load)
        labels = " - ".join(str(loaded.config.id2label[index]) for index in weights)
        source = f"PRM: the classifier's output {labels}"
        scorer = DecoderScorer(decoder, (), weights)
        return cls(tokenizer, source, scorer, template=template, name=model_name(model))

    @classmethod
    def from_function(
        cls,
        function: Score | ScoreConversations,
        tokenizer: Any,
        name: str = "a function",
        retries: Retries | None = None,
    ) -> Self:
        """Wrap a function, such as an encoder, a rule, or a service.

        Args:
            function: From the prompt's text and the answer's text so far to a reward; above 0 means safe. It is
                called once a prefix. Or, declared by `@conversation_guard` (`models.guard_function`), from a batch of
                conversations with messages to a reward each.
            tokenizer: The tokenizer whose ids are scored: that of the MRM to be trained, or of the policy.
            name: What error messages and records call it.
            retries: How often it is asked again where it fails; `None` makes that an error at once.
        """
        guard = GuardFunction(function, name, tokenizer, retries)
        return cls(tokenizer, f"PRM: the function {name}", guard, name=name)

    @property
    def decoder(self) -> TrieDecoder | None:
        """The model over its trie; `None` for a function."""
        return self._scorer.decoder if isinstance(self._scorer, DecoderScorer) else None

    @property
    def function(self) -> GuardFunction | None:
        """The function that scores; `None` for a model."""
        return self._scorer if isinstance(self._scorer, GuardFunction) else None

    @property
    def suffix(self) -> list[int]:
        """The guard's question, as token ids; empty for the other kinds."""
        return self._scorer.suffix if isinstance(self._scorer, DecoderScorer) else []

    @property
    def weights(self) -> dict[int, float]:
        """Which outputs make up the reward, and with what sign; empty for a function."""
        return self._scorer.weights if isinstance(self._scorer, DecoderScorer) else {}

    def prompt_ids(self, turns: Iterable[Turn]) -> list[int]:
        """Ids of a conversation up to where the answer begins, in this model's own template.

        Args:
            turns: (role, text), with the roles system, user and assistant, the answer left out.

        Raises:
            PromptError: The template cannot take these turns.
        """
        if self.prompt is None:
            turns = list(turns)
            ids = self.template.prompt_ids(self.tokenizer, turns)
            return PromptIds(ids, turns) if self.function is not None else ids
        ids, suffix = self.prompt.ids(self.tokenizer, turns)
        if suffix != self.suffix:
            raise PromptError(
                "the guard's chat template asks another question after this conversation than after a single turn: "
                "give its prompt as strings (GuardPrompt.of_strings)"
            )
        return ids

    def prefix_rewards(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> torch.Tensor:
        """The reward of every prefix of an answer.

        Args:
            prompt_ids: Up to where the answer begins, as `prompt_ids` writes it, at least one token. A guard's question
                is added after every prefix.
            response_ids: The answer.

        Returns:
            float32 tensor [len(response_ids)] on the CPU: `R` after its first token, after its first two, …

        Raises:
            ContextOverflowError: It does not fit into the model's context.
            NumericalError: The model returned NaN, or an infinite reward.
            SettingsError: There is no prompt, or an id lies outside the model's vocabulary.
        """
        return self.score([(prompt_ids, response_ids)])[0]

    def score(self, pairs: Sequence[Pair]) -> list[torch.Tensor]:
        """`prefix_rewards` of several answers, which share forwards, in the calling thread; one call at a time.

        Args:
            pairs: (prompt_ids, response_ids).
        """
        return self.score_branches(pairs, [()] * len(pairs))[0]

    def score_branches(
        self, pairs: Sequence[Pair], branches: Sequence[Sequence[Branch]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """`score`, and the rewards of prefixes of the answers with other tokens behind each.

        Args:
            pairs: (prompt_ids, response_ids).
            branches: Those of each pair: how many tokens of the answer, at most all but one, and what follows them.

        Returns:
            What `score` does, and float32 tensors [branches] on the CPU.
        """
        check_prompts(pairs)
        return self._scorer.branched_rewards(pairs, branches)

    def whole_rewards(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The reward of each answer as a whole; what answers begin with alike is read once.

        Args:
            pairs: (prompt_ids, response_ids), both with at least one token.

        Returns:
            float32 [answers].
        """
        return self._scorer.whole_rewards(pairs)

    def check_length(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> None:
        """Refuse an answer that does not fit into the model's context with its prompt and the guard's question.

        Raises:
            ContextOverflowError: It does not.
        """
        self._scorer.check_length(prompt_ids, response_ids)


def check_prompts(pairs: Sequence[Pair]) -> None:
    """Refuse answers that nothing leads.

    Raises:
        SettingsError: One has an empty prompt.
    """
    if any(not len(prompt) for prompt, _ in pairs):
        raise SettingsError("prompt_ids: at least one token has to lead the answer")


def _decoder(loaded: Any, source: ModelSource, max_cache_tokens: int, load: dict[str, Any]) -> TrieDecoder:
    return TrieDecoder(
        loaded,
        "process reward model",
        max_cache_tokens,
        load.get("attn_implementation"),
        owned=not isinstance(source, torch.nn.Module),
    )


def _tokenizer(model: ModelSource, load: dict[str, Any]) -> Any:
    name = "process reward model"
    return load_tokenizer(model, name, load.get("revision"), load.get("hf_token"), load.get("trust_remote_code"))
