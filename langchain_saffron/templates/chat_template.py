"""Rendering of chat templates such that user text cannot become a control token.

A chat template is a program that writes control strings around what the messages say. To tell its own control
strings from those that messages contain (or that come to be where the two meet), every character of the
messages is set between marks: characters that occur nowhere else. Whatever control string is then found in
the rendered text is the template's. It gets its private name (see `safe_encoder`), and the marks are removed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from langchain_saffron.errors import PromptError
from langchain_saffron.templates.field_marks import FieldMarks
from langchain_saffron.templates.message_forms import THOUGHTS, Message, call_forms, merged_forms, with_thoughts
from langchain_saffron.templates.safe_encoder import SafeEncoder, replace_surrogates, safe_encoder
from langchain_saffron.templates.template_fields import Change, PromptFields
from langchain_saffron.templates.thought_probe import TemplateThoughts, probe_thoughts

_REMEDY = '. With tool_format="hermes", tools and calls are written into its messages instead'


class TemplateRefusal(Exception):
    """A template raised, or left out something that it was given."""


@dataclass(frozen=True)
class Chat:
    """A rendered conversation.

    Attributes:
        text: For `encoder`: control tokens by their private names.
        messages: As rendered: merged, and their tool calls in another form, where the template demanded it.
        source: The template's text.
        last_start: Where in `text` the last message's own text begins (its first non-blank character); `None`
            if the template changes what messages say.
        tail: What the template itself wrote behind the last of what messages say.
        variables: Further variables of the template.
        encoder: What encodes the text.
    """

    text: str
    messages: list[Message]
    source: str
    encoder: SafeEncoder
    last_start: int | None = None
    tail: str = ""
    variables: Mapping[str, Any] | None = None


class ChatTemplate:
    """A chat template together with the tokenizer it writes for."""

    def __init__(self, tokenizer: Any, encoder: SafeEncoder, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._written: frozenset[str] = frozenset()
        self._template = template
        self._thoughts: dict[str, TemplateThoughts] = {}

    def source(self, tools: list[Any] | None = None) -> str:
        """The template's text.

        Raises:
            PromptError: There is none.
        """
        try:
            return self._tokenizer.get_chat_template(self._template, tools)
        except ValueError as error:
            raise PromptError(
                "the tokenizer has no chat template: pass chat_template=..., or use SaffronLLM, which takes "
                f"plain text ({str(error).splitlines()[0]})"
            ) from error

    def render(
        self,
        messages: list[Message],
        tools: list[Any] | None = None,
        sources: Sequence[str] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Chat:
        """A conversation with the header of the answer.

        What the template cannot take as it is gets merged: turns of the same role that follow each other into
        one, and a system text into the user's next turn, with a blank line between. Tool calls may take other forms,
        too (see `call_forms`).

        Args:
            messages: As chat templates read them.
            tools: In OpenAI's form.
            sources: Templates in place of the tokenizer's, the best one first.
            variables: Further variables of the template. Their texts are data, as those of messages.

        Raises:
            PromptError: The template refuses every form; the message is its own.
        """
        first: TemplateRefusal | None = None
        versions = [messages]
        if any(THOUGHTS in message for message in messages):
            # some take no thoughts beside what is said
            versions.append(with_thoughts(messages, None))
        forms = (
            form for version in versions for calls in call_forms(version) for form in merged_forms(calls, bool(tools))
        )
        # some templates, such as those of models that also see pictures, take a list of parts for a text
        for form, parts, source in product(forms, (False, True), sources or [self.source(tools)]):
            try:
                return self._render(form, tools, source, parts, variables, add_generation_prompt=True)
            except TemplateRefusal as refusal:
                first = first or refusal
        asks_for_tools = tools or any(message["role"] == "tool" or "tool_calls" in message for message in messages)
        remedy = _REMEDY if asks_for_tools and _REMEDY not in str(first) else ""
        raise PromptError(f"the chat template cannot take these messages: {first}{remedy}") from first

    def render_continued(self, chat: Chat, message: Message, tools: list[Any] | None = None) -> Chat | None:
        """`chat` with one more message, within which it ends; `None` if its template does not support that."""
        for parts in (False, True):
            try:
                return self._render(
                    [*chat.messages, message], tools, chat.source, parts, chat.variables, continue_final_message=True
                )
            except TemplateRefusal:
                continue
        return None

    def thoughts(self, source: str) -> TemplateThoughts:
        """What a template does with thoughts, found out once.

        Args:
            source: The template's text.
        """
        found = self._thoughts.get(source)
        if found is None:

            def render(messages: list[Message], tools: list[Any] | None, variables: dict[str, Any]) -> str | None:
                try:
                    return self._apply(messages, tools, source, variables)
                except TemplateRefusal:
                    return None

            controls = {token.content for token in self._tokenizer.added_tokens_decoder.values()}
            found = self._thoughts[source] = probe_thoughts(render, source, controls.__contains__)
        return found

    def render_continued_elsewhere(self, chat: Chat, message: Message, tools: list[Any] | None = None) -> Chat | None:
        """The same where the template shows a system text beside the last question only (Mistral).

        What it writes between the header and an answer is that which it writes without the system text; `None` if it
        does not support that either.
        """
        rest = [one for one in chat.messages if one["role"] != "system"]
        if len(rest) == len(chat.messages) or not rest:
            return None
        try:
            bare = self.render(rest, tools, [chat.source], chat.variables)
        except PromptError:
            return None
        continued = self.render_continued(bare, message, tools)
        if continued is None or continued.last_start is None or not continued.text.startswith(bare.text):
            return None
        if continued.encoder is not chat.encoder:
            # its private names are others
            return None
        text = chat.text + continued.text[len(bare.text) :]
        start = len(chat.text) + continued.last_start - len(bare.text)
        return replace(continued, text=text, messages=[*chat.messages, message], last_start=start)

    def plain_marker(self, source: str) -> str | None:
        """What the template writes between a user's text and the answer, if that is text without a control token."""
        try:
            chat = self.render([{"role": "user", "content": "x"}], sources=[source])
        except PromptError:
            return None
        if chat.last_start is None:
            return None
        marker = chat.text[chat.last_start + 1 :]
        has_control = not chat.encoder.control_ids.isdisjoint(chat.encoder.encode(marker))
        return None if has_control else marker.strip() or None

    def _render(
        self,
        messages: list[Message],
        tools: list[Any] | None,
        source: str,
        parts: bool,
        variables: Mapping[str, Any] | None,
        **options: bool,
    ) -> Chat:
        encoder = self._encoder
        fields = PromptFields(messages, tools, encoder.pattern.search, variables)
        strings = "\0".join([source, *fields.strings()])
        marks = FieldMarks(strings, fields.count, encoder)
        thoughts = self.thoughts(source).field if any(THOUGHTS in message for message in messages) else None

        def apply(change: Change) -> str:
            changed, changed_tools = fields.changed(change)
            if parts:
                changed = [
                    {**message, "content": [{"type": "text", "text": message["content"]}]} for message in changed
                ]
            variables_then = {**fields.changed_variables(change), **options}
            return self._apply(with_thoughts(changed, thoughts), changed_tools, source, variables_then)

        marked = apply(marks.spread)
        _check_arguments(fields.changed(marks.spread)[0], marked)
        marked = marks.restored(marked)
        if written := encoder.markup_in(marked):
            # put together by the template, since its text does not show them: nobody else may write them from now on
            self._written |= written
            self._encoder = safe_encoder(self._tokenizer, source, *self._written)
            return self._render(messages, tools, source, parts, variables, **options)
        self._check_complete(fields, marks, marked)
        name, tail = encoder.name_controls, marks.tail(marked)
        named = name(marked)
        start = marks.start(named, fields.content(len(messages) - 1))
        try:
            raw = apply(lambda text, field: text)
            if marks.remove(marked) == raw:
                return Chat(marks.remove(named), messages, source, encoder, start, tail, variables)
            # The template looks at what messages say, or edits it (SmolLM3 takes `/no_think` out). It must
            # see the words unmarked then, which is fine as long as that adds no control string.
            broken = marks.restored(apply(marks.broken))
            if encoder.control_sequence(broken) == encoder.control_sequence(marked):
                header = self._header(apply, options, raw)
                return Chat(marks.remove(name(broken)), messages, source, encoder, None, header, variables)
        except TemplateRefusal:
            pass  # raised because of words that it did not see in the marked text
        return Chat(marks.remove(named), messages, source, encoder, start, tail, variables)

    def _apply(self, messages: list[Message], tools: Any, source: str, options: dict[str, Any]) -> str:
        # some that are for tools only count them without asking whether there are any
        for given in [tools] if tools else [None, []]:
            try:
                rendered = self._tokenizer.apply_chat_template(
                    messages, tools=given, chat_template=source, tokenize=False, **options
                )
                return replace_surrogates(rendered)
            except Exception as error:  # a template is a program: whatever it raises is its way to say no
                if given is None:
                    continue
                raise TemplateRefusal(f"{type(error).__name__}: {error}") from error
        raise AssertionError

    @staticmethod
    def _header(apply: Callable[[Change], str], options: dict[str, Any], raw: str) -> str:
        """The answer's header, of a template that looks at what messages say."""
        if not options.pop("add_generation_prompt", False):
            return ""
        before = apply(lambda text, field: text)
        return raw.removeprefix(before) if raw.startswith(before) else ""

    @staticmethod
    def _check_complete(fields: PromptFields, marks: FieldMarks, marked: str) -> None:
        """Templates leave out without a word what they do not know: a system role, tools."""
        for index, message in enumerate(fields.messages):
            # what is said beside calls, many templates leave out on purpose: their models were trained so
            if (
                message["content"].strip()
                and not message.get("tool_calls")
                and not marks.has(marked, fields.content(index))
            ):
                raise TemplateRefusal(f"it leaves out message {index + 1}, of role {message['role']!r}")
        for index, field, call in fields.calls():
            if call["function"]["name"].strip() and not marks.has(marked, field):
                raise TemplateRefusal(f"it leaves out tool calls of message {index + 1}{_REMEDY}")
        shown = [marks.has(marked, field) for field in fields.tool_fields()]
        if shown and not any(shown):
            raise TemplateRefusal(f"it does not support tools{_REMEDY}")
        if not all(shown):
            raise TemplateRefusal(f"it leaves out tool {shown.index(False) + 1} of {len(shown)}{_REMEDY}")


def _check_arguments(messages: list[Message], rendered: str) -> None:
    """Some templates take arguments as JSON text only: an object would be written as Python writes it."""
    for message in messages:
        for call in message.get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            if arguments and isinstance(arguments, dict) and repr(arguments) in rendered:
                raise TemplateRefusal("it cannot write a tool call's arguments as JSON")
