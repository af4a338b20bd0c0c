"""How a conversation is written for the reward model, which has its own template."""

from collections.abc import Iterable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from langchain_saffron.errors import ModelLoadError, PromptError
from langchain_saffron.settings import describe_validation
from langchain_saffron.templates.safe_encoder import replace_surrogates, safe_encoder

_SLOT = "{text}"
_ROLES = ("system", "user", "assistant")


class RewardTemplate(BaseModel):
    """One piece of text a turn, put together without anything in between.

    Attributes:
        add_bos: Whether the tokenizer's beginning-of-sequence token comes first.
        system: A system turn; `{text}` stands for what it says, exactly once.
        user: A user turn.
        assistant: An assistant turn; what comes before `{text}` is the header that the response follows.
        preamble: What leads the first turn, such as a guard model's task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    add_bos: bool
    system: str
    user: str
    assistant: str
    preamble: str = ""

    @field_validator(*_ROLES)
    @classmethod
    def _one_slot(cls, value: str) -> str:
        if (count := value.count(_SLOT)) != 1:
            raise ValueError(f"must contain {_SLOT} exactly once, not {count} times: {value!r}")
        return value

    @classmethod
    def published(cls) -> Self:
        """The template of the published reward model: no blank after the colon."""
        return cls(add_bos=True, system="\n\nSystem:{text}", user="\n\nUser:{text}", assistant="\n\nAgent:{text}")

    @classmethod
    def for_tokenizer(cls, tokenizer: Any) -> Self:
        """The published template, without the BOS token where the tokenizer has none."""
        return cls.published().model_copy(update={"add_bos": tokenizer.bos_token_id is not None})

    @classmethod
    def of_record(cls, stored: Any, where: object) -> Self | None:
        """The template that a reward model's config holds; `None` where it holds none.

        Args:
            stored: What stands there.
            where: The file or directory, for errors.

        Raises:
            ModelLoadError: It is something else.
        """
        if not stored:
            return None
        if not isinstance(stored, dict):
            raise ModelLoadError(f"{where}: the reward model's template is a {type(stored).__name__}, not an object")
        try:
            return cls(**stored)
        except ValidationError as error:
            raise ModelLoadError(f"{where}: the reward model's template: {describe_validation(error)}") from error

    def prompt_ids(self, tokenizer: Any, turns: Iterable[tuple[str, str]]) -> list[int]:
        """Ids of a conversation up to and including the assistant header; append response tokens by id.

        All is encoded in one go, as the official code does. Control strings count in the template and are
        plain characters in the turns.

        Args:
            tokenizer: The reward model's.
            turns: (role, text), with the roles system, user and assistant.

        Raises:
            PromptError: A role is none of these, or the template wants a BOS token that the tokenizer lacks.
        """
        encoder = safe_encoder(tokenizer, self.system, self.user, self.assistant, self.preamble)
        pieces = [encoder.name_controls(self.preamble)]
        for role, text in turns:
            if role not in _ROLES:
                raise PromptError(f"no role {role!r} in the reward model's template, only {', '.join(_ROLES)}")
            before, _, after = getattr(self, role).partition(_SLOT)
            pieces += [encoder.name_controls(before), replace_surrogates(text), encoder.name_controls(after)]
        pieces.append(encoder.name_controls(self.assistant.partition(_SLOT)[0]))
        bos = tokenizer.bos_token_id
        if self.add_bos and bos is None:
            raise PromptError("the reward model's template wants a BOS token, but its tokenizer has none")
        return [bos] * self.add_bos + encoder.encode("".join(pieces))
