"""Candidates: what the policy would be likely to say in place of each token of an answer."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from langchain_saffron.errors import ContextOverflowError, SettingsError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.models.loading import end_token_ids
from langchain_saffron.models.prefix_scoring import fill
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.templates.guard_prompt import Turn
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.policy_prompts import policy_prompt_ids
from langchain_saffron.training.settings import CandidateSettings

# tokens behind a candidate
_NEXT = 2


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
        self._model, self._tokenizer, self._encoder = model.eval(), tokenizer, safe_encoder(tokenizer)
        self._fingerprint = fingerprint(model)
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        # the end of a turn has the reward of the answer that it ends
        never = {*end_token_ids(model, tokenizer), *tokenizer.all_special_ids}
        self._decoder = TrieDecoder(model, "policy") if self.settings.after else None
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
        device = self._model.get_input_embeddings().weight.device
        ids = torch.tensor([[*prompt, *response]], device=device)
        logits = self._model(input_ids=ids[:, :-1], use_cache=False).logits[0]
        before = torch.tensor(places, device=device) + len(prompt) - 1
        logits = logits[before, : self._tokens].float()
        logits[:, self._never] = -torch.inf
        logits.scatter_(1, ids[0, before + 1, None], -torch.inf)
        for place, tokens in zip(places, logits.topk(self.settings.count).indices.tolist(), strict=True):
            found[place] = tokens
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
        if self._decoder is None or not places:
            return []
        forest = self._decoder.forest
        trunk = forest.insert([*prompt, *response])
        held = [trunk[-1]]
        found: list[tuple[int, int, int]] = []
        try:
            fill(self._decoder, trunk)
            for place in places:
                tokens = [response[place], *named[place]]
                before = trunk[len(prompt) + place - 1]
                nodes = [forest.insert([token], parent=before)[-1] for token in tokens]
                held += nodes
                logits = self._decoder.forward(nodes, list(range(len(nodes))))[:, : self._tokens].float()
                logits[:, self._never] = -torch.inf
                for token, following in zip(tokens, logits.topk(_NEXT).indices.tolist(), strict=True):
                    found += [(place, token, one) for one in following]
        finally:
            for node in held:
                forest.release(node)
        return found
