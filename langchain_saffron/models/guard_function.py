"""Functions as process reward models: of a prompt and an answer, or of a batch of conversations."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, overload

import torch

from langchain_saffron.errors import SettingsError
from langchain_saffron.models.guard_retries import Retries
from langchain_saffron.models.prefix_scoring import Branch, Pair
from langchain_saffron.templates.guard_prompt import Turn

# conversations that a function is given at once, at most
BATCH = 64

Message = dict[str, str]
Score = Callable[[str, str], float]
ScoreConversations = Callable[[list[list[Message]]], Sequence[float]]


def conversation_guard(function: ScoreConversations) -> ScoreConversations:
    """Declare that a function scores batches of conversations instead of one (prompt, answer) at a time.

    Example:
        ```python
        from langchain_saffron.models.guard_function import conversation_guard


        @conversation_guard
        def score(conversations: list[list[dict[str, str]]]) -> list[float]:
            return [-1.0 if "hexberry" in messages[-1]["content"] else 1.0 for messages in conversations]
        ```

    Args:
        function: From conversations to one reward each, in order; above 0 means safe. A conversation is a list of
            messages with `role` (`"system"`, `"user"` or `"assistant"`) and `content`; the last one is the assistant's
            answer as far as it is there. There are at most 64 in a call.
    """

    @functools.wraps(function)
    def guard(conversations: list[list[Message]]) -> Sequence[float]:
        return function(conversations)

    guard.scores_conversations = True  # type: ignore[attr-defined]
    return guard


def function_name(function: Callable[..., Any]) -> str:
    """`module:function`, as records and the command line name it."""
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}:{kind.__qualname__}"


class PromptIds(list[int]):
    """Ids of a prompt that remember the conversation that they stand for, also with more behind them or less.

    Attributes:
        turns: (role, text), the answer left out.
        start: Where the answer begins: what comes from there on is its beginning.
    """

    def __init__(self, ids: Sequence[int], turns: Sequence[Turn], start: int | None = None) -> None:
        super().__init__(ids)
        self.turns = tuple(turns)
        self.start = len(self) if start is None else start

    def __add__(self, more: Sequence[int]) -> "PromptIds":  # type: ignore[override]
        return PromptIds([*self, *more], self.turns, self.start)

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> int | list[int]:
        found = super().__getitem__(index)
        if isinstance(index, slice) and not index.start and isinstance(found, list):
            return PromptIds(found, self.turns, self.start)
        return found


class GuardFunction:
    """Scores texts, or the text of token ids, by a function.

    Attributes:
        name: What error messages call it.
        of_conversations: Whether it is given batches of conversations, not a prompt and an answer.
        retries: What is done when it fails.
    """

    def __init__(
        self, function: Score | ScoreConversations, name: str, tokenizer: Any = None, retries: Retries | None = None
    ) -> None:
        """Take a function.

        Args:
            function: What scores.
            name: What error messages call it.
            tokenizer: Writes the text of token ids, where such are scored.
            retries: What is done when it fails; `None` makes that an error at once.
        """
        self.name = name
        self.retries = retries
        self.of_conversations: bool = getattr(function, "scores_conversations", False)
        self._function: Any = function
        self._tokenizer = tokenizer

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its scores depend on, for `models.fingerprint`."""
        return self._function, self.of_conversations

    def branched_rewards(
        self, pairs: Sequence[Pair], branches: Sequence[Sequence[Branch]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The reward of every prefix of several answers, and of prefixes with other tokens behind each.

        Args:
            pairs: (prompt_ids, response_ids).
            branches: Those of each pair: how many tokens of the answer, and what follows them.

        Returns:
            float32 tensors [response_ids], and [branches].

        Raises:
            SettingsError: The function returned something else than numbers, or needs a conversation and gets plain
                ids.
        """
        prefixes = [(prompt, response[: i + 1]) for prompt, response in pairs for i in range(len(response))]
        rewards = self.whole_rewards(prefixes)
        beside = [
            (prompt, [*response[:count], *tokens])
            for (prompt, response), some in zip(pairs, branches, strict=True)
            for count, tokens in some
        ]
        others = self.whole_rewards(beside)
        lengths, counts = [len(response) for _, response in pairs], [len(some) for some in branches]
        return list(rewards.split(lengths)), list(others.split(counts))

    def whole_rewards(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The reward of whole answers.

        Returns:
            float32 tensor [len(pairs)].
        """
        if self.of_conversations:
            return self.rate([self._conversation(*pair) for pair in pairs])
        # the prefixes of an answer share their prompt
        prompts = {id(prompt): self._text(prompt) for prompt, _ in pairs}
        return self.rate([(prompts[id(prompt)], self._text(response)) for prompt, response in pairs])

    def score_texts(self, pairs: Sequence[tuple[Sequence[int], str]]) -> torch.Tensor:
        """The reward of answers that are given as text, as far as they are there.

        Args:
            pairs: (prompt_ids, answer).

        Returns:
            float32 tensor [len(pairs)].
        """
        if not self.of_conversations:
            prompts = {id(prompt): self._text(prompt) for prompt, _ in pairs}
            return self.rate([(prompts[id(prompt)], answer) for prompt, answer in pairs])
        for prompt, _ in pairs:
            self.check_prompt(prompt)
        return self.rate([_messages(prompt, answer) for prompt, answer in pairs])  # type: ignore[arg-type]

    def check_length(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> None:
        """Take texts of any length."""

    def rate(self, texts: Sequence[Any]) -> torch.Tensor:
        """The rewards of conversations, or of (prompt, answer), whichever the function takes.

        Returns:
            float32 tensor [len(texts)]; NaN where `retries` lets a text be skipped.

        Raises:
            SettingsError: The function returned something else than numbers.
            GuardFailedError: It did so as often as `retries` says.
        """
        if self.retries is not None:
            return torch.tensor(self._ask_again(self.retries, texts), dtype=torch.float32)
        values: list[Any] = []
        if self.of_conversations:
            for start in range(0, len(texts), BATCH):
                values += self._ask(list(texts[start : start + BATCH]))
        else:
            values = [self._function(prompt, answer) for prompt, answer in texts]
        try:
            rewards = torch.tensor([float(value) for value in values], dtype=torch.float32)
        except (TypeError, ValueError) as error:
            wanted = "every conversation" if self.of_conversations else "(prompt, answer)"
            raise SettingsError(f"{self.name} has to return a number for {wanted}: {error}") from error
        if not bool(rewards.isfinite().all()):
            raise SettingsError(f"{self.name} returned NaN or an infinite reward")
        return rewards

    def _ask_again(self, retries: Retries, texts: Sequence[Any]) -> list[float]:
        ask = self._function if self.of_conversations else lambda pairs: [self._function(*pair) for pair in pairs]
        size = BATCH if self.of_conversations else 1
        lots = (list(texts[start : start + size]) for start in range(0, len(texts), size))
        return [reward for lot in lots for reward in retries.rewards(ask, lot, self.name)]

    def _ask(self, conversations: list[list[Message]]) -> list[Any]:
        count = len(conversations)
        given = self._function(conversations)
        try:
            values = list(given)
        except TypeError as error:
            raise SettingsError(f"{self.name} has to return a list of {count} rewards: {error}") from error
        if len(values) != count:
            raise SettingsError(f"{self.name} was given {count} conversations, but returned {len(values)} rewards")
        return values

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Refuse plain ids where a conversation is needed.

        Raises:
            SettingsError: The prompt does not remember its conversation.
        """
        if self.of_conversations and not isinstance(prompt, PromptIds):
            raise SettingsError(
                f"{self.name} scores conversations, and plain token ids do not tell who said what: write the prompt "
                "with ProcessRewardModel.prompt_ids(turns)"
            )

    def _conversation(self, prompt: Sequence[int], response: Sequence[int]) -> list[Message]:
        self.check_prompt(prompt)
        assert isinstance(prompt, PromptIds)
        return _messages(prompt, self._text([*list(prompt)[prompt.start :], *response]))

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def _messages(prompt: PromptIds, answer: str) -> list[Message]:
    return [{"role": role, "content": text} for role, text in (*prompt.turns, ("assistant", answer))]
