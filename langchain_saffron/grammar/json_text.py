"""Where values of JSON text end, as bytes, and what ends a string."""

import re

# a whole string
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.S)
# what may follow is not always JSON
_SCALAR = re.compile(rb"[-+.\w]+")
_BRACKET = re.compile(rb'["\[\]{}]')


def value_end(text: bytes, start: int) -> int | None:
    """Where the JSON value that begins at `start` ends; `None` where it does not. A number may go on at the end."""
    first = text[start : start + 1]
    if first == b'"':
        found = STRING.match(text, start)
        return found.end() if found else None
    if first not in (b"{", b"["):
        found = _SCALAR.match(text, start)
        return found.end() if found else None
    depth, place = 0, start
    while found := _BRACKET.search(text, place):
        if found[0] == b'"':
            string = STRING.match(text, found.start())
            if string is None:
                return None
            place = string.end()
            continue
        place = found.end()
        depth += 1 if found[0] in b"{[" else -1
        if not depth:
            return place
    return None


def string_end(least: int, written: bytes) -> bytes | None:
    """The end of a string that may hold anything; `None` where it holds escapes or half a character."""
    body = written[1:]
    if (written and written[:1] != b'"') or b"\\" in body or b'"' in body:
        return None
    try:
        missing = least - len(body.decode())
    except UnicodeDecodeError:
        return None
    return (b"" if written else b'"') + b"a" * missing + b'"'


def joined(*parts: bytes | None) -> bytes | None:
    """All parts in a row; `None` where one is."""
    known = [part for part in parts if part is not None]
    return b"".join(known) if len(known) == len(parts) else None
