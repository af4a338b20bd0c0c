"""A guard of any tokenizer as process reward model for another: prefixes are scored as text."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from langchain_saffron.models.prefix_scoring import Branch, Pair
from langchain_saffron.models.prm import ProcessRewardModel, check_prompts
from langchain_saffron.models.text_prefixes import TextPrefixes, text_of, whole_text
from langchain_saffron.templates.guard_prompt import Turn
from langchain_saffron.templates.safe_encoder import safe_encoder


class TextRewardModel(ProcessRewardModel):
    """Scores the prefixes of an answer in one tokenizer's ids by a guard that reads another's.

    Prefixes are cut at the borders of the answer's own tokens, and each is scored as text, in the guard's tokens: the
    reward is that of the text by itself. Where the guard's tokens of two prefixes begin alike, the guard reads them
    once. A prefix that ends inside a character is scored with the character completed; where it never is, its reward
    is NaN, which training takes as unknown.

    Attributes:
        guard: What scores.
        completed: Prefixes so far that were scored with a character completed.
        skipped: Prefixes so far that have no reward, as their character is never completed.
    """

    def __init__(self, guard: ProcessRewardModel, tokenizer: Any) -> None:
        """Put a guard before another tokenizer.

        Args:
            guard: What scores: any kind of process reward model.
            tokenizer: The one whose ids are scored, such as the policy's.
        """
        super().__init__(
            tokenizer, f"{guard.source}, on the text of prefixes", guard._scorer, prompt=guard.prompt, name=guard.name
        )
        self.guard = guard
        self.completed = self.skipped = 0

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its scores depend on, for `models.fingerprint`."""
        return self.guard.fingerprint_parts(), self.tokenizer

    def prompt_ids(self, turns: Iterable[Turn]) -> list[int]:
        """Ids of a conversation up to where the answer begins, in the guard's own template and tokens.

        Raises:
            PromptError: The template cannot take these turns.
        """
        return self.guard.prompt_ids(turns) if self.function is None else super().prompt_ids(turns)

    def score(self, pairs: Sequence[Pair]) -> list[torch.Tensor]:
        """The reward of every prefix of several answers.

        Args:
            pairs: (prompt_ids, response_ids): the first in the guard's tokens, as `prompt_ids` gives them, the second
                in this tokenizer's.

        Returns:
            float32 tensors [len(response_ids)]; NaN where a prefix has no text of its own.

        Raises:
            ContextOverflowError: It does not fit into the guard's context.
            NumericalError: The guard returned NaN, or an infinite reward.
            SettingsError: There is no prompt.
        """
        check_prompts(pairs)
        cut = [TextPrefixes.of(self.tokenizer, response) for _, response in pairs]
        self.completed += sum(one.completed for one in cut)
        self.skipped += sum(one.skipped for one in cut)
        # each text once: a character of several tokens has one
        wanted = [
            (prompt, text)
            for (prompt, _), one in zip(pairs, cut, strict=True)
            for text in dict.fromkeys(one.texts)
            if text is not None
        ]
        rewards = iter(self._text_rewards(wanted).tolist() if wanted else ())
        rows = []
        for one in cut:
            scored = {text: next(rewards) for text in dict.fromkeys(one.texts) if text is not None}
            # an answer of which the guard has skipped a part is skipped as a whole
            failed = any(math.isnan(reward) for reward in scored.values())
            known = [math.nan if failed or text is None else scored[text] for text in one.texts]
            rows.append(torch.tensor(known, dtype=torch.float32))
        return rows

    def score_branches(
        self, pairs: Sequence[Pair], branches: Sequence[Sequence[Branch]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """`score`, and the rewards of prefixes of the answers with other tokens behind each, by their text.

        Args:
            pairs: As for `score`.
            branches: Those of each pair: how many tokens of the answer, at most all but one, and what follows them.

        Returns:
            What `score` does, and float32 tensors [branches]; NaN where a branch ends inside a character.
        """
        rewards = self.score(pairs)
        texts = [
            (prompt, text_of(self.tokenizer, [*response[:count], *tokens]))
            for (prompt, response), some in zip(pairs, branches, strict=True)
            for count, tokens in some
        ]
        wanted = [(prompt, text) for prompt, text in texts if text is not None]
        found = iter(self._text_rewards(wanted).tolist() if wanted else ())
        others = torch.tensor([math.nan if text is None else next(found) for _, text in texts], dtype=torch.float32)
        return rewards, list(others.split([len(some) for some in branches]))

    def whole_rewards(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The reward of each answer as a whole, by its text.

        Args:
            pairs: (prompt_ids, response_ids): the first in the guard's tokens, the second in this tokenizer's.

        Returns:
            float32 [answers].
        """
        return self._text_rewards([(prompt, whole_text(self.tokenizer, response)) for prompt, response in pairs])

    def check_length(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> None:
        """Refuse an answer that does not fit into the guard's context with its prompt and the guard's question.

        Raises:
            ContextOverflowError: It does not.
        """
        self._scorer.check_length(prompt_ids, self._guard_ids(whole_text(self.tokenizer, response_ids)))

    def _text_rewards(self, wanted: Sequence[tuple[Sequence[int], str]]) -> torch.Tensor:
        if self.function is not None:
            return self.function.score_texts(wanted)
        return self._scorer.whole_rewards([(prompt, self._guard_ids(text)) for prompt, text in wanted])

    def _guard_ids(self, text: str) -> list[int]:
        return safe_encoder(self.guard.tokenizer).encode(text)
