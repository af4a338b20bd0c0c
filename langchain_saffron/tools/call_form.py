"""The form of a tool call as data: the texts around its name, its arguments and its id."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from langchain_saffron.tools.values import Values


class Slot(Enum):
    """What differs from one call to the next."""

    NAME = "name"
    ARGUMENTS = "arguments"
    ID = "id"
    INDEX = "index"


Part = str | Slot


@dataclass(frozen=True)
class JsonArguments:
    """Arguments as one JSON object.

    Attributes:
        item: What separates its items.
        key: What separates a key from its value.
        ascii: Whether other characters are escaped.
    """

    item: str = ", "
    key: str = ": "
    ascii: bool = False

    def write(self, arguments: dict[str, Any]) -> str:
        """Arguments as text."""
        return json.dumps(arguments, ensure_ascii=self.ascii, separators=(self.item, self.key))


@dataclass(frozen=True)
class Parameters:
    """Arguments one by one, as XML or as a call in Python.

    Attributes:
        opening: Before a key.
        middle: Between a key and its value.
        closing: Behind a value.
        separator: Between two arguments.
        values: How values are written.
        text_middle: Between a key and a string, where that differs.
        in_order: Whether keys come in the alphabet's order, not in the schema's.
    """

    opening: str
    middle: str
    closing: str
    separator: str = ""
    values: Values = field(default_factory=Values)
    text_middle: str = ""
    in_order: bool = False

    @property
    def before_text(self) -> str:
        """What stands between a key and a string."""
        return self.text_middle or self.middle

    def write(self, arguments: dict[str, Any]) -> str:
        """Arguments as text."""
        items = sorted(arguments.items(), key=lambda item: item[0].lower()) if self.in_order else arguments.items()
        return self.separator.join(
            f"{self.opening}{key}{self.before_text if isinstance(value, str) else self.middle}"
            f"{self.values.write(value)}{self.closing}"
            for key, value in items
        )


@dataclass(frozen=True)
class CallForm:
    """How calls are written; all calls of an answer follow each other.

    Attributes:
        opening: Before the first slot of the first call.
        call: Slots, and the texts between them; a slot comes first and last.
        closing: Behind the last slot of the last call.
        between: Between two calls; `None` where an answer holds one at most.
        arguments: How arguments are written.
        lead: What an answer that says nothing writes before `opening`: a line break, or the end of empty thoughts.
        faithful: Whether the template that told the form writes calls so. Some forget quotes or commas.
        before: What a model may write before `opening`, though its template does not.
        behind_name: What it may write between the name and the arguments in place of the template's text.
    """

    opening: str
    call: tuple[Part, ...]
    closing: str
    between: str | None = None
    arguments: JsonArguments | Parameters = field(default_factory=JsonArguments)
    lead: str = ""
    faithful: bool = True
    before: str = ""
    behind_name: tuple[str, ...] = ()

    @property
    def bare(self) -> bool:
        """Whether nothing but punctuation and keys of JSON marks a call, so that any answer may look like one."""
        return is_bare(self.opening)

    @property
    def trigger(self) -> str:
        """What a call begins with."""
        return self.opening if self.bare else first_marker(self.opening)

    def write(self, calls: Sequence[tuple[str, dict[str, Any], str]]) -> str:
        """Calls as text, without the lead.

        Args:
            calls: Name, arguments and id of each.
        """
        written = []
        for place, (name, arguments, identifier) in enumerate(calls):
            slots = {
                Slot.NAME: name,
                Slot.ARGUMENTS: self.arguments.write(arguments),
                Slot.ID: identifier,
                Slot.INDEX: str(place),
            }
            written.append("".join(part if isinstance(part, str) else slots[part] for part in self.call))
        return self.opening + (self.between or "").join(written) + self.closing

    def literals(self) -> tuple[str, ...]:
        """All texts that are the form's own."""
        own = [self.lead, self.opening, *(part for part in self.call if isinstance(part, str)), self.closing]
        if isinstance(self.arguments, Parameters):
            style = self.arguments
            own += [style.opening, style.middle, style.text_middle, style.closing, style.separator, style.values.quote]
        return (*own, self.between or "", self.before, *self.behind_name)

    @property
    def calls(self) -> tuple[tuple[Part, ...], ...]:
        """The call, and the other ways to write it."""
        own: tuple[Part, ...] = (Slot.NAME, self.call[1], Slot.ARGUMENTS) if self.behind_name else ()
        others = [(Slot.NAME, text, Slot.ARGUMENTS) for text in self.behind_name] if self.call == own else []
        return self.call, *others


def is_bare(opening: str) -> bool:
    """Whether an opening is punctuation and keys of JSON only."""
    rest = opening
    for key in ('"type": "function"', '"name"', '"tool_name"', '"function"'):
        rest = rest.replace(key, "")
    return not any(character.isalnum() or character in "<|" for character in rest)


def first_marker(opening: str) -> str:
    """The marker that an opening begins with, or all of it."""
    for start, end in (("<", ">"), ("[", "]")):
        place = opening.find(end)
        if opening.startswith(start) and place > 1 and not any(c.isspace() or c in '"{=' for c in opening[:place]):
            return opening[: place + 1]
    return opening
