"""The texts of a conversation and of its tools, each with the number of the field that it stands in."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

from langchain_saffron.templates.message_forms import THOUGHTS, Message

_TYPES = frozenset(("function", "string", "number", "integer", "boolean", "array", "object", "null"))
_IDENTIFIER = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_$.-]*")


class Change(Protocol):
    """What is done to a text, given the number of the field that it comes from."""

    def __call__(self, text: str, field: int) -> str:
        """The changed text."""


class PromptFields:
    """The fields of a conversation: messages' contents, what else they have, each tool call, each tool, variables.

    Attributes:
        messages: The messages.
        tools: Schemas of tools.
        variables: Further variables of the template.
        count: How many fields there are.
    """

    def __init__(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        is_control: Callable[[str], Any],
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        """Numbers the fields.

        Args:
            messages: The messages.
            tools: Schemas of tools, if there are any.
            is_control: Tells of a text whether it contains a control string.
            variables: Further variables of the template, if there are any.
        """
        self.messages = messages
        self.tools = tools
        self.variables = variables or {}
        self._is_control = is_control
        # templates may compare messages (Mistral's looks for the last question): equal ones have to stay equal
        first: dict[tuple[str, str], int] = {}
        self._content = [first.setdefault((m["role"], m["content"]), index) for index, m in enumerate(messages)]
        self._first_call = 2 * len(messages)
        self._first_tool = self._first_call + sum(len(message.get("tool_calls", ())) for message in messages)
        self._variable = self._first_tool + len(tools or ())
        self.count = self._variable + bool(self.variables)

    def content(self, index: int) -> int:
        """The field of a message's content; the same for messages that say the same."""
        return self._content[index]

    def calls(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Message number, field and call of every tool call."""
        field = self._first_call
        for index, message in enumerate(self.messages):
            for call in message.get("tool_calls", ()):
                yield index, field, call
                field += 1

    def tool_fields(self) -> range:
        """The fields of the tools."""
        return range(self._first_tool, self._variable)

    def strings(self) -> Iterator[str]:
        """All texts, and the keys of objects."""
        yield from _strings(self.messages)
        yield from _strings(self.tools)
        yield from _strings(self.variables)

    def changed(self, change: Change) -> tuple[list[Message], list[Any] | None]:
        """Messages and tools with every text changed, except what templates look up.

        That are roles, keys and ids, and in schemas types and what is required.
        """
        messages = []
        calls = iter(list(self.calls()))
        for index, message in enumerate(self.messages):
            copy = {**message, "content": change(message["content"], self.content(index))}
            other = partial(change, field=len(self.messages) + index)
            if THOUGHTS in message:
                copy[THOUGHTS] = other(message[THOUGHTS])
            if "name" in message:
                copy["name"] = other(message["name"])
            if "tool_call_id" in message and not self._is_fixed(message["tool_call_id"]):
                copy["tool_call_id"] = other(message["tool_call_id"])
            if "tool_calls" in message:
                made = [next(calls) for _ in message["tool_calls"]]
                copy["tool_calls"] = [self._mapped(call, partial(change, field=field)) for _, field, call in made]
            messages.append(copy)
        tools = self.tools and [
            self._mapped(tool, partial(change, field=field), schema=True)
            for tool, field in zip(self.tools, self.tool_fields(), strict=True)
        ]
        return messages, tools

    def changed_variables(self, change: Change) -> dict[str, Any]:
        """The variables with every text changed but single words, which templates compare (`reasoning_effort`)."""

        def unless_fixed(text: str) -> str:
            return text if self._is_fixed(text) else change(text, self._variable)

        return {name: self._mapped(value, unless_fixed) for name, value in self.variables.items()}

    def _mapped(self, value: Any, change: Callable[[str], str], schema: bool = False) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, dict):
            return {
                key if self._is_fixed(key) else change(str(key)): item
                if self._is_looked_up(key, item, schema)
                else self._mapped(item, change, schema)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._mapped(item, change, schema) for item in value]
        return value

    def _is_looked_up(self, key: str, item: Any, schema: bool) -> bool:
        """Whether templates compare or look up what stands under a key."""
        if key == "id":
            return self._is_fixed(item)
        if not schema:
            return key == "type" and item == "function"
        words = item if isinstance(item, list | tuple) else [item]
        if key == "type":
            return all(isinstance(word, str) and word in _TYPES and self._is_fixed(word) for word in words)
        return key == "required" and all(map(self._is_fixed, words))

    def _is_fixed(self, text: Any) -> bool:
        return isinstance(text, str) and bool(_IDENTIFIER.fullmatch(text)) and not self._is_control(text)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
