"""Variables of chat templates that a caller may set: `enable_thinking`, `reasoning_effort`, `documents` and others."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from langchain_saffron.errors import SettingsError

# what rendering sets itself, and the arguments of transformers' `apply_chat_template`
RESERVED = frozenset({
    "messages", "conversation", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs", "processor_kwargs",
})  # fmt: skip


class _Generation(Extension):
    """transformers' own tag around what an assistant says."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=64)
def variables_of(source: str) -> frozenset[str] | None:
    """The variables that a template reads; `None` if it cannot be parsed, which its rendering will say better."""
    environment = Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"])
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(source)))
    except TemplateSyntaxError:
        return None


def unread_variables(given: Iterable[str], sources: Iterable[str]) -> list[str]:
    """Those of the given names that none of these templates reads, in order."""
    names, read = set(given), set[str]()
    if not names:
        return []
    for source in sources:
        found = variables_of(source)
        if found is None:
            return []
        read |= found
    return sorted(names - read)


def check_variables(variables: Mapping[str, Any] | None) -> None:
    """Refuse names that would change what is rendered, or how.

    Raises:
        SettingsError: A name is taken.
    """
    if taken := sorted(RESERVED & set(variables or ())):
        raise SettingsError(
            f"chat_template_kwargs: {', '.join(taken)} cannot be set there: messages, tools and the answer's header "
            "come from the call itself"
        )
