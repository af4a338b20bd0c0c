"""How a chat template writes arguments one by one, found by rendering some."""

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from langchain_saffron.tools.call_form import Parameters
from langchain_saffron.tools.values import Nested, Strings, Values, Words

# every character that some way of writing strings changes
_TRICKY = "zq \"a\" \\ 'b' é <c> & zq"
_ARRAY = ["zqx", 5, True, None]
_OBJECT = {"zqj": "zqy", "zqh": [False]}

# quotes that a string may hold itself, and whose way it is to escape them
_ESCAPED: dict[str, Strings] = {"'": "python", '"': "json"}

Body = Callable[..., str]


def probe_parameters(body: Body, marks: Sequence[str]) -> Parameters | None:
    """How arguments are written one by one; `None` where they are not, or in no way that can be told.

    Args:
        body: From the arguments of one call to what the template writes.
        marks: The call's name and id.
    """
    frame = _frame(body, marks)
    if frame is None:
        return None
    opening, middle, closing, separator, after = frame

    def written(value: Any) -> str | None:
        """What stands between a key and what follows its value."""
        text = body({"zqka": value})
        start, end = text.find("zqka"), len(text) - len(after)
        if start < 0 or not text.endswith(closing + after):
            return None
        return text[start + 4 : end - len(closing)]

    def value_of(value: Any) -> str | None:
        text = written(value)
        return text.removeprefix(middle) if text is not None and text.startswith(middle) else None

    text_middle, string, quote = _strings(written, middle)
    if string is None:
        return None
    if string == "raw" and not closing:
        # it forgets quotes, without which nobody can tell where a string ends
        string = "python"
    if string == "quoted" and quote in _ESCAPED:
        # it forgets to escape quotes within strings
        string, quote = _ESCAPED[quote], ""
    if not closing and not separator:
        # it forgets commas
        separator = ", "
    boolean = {"true": "json", "True": "python"}.get(value_of(True) or "")
    null = {"null": "json", "None": "python"}.get(value_of(None) or "", "json")
    values = Values(cast(Strings, string), cast(Words, boolean or "json"), cast(Words, null), quote=quote)
    array, made = _nested(value_of(_ARRAY), _ARRAY, values), _nested(value_of(_OBJECT), _OBJECT, values)
    if boolean is None or array is None or made is None:
        return None
    values = Values(values.string, values.boolean, values.null, array, made, quote)
    two = body({"zqkb": 717, "zqka": 828})
    in_order = 0 <= two.find("zqka") < two.find("zqkb")
    return Parameters(opening, middle, closing, separator, values, text_middle, in_order)


def _frame(body: Body, marks: Sequence[str]) -> tuple[str, str, str, str, str] | None:
    """The texts around keys and values, found with numbers, and that behind all arguments."""
    none, one, two = body({}), body({"zqka": 717}), body({"zqka": 717, "zqkb": 828})
    places = [one.find("zqka"), one.find("717"), two.find("717"), two.find("zqkb"), two.find("828")]
    if any(place < 0 for place in places) or places != [*sorted(places[:2]), *sorted(places[2:])]:
        return None
    key, value, first, second, last = places
    start = max((none.rfind(mark) + len(mark) for mark in marks if mark in one[:key]), default=0)
    from_name, middle, to_end = one[start:key], one[key + 4 : value], one[value + 3 :]
    between, empty = two[first + 3 : second], none[start:]
    if two[second + 4 : last] != middle or two[last + 3 :] != to_end or one[:start] != none[:start]:
        return None
    for size in range(len(empty), -1, -1):
        before, after = empty[:size], empty[size:]
        # a marker is not to be split, though all may begin alike
        if before.endswith("<") or not from_name.startswith(before) or not to_end.endswith(after):
            continue
        opening, closing = from_name[size:], to_end[: len(to_end) - len(after)]
        if between.startswith(closing) and between.endswith(opening) and len(between) >= len(opening) + len(closing):
            separator = between[len(closing) : len(between) - len(opening)]
            return opening, middle, closing, separator, after
    return None


def _strings(written: Callable[[Any], str | None], middle: str) -> tuple[str, str | None, str]:
    """What stands before a string if it is not `middle`, how it is written, and its quotes."""
    text, tricky = written("zqva"), written(_TRICKY)
    if text is None or tricky is None:
        return "", None, ""
    if not text.startswith(middle):
        head = text.removesuffix("zqva")
        return (head, "raw", "") if head != text and tricky == head + _TRICKY else ("", None, "")
    text, tricky = text.removeprefix(middle), tricky.removeprefix(middle)
    for kind, one in (("json", json.dumps(_TRICKY, ensure_ascii=False)), ("python", repr(_TRICKY)), ("raw", _TRICKY)):
        if tricky == one:
            return "", kind, ""
    if text == "zqva" and tricky == f"<![CDATA[{_TRICKY}]]>":
        return "", "cdata", ""
    quote = text.partition("zqva")[0]
    if quote and text == f"{quote}zqva{quote}" and tricky == f"{quote}{_TRICKY}{quote}":
        return "", "quoted", quote
    return "", None, ""


def _nested(written: str | None, value: Any, values: Values) -> Nested | None:
    kinds: tuple[Nested, ...] = ("json", "python", "own")
    for kind in kinds:
        if written == Values(values.string, values.boolean, values.null, kind, kind, values.quote).write(value):
            return kind
    return None
