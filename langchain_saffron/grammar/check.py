"""Whether a schema can be followed, found out before any model is there."""

import re
from typing import Any

from langchain_saffron.errors import GrammarError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.grammar.closing import JsonCloser
from langchain_saffron.grammar.json_lark import JsonLark
from langchain_saffron.grammar.lark import shape_of
from langchain_saffron.grammar.leaf_closing import ByteGrammars
from langchain_saffron.grammar.shapes import Leaf, resolved
from langchain_saffron.grammar.trial import needs_trial

_WHERE = r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?"


def check_schema(schema: Any, where: str) -> None:
    """Compile a schema over bytes.

    What may take long to compile is left to the first call, which has a timeout.

    Args:
        schema: A JSON schema.
        where: What errors call it, such as `"tool 'search'"`.

    Raises:
        GrammarError: It cannot be followed; the message names the place.
    """
    writer, shape = JsonLark(), shape_of(schema, where)
    start = writer.rule(shape)
    source = "\n".join([f"start: {start}", *writer.rules]) + "\n"
    if needs_trial(source):
        return
    grammars = ByteGrammars(GRAMMARS.load("llguidance"))
    matcher = grammars.matcher(source)
    if matcher.is_error():
        reason = re.split(r"\n\s*\d+ \| ", matcher.get_error())[0]
        raise GrammarError(f"{where} cannot be followed: {re.sub(_WHERE, '', reason)}")
    shape = resolved(shape)
    if not isinstance(shape, Leaf) and JsonCloser(shape, grammars, len).shortest is None:
        raise GrammarError(f"{where} cannot be followed: no document of it ends, as what it requires requires itself")
