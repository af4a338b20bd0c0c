"""Whether a schema can be followed, found out before any model is there."""

from typing import Any

from langchain_saffron.errors import GrammarError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.grammar.json_lark import JsonLark
from langchain_saffron.grammar.lark import shape_of
from langchain_saffron.grammar.leaf_closing import ByteGrammars
from langchain_saffron.grammar.trial import needs_trial


def check_schema(schema: Any, where: str) -> None:
    """Compile a schema over bytes.

    What may take long to compile is left to the first call, which has a timeout.

    Args:
        schema: A JSON schema.
        where: What errors call it, such as `"tool 'search'"`.

    Raises:
        GrammarError: It cannot be followed; the message names the place.
    """
    writer = JsonLark()
    start = writer.rule(shape_of(schema, where))
    source = "\n".join([f"start: {start}", *writer.rules]) + "\n"
    if needs_trial(source):
        return
    matcher = ByteGrammars(GRAMMARS.load("llguidance")).matcher(source)
    if matcher.is_error():
        reason = matcher.get_error().split("\n")[0].partition("failed to compile JSON schema: ")
        raise GrammarError(f"{where} cannot be followed: {reason[2] or reason[0]}")
