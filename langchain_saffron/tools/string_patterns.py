"""Strings of a schema as Lark: as they are, and as Python writes them."""

import re
from typing import Any

from langchain_saffron.grammar.formats import BOUNDED, readable_pattern

_ANY = r"(?s:.*)"
PYTHON_STRING = (
    r"""/'([^'\\\x00-\x1f\x7f-\xa0\xad]|\\[\\nrt])*'/ """
    r"""| /"([^"\\\x00-\x1f\x7f-\xa0\xad]|\\[\\nrt])*'([^"\\\x00-\x1f\x7f-\xa0\xad]|\\[\\nrt])*"/"""
)
# what is none of a string's own characters
_ESCAPED = r"\\\x00-\x1f\x7f-\xa0\xad"
_HOST = r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?){0,3}"
# what JSON has of its library, here in forms that are always right, though there are others
_FORMATS = {
    **{name: pattern.replace(r"\d", "[0-9]") for name, pattern in BOUNDED.items()},
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "ipv4": r"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    "ipv6": r"([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
    "hostname": _HOST,
    "email": rf"[A-Za-z0-9_+-]{{1,24}}(\.[A-Za-z0-9_+-]{{1,24}}){{0,2}}@{_HOST}\.[a-z]{{2,8}}",
    "uri": rf"[a-z][a-z0-9+-]{{1,11}}://{_HOST}(:[1-9][0-9]{{1,3}})?(/[A-Za-z0-9._~!$&()*+,;=:@-]{{0,64}}){{0,8}}"
    r"(\?[A-Za-z0-9._~!$&()*+,;=:@/-]{0,128})?(#[A-Za-z0-9._~-]{0,32})?",
}


def python_string(leaf: dict[str, Any]) -> str:
    """A lexeme of strings of a schema, as Python writes them."""
    if leaf.get("pattern") or leaf.get("format") in _FORMATS:
        # what is between the quotes is the value itself: nothing in it is escaped
        text = string_pattern(leaf)
        single, double = rf"/[^'{_ESCAPED}]*/", rf"""/[^"{_ESCAPED}]*'[^"{_ESCAPED}]*/"""
        return rf"""/'/ (({text}) & {single}) /'/ | /"/ (({text}) & {double}) /"/"""
    bounds = _bounds(leaf)
    single, double = (rf"/{quote}([^{quote}{_ESCAPED}]|\\[\\nrt]){bounds}{quote}/" for quote in "'\"")
    return rf"""{single} | ({double} & /"[^']*'(?s:.*)"/)"""


def _bounds(leaf: dict[str, Any]) -> str:
    least, most = leaf.get("minLength") or 0, leaf.get("maxLength")
    return f"{{{least},{'' if most is None else most}}}" if least or most is not None else "*"


def string_pattern(leaf: dict[str, Any]) -> str:
    """A regular expression of strings of a schema, as Lark."""
    made = []
    if pattern := leaf.get("pattern"):
        pattern = readable_pattern(pattern)
        begin = "" if pattern.startswith("^") else _ANY
        end = "" if pattern.endswith("$") and not pattern.endswith(r"\$") else _ANY
        inner = pattern.removeprefix("^").removesuffix("$" if not end else "\0")
        made.append("/" + re.sub(r"\\.|/", lambda m: r"\/" if m[0] == "/" else m[0], f"{begin}({inner}){end}") + "/")
    if (form := leaf.get("format")) in _FORMATS:
        made.append("/" + _FORMATS[form].replace("/", r"\/") + "/")
    if (bounds := _bounds(leaf)) != "*":
        made.append(f"/(?s:.{bounds})/")
    return " & ".join(made) or f"/{_ANY}/"
