"""Forecasts: what a prefix is likely to become, as the mean reward of the policy's own continuations of it."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from langchain_saffron.errors import CacheFullError, ContextOverflowError, SettingsError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.row_lot import MOST_ROWS, fill
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.search.nucleus import nucleus
from langchain_saffron.templates.guard_prompt import Turn
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.policy_prompts import policy_prompt_ids
from langchain_saffron.training.settings import RolloutSettings

# continuations that the guard reads together
_ASKED_TOGETHER = 64


class Rollouts:
    """Rewards of prefixes by what the policy makes of them.

    A guard that reads a prefix judges what is there; the mean of its rewards of whole continuations says what is to
    come (StreamGuard trains on such forecasts). All continuations of an answer's prefixes are drawn over one trie, so
    that the answer is read once, and what several begin with alike is computed once.

    Attributes:
        settings: How many, how long and how they are drawn.
        drawn: Continuations so far.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prm: ProcessRewardModel, settings: RolloutSettings | None = None
    ) -> None:
        """Take the policy.

        Args:
            model: A transformers causal LM.
            tokenizer: Its tokenizer.
            prm: What scores the continuations. Its tokens have to be the policy's; `TextRewardModel` puts any guard
                before the policy's tokenizer.
            settings: `None` for the defaults.

        Raises:
            VocabularyMismatchError: They are not.
            UnsupportedModelError: The policy cannot share a cache between continuations.
        """
        check_vocabularies(tokenizer, prm.tokenizer)
        self.settings = settings or RolloutSettings()
        self.drawn = 0
        self._prm = prm
        self._fingerprint = fingerprint(model)
        self._tokenizer, self._encoder = tokenizer, safe_encoder(tokenizer)
        self._ends = end_token_ids(model, tokenizer)
        self._decoder = TrieDecoder(model, "policy")
        # slots that the continuations of a prefix take at most
        self._most_drawn = self.settings.count * self.settings.tokens

    def record(self) -> dict[str, Any]:
        """All that the forecasts depend on, for a manifest."""
        return {**self.settings.model_dump(mode="json"), "policy": self._fingerprint}

    def prompt_ids(self, turns: Iterable[Turn]) -> list[int]:
        """A conversation in the policy's own template, up to where its answer begins."""
        return policy_prompt_ids(self._tokenizer, self._encoder, list(turns))

    def check_length(self, asked: Sequence[int], prompt: Sequence[int], response: Sequence[int]) -> None:
        """Refuse what does not fit into the guard's context, or the policy's, with a continuation.

        Args:
            asked: The guard's prompt.
            prompt: The policy's prompt.
            response: The answer.

        Raises:
            ContextOverflowError: It does not, or all of one prefix do not fit into the policy's cache.
        """
        length = len(prompt) + len(response) + self.settings.tokens
        if length > self._decoder.context:
            raise ContextOverflowError(
                f"a conversation of {length} tokens with its continuation is longer than the policy's context of "
                f"{self._decoder.context}"
            )
        if len(prompt) + len(response) + self._most_drawn > self._decoder.capacity:
            raise CacheFullError(
                f"{self.settings.count} continuations of {self.settings.tokens} tokens behind {len(prompt)} + "
                f"{len(response)} do not fit into the {self._decoder.capacity} slots of the policy's KV cache: draw "
                "fewer or shorter ones"
            )
        self._prm.check_length(asked, [*response, *[0] * self.settings.tokens])

    def rewards(self, asked: Sequence[int], prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
        """The forecast of every prefix of an answer.

        Args:
            asked: The guard's prompt.
            prompt: The policy's prompt.
            response: The answer, at least one token.

        Returns:
            float32 [tokens]: the mean of the guard's rewards of the continuations of each prefix; NaN at prefixes
            between every `settings.every`-th one, the last prefix aside.
        """
        places = self._places(len(response))
        continued = self.continuations(prompt, response, places)
        texts = [
            [*response[: place + 1], *more] for place, drawn in zip(places, continued, strict=True) for more in drawn
        ]
        found: list[float] = []
        for start in range(0, len(texts), _ASKED_TOGETHER):
            part = texts[start : start + _ASKED_TOGETHER]
            # equal ones are read once
            distinct = list(dict.fromkeys(tuple(text) for text in part))
            scored = dict(zip(distinct, self._prm.whole_rewards([(asked, text) for text in distinct]), strict=True))
            found += [float(scored[tuple(text)]) for text in part]
        rewards = torch.full((len(response),), torch.nan)
        # in float64: the mean of equal rewards is that reward
        rewards[places] = torch.tensor(found, dtype=torch.float64).view(len(places), -1).mean(dim=1).float()
        return rewards

    @torch.inference_mode()
    def continuations(
        self, prompt: Sequence[int], response: Sequence[int], places: Sequence[int]
    ) -> list[list[list[int]]]:
        """Draw continuations of some prefixes of an answer; the same ones whatever was drawn before.

        Args:
            prompt: The policy's prompt.
            response: The answer.
            places: Each prefix's last token, counted from 0.

        Returns:
            `settings.count` lists of at most `settings.tokens` token ids for each, without the one that ends a turn.
        """
        forest, count = self._decoder.forest, self.settings.count
        if not prompt:
            raise SettingsError("prompt: at least one token has to lead the answer")
        generator = torch.Generator().manual_seed(self._seed(prompt, response))
        trunk = forest.insert([*prompt, *response])
        starts = [trunk[len(prompt) + place] for place in places for _ in range(count)]
        together = count * ((self._decoder.capacity - len(trunk)) // self._most_drawn)
        drawn: list[list[int]] = []
        try:
            fill(self._decoder, [trunk])
            for start in range(0, len(starts), together):
                drawn += self._grow(starts[start : start + together], generator)
        finally:
            forest.release(trunk[-1])
        self.drawn += len(drawn)
        return [drawn[i : i + count] for i in range(0, len(drawn), count)]

    def _grow(self, starts: list[int], generator: torch.Generator) -> list[list[int]]:
        """A continuation from each of some nodes, all at once."""
        forest = self._decoder.forest
        drawn: list[list[int]] = [[] for _ in starts]
        tips = dict(enumerate(starts))
        held: list[int] = []
        try:
            for _ in range(self.settings.tokens):
                if not tips:
                    break
                chosen = self._draw(tips, generator)
                # whoever has ended its turn is done
                chosen = {i: token for i, token in chosen.items() if token not in self._ends}
                above, tips = tips, {}
                for i, token in chosen.items():
                    drawn[i].append(token)
                    tips[i] = forest.insert([token], parent=above[i])[-1]
                    held.append(tips[i])
        finally:
            for node in held:
                forest.release(node)
        return drawn

    def _draw(self, tips: dict[int, int], generator: torch.Generator) -> dict[int, int]:
        """The next token of every continuation, by its number."""
        rows = list(dict.fromkeys(tips.values()))
        place = {node: i for i, node in enumerate(rows)}
        wanted = torch.tensor([place[node] for node in tips.values()])
        masses = []
        for start in range(0, len(rows), MOST_ROWS):
            part = rows[start : start + MOST_ROWS]
            logits = self._decoder.forward(part, list(range(len(part))))
            logprobs = (logits / self.settings.temperature).log_softmax(dim=-1)
            masses.append(torch.where(nucleus(logprobs, self.settings.top_p), logprobs.exp(), 0.0).cpu())
        chosen = torch.multinomial(torch.cat(masses)[wanted], 1, generator=generator)[:, 0].tolist()
        return dict(zip(tips, chosen, strict=True))

    def _places(self, length: int) -> list[int]:
        every = self.settings.every
        return sorted({*range(every - 1, length, every), length - 1})

    def _seed(self, prompt: Sequence[int], response: Sequence[int]) -> int:
        said = np.array([self.settings.seed, len(prompt), *prompt, *response], dtype=np.int64)
        return int.from_bytes(hashlib.sha256(said.tobytes()).digest()[:7], "big")
