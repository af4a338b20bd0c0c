"""Rewards of a decoder: what it says after every prefix of an answer, weighed."""

from collections.abc import Iterable, Sequence

import torch

from langchain_saffron.errors import NumericalError, SettingsError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.prefix_scoring import Branch, Pair, PrefixScorer
from langchain_saffron.runtime.forks import ForkSafeLock


class DecoderScorer:
    """Scores token ids by a guard or a classifier over its trie: all prefixes of an answer in a few forwards.

    It computes in the calling thread, one call at a time.

    Attributes:
        decoder: The model.
        suffix: The question that it is asked after every prefix, as token ids; empty for a classifier.
        weights: Which of its outputs make up the reward, and with what sign.
    """

    def __init__(self, decoder: TrieDecoder, suffix: Sequence[int], weights: dict[int, float]) -> None:
        self.decoder = decoder
        self.suffix = list(suffix)
        self.weights = weights
        self._outputs = PrefixScorer(decoder, suffix, list(weights))
        # a trie is one thread's at a time
        self._lock = ForkSafeLock()

    def branched_rewards(
        self, pairs: Sequence[Pair], branches: Sequence[Sequence[Branch]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The reward of every prefix of several answers, and of prefixes with other tokens behind each.

        Args:
            pairs: (prompt_ids, response_ids); the prompt has at least one token.
            branches: Those of each pair: how many tokens of the answer, at most all but one, and what follows them.

        Returns:
            float32 tensors [response_ids], and [branches], on the CPU.

        Raises:
            ContextOverflowError: A conversation does not fit into the model's context.
            NumericalError: The model returned NaN, or an infinite reward.
            SettingsError: An id lies outside the model's vocabulary.
        """
        places = [i for i, (_, response) in enumerate(pairs) if len(response)]
        asked = [pairs[i] for i in places]
        self._check_ids([*(ids for pair in asked for ids in pair), *(ids for some in branches for _, ids in some)])
        rewards, others = [torch.empty(0)] * len(pairs), [torch.empty(0)] * len(pairs)
        if not asked:
            return rewards, others
        with self._lock:
            found = self._outputs.branched_outputs(asked, [branches[i] for i in places])
        for i, outputs, beside in zip(places, *found, strict=True):
            rewards[i], others[i] = self._rewards(outputs), self._rewards(beside)
        return rewards, others

    def whole_rewards(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The reward of whole answers; what they begin with alike is read once.

        Args:
            pairs: (prompt_ids, response_ids), with at least one token.

        Returns:
            float32 [pairs], on the CPU.

        Raises:
            ContextOverflowError: A conversation does not fit into the model's context.
            NumericalError: The model returned NaN, or an infinite reward.
        """
        with self._lock:
            outputs = self._outputs.end_outputs([[*prompt, *response] for prompt, response in pairs])
        return self._rewards(outputs)

    def check_length(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> None:
        """Refuse what does not fit into the model's context together with the question.

        Raises:
            ContextOverflowError: It does not.
        """
        self._outputs.check_length(prompt_ids, response_ids)

    def _check_ids(self, texts: Iterable[Sequence[int]]) -> None:
        vocabulary = self.decoder.known_tokens
        if any(not 0 <= token < vocabulary for ids in texts for token in ids):
            raise SettingsError(f"prompt_ids, response_ids: ids outside the vocabulary of {vocabulary} are there")

    def _rewards(self, outputs: torch.Tensor) -> torch.Tensor:
        return weigh(outputs, self.weights.values()).cpu()


def weigh(outputs: torch.Tensor, signs: Iterable[float]) -> torch.Tensor:
    """The reward that a model's outputs make up.

    Args:
        outputs: [rows, columns], of any dtype.
        signs: Each column's.

    Returns:
        float32 [rows], on the same device.

    Raises:
        NumericalError: One is infinite, or NaN.
    """
    rewards = torch.zeros(len(outputs), device=outputs.device)
    for column, sign in enumerate(signs):
        rewards += sign * outputs[:, column].float()
    if not bool(rewards.isfinite().all()):
        raise NumericalError("the process reward model returned an infinite reward: use a wider dtype")
    return rewards
