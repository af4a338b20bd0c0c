"""Formats of strings as regular expressions that end: as many digits as a value needs, and no day that is none."""

import re

_YEAR = r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP_YEAR = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[13579][26]|[2468][048])00)"
_DAY = r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
_DATE = rf"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
# nine digits of a second are a nanosecond
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?"
_ZONE = r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
# RFC 3339, appendix A, and fractions of seconds, as Pydantic writes them
_SECONDS = r"\d{1,6}(?:\.\d{1,6})?S"
_HOURS = rf"(?:\d{{1,5}}H(?:\d{{1,5}}M(?:{_SECONDS})?)?|\d{{1,5}}M(?:{_SECONDS})?|{_SECONDS})"
_DAYS = r"(?:\d{1,4}Y(?:\d{1,4}M(?:\d{1,5}D)?)?|\d{1,4}M(?:\d{1,5}D)?|\d{1,5}D)"
_DURATION = rf"P(?:\d{{1,4}}W|{_DAYS}(?:T{_HOURS})?|T{_HOURS})"

# what llguidance knows by itself, and what is bounded here
KNOWN = frozenset(["email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
BOUNDED = {
    "date": _DATE,
    "time": _CLOCK + _ZONE,
    "date-time": f"{_DATE}T{_CLOCK}{_ZONE}",
    "duration": _DURATION,
    "decimal": r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,9})?",
}
NAIVE_DATE_TIME = f"^{_DATE}T{_CLOCK}$"
# how Pydantic writes decimals up to 2.13: with look-ahead, which no automaton has
_DECIMAL = r"^(?!^[-+.]*$)[+-]?0*"


def readable_pattern(pattern: str) -> str:
    """A pattern without look-ahead where it is one of Pydantic's for decimals; any other as it is."""
    if not pattern.startswith(_DECIMAL):
        return pattern
    # whole digits, then decimals; without a number there is no bound
    bounds = re.findall(r"\\d\{0,(\d+)\}", pattern)
    whole = int(bounds[0]) if bounds else 15
    decimals = int(bounds[-1]) if len(bounds) > 1 else 0 if bounds and r"\." not in pattern else 9
    before = rf"(?:0|[1-9]\d{{0,{whole - 1}}})" if whole else "0"
    return rf"^-?{before}" + (rf"(?:\.\d{{1,{decimals}}})?$" if decimals else "$")
