"""Calls of a form that is given as data."""

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_saffron.grammar import Grammar
from langchain_saffron.tools.base import CallParser, ToolFormat
from langchain_saffron.tools.call_form import CallForm
from langchain_saffron.tools.control_text import control_tokens
from langchain_saffron.tools.form_grammar import form_grammar
from langchain_saffron.tools.form_parser import FormParser
from langchain_saffron.tools.form_preamble import with_calls_in_messages, writes_messages


class FormCalls(ToolFormat):
    """Writes and reads calls by a `CallForm`."""

    def __init__(self, name: str, form: CallForm, marker: str = "") -> None:
        """Take a form.

        Args:
            name: What the field `tool_format` calls it.
            form: How calls are written.
            marker: What the text of a chat template for it holds, for templates that write no calls themselves.
        """
        self.name = name  # type: ignore[misc]
        self.form = form
        self.trigger = form.trigger
        self._marker = marker

    def detect(self, source: str, tokenizer: Any) -> bool:
        """By a marker; templates that write calls are asked for one beforehand."""
        return bool(self._marker) and self._marker in source

    def grammar(self, tools: Sequence[dict[str, Any]], choice: str, parallel: bool) -> Grammar | None:
        """Free text until a call begins, or nothing but calls; their arguments follow the tools' schemas."""
        return None if choice == "none" else form_grammar(self.form, tools, choice, parallel)

    def parser(
        self, tokenizer: Any = None, tools: Sequence[dict[str, Any]] = (), prompt_ids: Sequence[int] = ()
    ) -> CallParser:
        """A parser of the text with the markers that are control tokens."""
        return FormParser(self.form, tools)

    def markers(self, tokenizer: Any) -> dict[int, str]:
        """Those that are control tokens."""
        return control_tokens(tokenizer, self.form.literals())

    def templates(self, source: str) -> Iterator[str]:
        """The template with its calls written into its messages: for those that leave them out or write them wrong."""
        # what writes calls itself knows best how
        if (self._marker or not self.form.faithful) and writes_messages(self.form):
            yield with_calls_in_messages(self.form, source)
