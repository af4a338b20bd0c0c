"""What transformers alone makes of a chat template: the yardstick of the table of templates."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import AddedToken

from unit_tests.builders import NOT_FLAGGED_SPECIAL, SPECIAL, byte_level_tokenizer

Messages = list[dict[str, Any]]

# what templates mark things by: the first kind are special tokens of their models, the others often ordinary ones
SPECIAL_MARKER = re.compile(r"<[|｜][^<>\s\"'=]+>|<[^<>\s\"'=]+[|｜]>|\[/?[A-Z_]{2,}\]")
_TAG = re.compile(r"</?[a-z_:]+>")


class Unrendered(Exception):
    """The template takes a conversation in no form."""


def small_tokenizers(source: str) -> Iterator[Any]:
    """Tokenizers for a template: one to which its markers are text, and one to which they are tokens."""
    yield byte_level_tokenizer(chat_template=source)
    special = sorted(set(SPECIAL_MARKER.findall(source)) - {*SPECIAL, *NOT_FLAGGED_SPECIAL})
    tags = sorted(set(_TAG.findall(source)) - {*special, *SPECIAL, *NOT_FLAGGED_SPECIAL})
    added = [AddedToken(marker, normalized=False, special=True) for marker in special]
    added += [AddedToken(marker, normalized=False, special=False) for marker in tags]
    yield byte_level_tokenizer(chat_template=source, extra_tokens=tuple(added))


class Reference:
    """Renders by `apply_chat_template`, in the first of several forms that the template takes whole."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.tokenizer = tokenizer
        self.source = source

    def ids(self, text: str) -> list[int]:
        """A rendered text's ids, as transformers encodes it."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def text(
        self,
        messages: Messages,
        tools: Sequence[Any] | None = None,
        shown: Sequence[str] = (),
        behind: str = "",
        also: str = "",
        **options: Any,
    ) -> str:
        """A conversation as text.

        Args:
            messages: As transformers has them, arguments as objects.
            tools: In OpenAI's form.
            shown: Texts that have to occur in what is rendered.
            behind: What they have to come behind, in their order.
            also: One more, wherever it stands.
            options: Of `apply_chat_template`, and variables.

        Raises:
            Unrendered: The template raises, or leaves out what has to be shown, in every form.
        """
        reason = "it leaves out what was said"
        for form in _forms(messages, bool(tools)):
            for given in [list(tools)] if tools else [None, []]:
                try:
                    text = self.tokenizer.apply_chat_template(
                        form, tools=given, chat_template=self.source, tokenize=False, **options
                    )
                except Exception as error:  # a template is a program
                    reason = f"{type(error).__name__}: {error}"
                    continue
                # some write an object as Python does
                if also in text and _shows(text, shown, behind) and not any(repr(o) in text for o in _arguments(form)):
                    return str(text)
        raise Unrendered(reason)


def _shows(text: str, shown: Sequence[str], behind: str) -> bool:
    if not behind:
        return all(one in text for one in shown)
    text = text[text.rfind(behind) :]
    for one in shown:
        _, found, text = text.partition(one)
        if not found:
            return False
    return True


def _forms(messages: Messages, tools: bool) -> Iterator[Messages]:
    """The conversation as it is, and as other templates demand it."""
    folded = _folded(messages)
    empty = [{"role": "system", "content": ""}, *messages] if tools and messages[0]["role"] != "system" else messages
    for form in (messages, folded, empty):
        for one_each in (False, True):
            for as_text in (False, True):
                for parts in (False, True):
                    made = _one_call_each(form) if one_each else form
                    made = [_with_text_arguments(message) for message in made] if as_text else made
                    yield [_in_parts(message) for message in made] if parts else made


def _folded(messages: Messages) -> Messages:
    if messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return messages
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def _one_call_each(messages: Messages) -> Messages:
    made: Messages = []
    results = {message["tool_call_id"]: message for message in messages if message["role"] == "tool"}
    for message in messages:
        if len(calls := message.get("tool_calls", ())) < 2:
            made += [message] if message not in made else []
            continue
        for place, call in enumerate(calls):
            made.append({**message, "content": "" if place else message["content"], "tool_calls": [call]})
            made += [results[call["id"]]] if call["id"] in results else []
    return made


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": _as_json(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _as_json(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _arguments(messages: Messages) -> Iterator[Any]:
    for message in messages:
        for call in message.get("tool_calls", ()):
            if isinstance(arguments := call["function"]["arguments"], dict) and arguments:
                yield arguments
