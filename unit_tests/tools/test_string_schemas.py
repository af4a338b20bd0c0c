"""Strings of calls that are not JSON follow their schemas, as those of JSON do."""

import pytest

from langchain_saffron.grammar.compiler import GrammarCompiler
from langchain_saffron.interface.prompts import PromptRenderer
from unit_tests.builders import byte_level_tokenizer
from unit_tests.call_templates import FAMILIES
from unit_tests.grammars import accepts

pytest.importorskip("llguidance")
CASES = [
    ({"pattern": "^[a-c]+$"}, ("abc",), ("abd", "")),
    ({"pattern": "b.b"}, ("abxbc", "b'b"), ("bb",)),
    ({"pattern": "^[a-z]+$", "maxLength": 3}, ("abc",), ("abcd", "A")),
    ({"minLength": 2, "maxLength": 3}, ("ab", "a'c", "a\nb"), ("a", "abcd")),
    ({"maxLength": 0}, ("",), ("a",)),
    ({"format": "date"}, ("2024-02-29",), ("2023-02-29", "today")),
    ({"format": "email"}, ("a.b@example.org",), ("a.b", "a@b@c.de")),
    ({"format": "uri"}, ("https://example.org/a?b=c#d",), ("example",)),
    ({"format": "duration"}, ("P3DT4H",), ("3 days",)),
    ({"format": "ipv4"}, ("10.0.0.1",), ("10.0.0.256",)),
]


def compiled(family, schema):
    tokenizer = byte_level_tokenizer(chat_template=FAMILIES[family])
    function = {"name": "find", "parameters": {"type": "object", "properties": {"a": schema}, "required": ["a"]}}
    grammar = PromptRenderer(tokenizer).tool_format.grammar([{"type": "function", "function": function}], "any", True)
    return tokenizer, GrammarCompiler(tokenizer, len(tokenizer), [tokenizer.eos_token_id]).compile(grammar)


@pytest.mark.parametrize(("rules", "good", "bad"), CASES, ids=lambda one: str(one))
def test_strings_of_python_follow_their_schemas(rules, good, bad):
    string = {"type": "string", **rules}
    for schema, shown in ((string, "{}"), ({"type": "array", "items": string}, "[{}]")):
        tokenizer, root = compiled("bare_pythonic", schema)
        for text in good:
            assert accepts(tokenizer, root, f"[find(a={shown.format(repr(text))})]"), text
        for text in bad:
            assert not accepts(tokenizer, root, f"[find(a={shown.format(repr(text))})]"), text
        # none is known where a pattern may begin anywhere
        if (end := root.shortest()) is not None:
            assert accepts(tokenizer, root, tokenizer.decode(end))
        assert end is not None or "pattern" in rules


@pytest.mark.parametrize(("rules", "good", "bad"), CASES, ids=lambda one: str(one))
def test_strings_that_stand_as_they_are_do_too(rules, good, bad):
    tokenizer, root = compiled("xml", {"type": "string", **rules})
    call = "<tool_call>\n<function=find>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>"
    assert all(accepts(tokenizer, root, call.format(text)) for text in good)
    assert not any(accepts(tokenizer, root, call.format(text)) for text in bad)
