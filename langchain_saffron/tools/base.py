"""The interface between chat models and the form in which a model writes its tool calls."""

import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from langchain_core.utils.json import parse_partial_json

from langchain_saffron.grammar import Grammar

ENDED = "the answer ended inside this call"


@dataclass(frozen=True, slots=True)
class Said:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a call; the first one of each has its id and name.

    Attributes:
        index: Which call of the answer.
        args: The next characters of its arguments, which are JSON.
        id: Of the call.
        name: The tool's; `None` also where the model gave none.
    """

    index: int
    args: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A call that has begun turned out not to be one."""

    index: int
    error: str


Event = Said | CallPiece | Spoiled


@dataclass(slots=True)
class Call:
    """A call as it was written.

    Attributes:
        id: `call_` and 24 hex digits.
        name: The tool's, if it was given.
        args: Its arguments' JSON.
        error: Why this is no call that could be run; `None` where it can.
    """

    id: str
    name: str | None
    args: str
    error: str | None = None


@dataclass(slots=True)
class Answer:
    """What an answer says and calls."""

    content: str = ""
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Answer":
        """All events of an answer together."""
        answer = cls()
        for event in events:
            answer.add(event)
        return answer

    def add(self, event: Event) -> None:
        """Add the next event."""
        if isinstance(event, Said):
            self.content += event.text
        elif isinstance(event, Spoiled):
            self.calls[event.index].error = event.error
        elif event.index == len(self.calls):
            assert event.id is not None
            self.calls.append(Call(event.id, event.name, event.args))
        else:
            self.calls[event.index].args += event.args


class CallParser(ABC):
    """Reads one answer while it is written; the same events, joined, however the text is cut into pieces."""

    @abstractmethod
    def feed(self, text: str) -> Iterator[Event]:
        """Read on. Consume the iterator: the work is done in it.

        Args:
            text: The next characters, or the name of a control token of `ToolFormat.markers`.
        """

    @abstractmethod
    def finish(self, cut: str | None = None, token_text: str = "") -> Iterator[Event]:
        """Read the end.

        Args:
            cut: Why the answer ended early, if it did.
            token_text: The whole answer with its control tokens, for what reads it only then.
        """


class ToolFormat(ABC):
    """How a family of models writes tool calls. One instance serves all requests, so it keeps no state.

    Attributes:
        name: What the field `tool_format` calls it.
        trigger: What a call begins with.
    """

    name: ClassVar[str]
    trigger: str

    @abstractmethod
    def detect(self, source: str, tokenizer: Any) -> bool:
        """Whether a chat template, given as its text, is for this form."""

    @abstractmethod
    def grammar(self, tools: Sequence[dict[str, Any]], choice: str, parallel: bool) -> Grammar | None:
        """What an answer may be; `None` if anything, which is then only parsed.

        Args:
            tools: In OpenAI's form.
            choice: `"auto"`, `"any"`, `"none"` or the name of a tool.
            parallel: Whether several calls may follow each other.

        Raises:
            SettingsError: This form cannot be forced.
        """

    @abstractmethod
    def parser(
        self, tokenizer: Any = None, tools: Sequence[dict[str, Any]] = (), prompt_ids: Sequence[int] = ()
    ) -> CallParser:
        """A parser for one answer.

        Args:
            tokenizer: The policy's, for calls that are marked by control tokens.
            tools: That may be called, in OpenAI's form.
            prompt_ids: What the answer follows.
        """

    def markers(self, tokenizer: Any) -> dict[int, str]:
        """Control tokens that its parser has to see, with their names, which are fed to it where they stand."""
        return {}

    def parse(self, text: str, cut: str | None = None, tools: Sequence[dict[str, Any]] = ()) -> Answer:
        """Read a whole answer, in a form that needs no control tokens."""
        parser = self.parser(tools=tools)
        return Answer.of([*parser.feed(text), *parser.finish(cut)])

    def templates(self, source: str) -> Iterator[str]:
        """Chat templates that do with tools what `source`, which knows none, does without. By default none."""
        yield from ()


def call_id() -> str:
    """A new id."""
    return f"call_{uuid.uuid4().hex[:24]}"


def spoil(args: str) -> str:
    """What makes `args` something that nobody takes for the arguments of a call.

    LangChain reads the arguments of streamed calls leniently: half a call would pass for a whole one. After a
    bracket that closes nothing it does not.
    """
    return next(end for end in ("", "]", '"]', '""]', "}", '"}', '""}') if not _passes(args + end))


def _passes(args: str) -> bool:
    if not args:
        return True
    try:
        return isinstance(parse_partial_json(args), dict)
    except json.JSONDecodeError:
        return False
