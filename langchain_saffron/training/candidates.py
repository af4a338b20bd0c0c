"""Candidates: what the policy would be likely to say in place of each token of an answer."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from langchain_saffron.errors import ContextOverflowError, SettingsError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.row_lot import fill
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.templates.guard_prompt import Turn
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.policy_prompts import policy_prompt_ids
from langchain_saffron.training.settings import FOLLOWING, CandidateSettings

# candidates whose logits, each of a whole vocabulary, are computed in one forward
_TOGETHER = 128


class Candidates:
    """The policy's likeliest next tokens, other than the one that was said.

    An answer shows one token at each prefix; a search chooses among several there. With the guard's rewards of these,
    training is told of the very choices that it is for.

    Attributes:
        settings: How many, and where.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prm: ProcessRewardModel, settings: CandidateSettings | None = None
    ) -> None:
        """Take the policy.

        Args:
            model: A transformers causal LM.
            tokenizer: Its tokenizer.
            prm: What scores them. Its tokens have to be the policy's; `TextRewardModel` puts any guard before the
                policy's tokenizer.
            settings: `None` for the defaults.

        Raises:
            VocabularyMismatchError: They are not.
        """
        check_vocabularies(tokenizer, prm.tokenizer)
        self.settings = settings or CandidateSettings()
        self._tokenizer, self._encoder = tokenizer, safe_encoder(tokenizer)
        self._fingerprint = fingerprint(model)
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        # the end of a turn has the reward of the answer that it ends
        never = {*end_token_ids(model, tokenizer), *tokenizer.all_special_ids}
        self._decoder = TrieDecoder(model, "policy")
        self._tokens = len(tokenizer)
        self._never = sorted(token for token in never if token < self._tokens)
        if self.settings.count >= self._tokens - len(self._never):
            raise SettingsError(f"candidates: the policy has no {self.settings.count} other tokens")

    def record(self) -> dict[str, Any]:
        """All that the candidates depend on, for a manifest."""
        return {**self.settings.model_dump(mode="json"), "policy": self._fingerprint}

    def prompt_ids(self, turns: Iterable[Turn]) -> list[int]:
        """A conversation in the policy's own template, up to where its answer begins."""
        return policy_prompt_ids(self._tokenizer, self._encoder, list(turns))

    def check_length(self, prompt: Sequence[int], response: Sequence[int]) -> None:
        """Refuse what does not fit into the policy's context.

        Raises:
            ContextOverflowError: It does not.
        """
        length = len(prompt) + len(response)
        if self._context is not None and length > self._context:
            raise ContextOverflowError(
                f"a conversation of {length} tokens is longer than the policy's context of {self._context}"
            )

    @torch.inference_mode()
    def of(self, prompt: Sequence[int], response: Sequence[int]) -> list[list[int]]:
        """The candidates at each token of an answer.

        Args:
            prompt: The policy's prompt, at least one token.
            response: The answer.

        Returns:
            `settings.count` tokens, the likeliest first, in place of every `settings.every`-th token, from the first
            one on; none in place of the others.
        """
        if not prompt:
            raise SettingsError("prompt: at least one token has to lead the answer")
        found: list[list[int]] = [[] for _ in response]
        places = list(range(0, len(response), self.settings.every))
        if not places:
            return found
        ids = [*prompt, *response]
        forest = self._decoder.forest
        trunk = forest.insert(ids)
        try:
            fill(self._decoder, [trunk[: len(prompt) - 1]])
            for start in range(0, len(response), _TOGETHER):
                some = places[bisect_left(places, start) : bisect_left(places, start + _TOGETHER)]
                # the tokens before
                nodes = trunk[len(prompt) + start - 1 : len(ids) - 1][:_TOGETHER]
                logits = self._decoder.forward(nodes, [place - start for place in some])[:, : self._tokens]
                logits[:, self._never] = -torch.inf
                said = torch.tensor([response[place] for place in some], dtype=torch.long, device=logits.device)
                logits.scatter_(1, said[:, None], -torch.inf)
                for place, tokens in zip(some, logits.topk(self.settings.count).indices.tolist(), strict=True):
                    found[place] = tokens
        finally:
            forest.release(trunk[-1])
        return found

    @torch.inference_mode()
    def after(
        self, prompt: Sequence[int], response: Sequence[int], named: Sequence[Sequence[int]]
    ) -> list[tuple[int, int, int]]:
        """What would follow candidates, and the tokens in whose place they stand.

        Args:
            prompt: The policy's prompt.
            response: The answer.
            named: Its candidates, as `of` gives them.

        Returns:
            (place in the answer, the token there, the one behind it), the two likeliest of the latter each, at every
            `settings.after`-th place that has candidates.
        """
        places = [place for place, some in enumerate(named) if some]
        places = places[:: self.settings.after] if self.settings.after else []
        if not places:
            return []
        forest = self._decoder.forest
        trunk = forest.insert([*prompt, *response])
        held = [trunk[-1]]
        found: list[tuple[int, int, int]] = []
        try:
            fill(self._decoder, [trunk])
            asked = [(place, token) for place in places for token in (response[place], *named[place])]
            for start in range(0, len(asked), _TOGETHER):
                some = asked[start : start + _TOGETHER]
                nodes = [forest.insert([token], trunk[len(prompt) + place - 1])[-1] for place, token in some]
                held += nodes
                logits = self._decoder.forward(nodes, list(range(len(nodes))))[:, : self._tokens]
                logits[:, self._never] = -torch.inf
                for (place, token), following in zip(some, logits.topk(FOLLOWING).indices.tolist(), strict=True):
                    found += [(place, token, one) for one in following]
        finally:
            for node in held:
                forest.release(node)
        return found
