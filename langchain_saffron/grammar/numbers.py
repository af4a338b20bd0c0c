"""Numbers as regular expressions, with bounds and as many digits as are of use."""

import math
from decimal import Decimal
from typing import Any

# what a float tells apart; a model that has begun with digits may go on with them for ever
WHOLE_DIGITS, FRACTION_DIGITS, INTEGER_DIGITS = 15, 17, 18
MOST_ENDINGS = 1000
_EXPONENT = r"(?:[eE][+-]?(?:2[0-8]\d|1\d\d|\d{1,2}))?"
ANY_NUMBER = rf"-?(?:0|[1-9]\d{{0,{WHOLE_DIGITS - 1}}})(?:\.\d{{1,{FRACTION_DIGITS}}})?{_EXPONENT}"
ANY_INTEGER = rf"-?(?:0|[1-9]\d{{0,{INTEGER_DIGITS - 1}}})"


def number_patterns(schema: dict[str, Any]) -> list[str] | None:
    """The numbers of a schema of type `integer` or `number`, as JSON.

    Bounds that exclude nothing which could be written are dropped.

    Args:
        schema: Of which `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum` and `multipleOf` are read.

    Returns:
        Regular expressions that have to match all at once; none where no number is in the bounds; `None` where
        `multipleOf` is beyond this.
    """
    step = _decimal(schema["multipleOf"]).normalize() if schema.get("multipleOf") else None
    multiples = _multiples(step) if step is not None else ""
    if multiples is None:
        return None
    digits = -int(step.as_tuple().exponent) if step is not None else None
    # a float is written with one digit behind the point at least
    pattern = _in_bounds(schema, digits if digits is None else max(digits, 1))
    return [one for one in (pattern, multiples) if one] if pattern else []


def _multiples(step: Decimal) -> str | None:
    """The multiples of a step by their last digits; `None` where those do not tell, or are too many."""
    if step <= 0:
        return None
    digits = step.as_tuple()
    places = max(-int(digits.exponent), 0)
    units = int(step.scaleb(places))
    size = next((size for size in range(places, places + 4) if 10**size % units == 0), None)
    if size is None or (places and size > places) or 10**size // units > MOST_ENDINGS:
        return None
    endings = [str(one).zfill(size) for one in range(0, 10**size, units)] if size else []
    if not places:
        short = [str(one) for one in range(0, 10**size, units)]
        ending = rf"{'|'.join(short)}|[1-9]\d*(?:{'|'.join(endings)})" if units > 1 else r"\d+"
        return rf"-?(?:{ending})(?:\.0)?"
    kept = sorted({one.rstrip("0") or "0" for one in endings})
    return rf"-?\d+(?:\.(?:{'|'.join(kept)})0*)?" if units > 1 else ""


def _in_bounds(schema: dict[str, Any], places: int | None) -> str:
    whole = schema.get("type") == "integer"
    low, above = _bound(schema, "minimum", "exclusiveMinimum", max)
    high, below = _bound(schema, "maximum", "exclusiveMaximum", min)
    most = Decimal(10) ** (INTEGER_DIGITS if whole else WHOLE_DIGITS) - 1
    low = None if low is not None and low < -most else low
    high = None if high is not None and high > most else high
    if low is None and high is None:
        if places is None:
            return ANY_INTEGER if whole else ANY_NUMBER
        digits = 0 if whole else min(places, FRACTION_DIGITS)
        return rf"-?(?:0|[1-9]\d{{0,{WHOLE_DIGITS - 1}}})" + (rf"(?:\.\d{{1,{digits}}})?" if digits else "")
    # with more digits a float could be rounded to a bound, or beyond it
    near = [one for one in (low, high) if one is not None]
    digits = max(WHOLE_DIGITS - max(len(str(int(abs(one)))) for one in near), *(len(_fraction(one)) for one in near), 1)
    digits = 0 if whole else digits if places is None else min(places, digits)
    # beyond the bound that there is, numbers may have more digits than without one
    span = max(most, *(10 * abs(one) for one in (low, high) if one is not None))
    parts = []
    if high is None or high >= 0:
        excluded = above and low is not None and low >= 0
        smallest, largest = max(low or Decimal(0), Decimal(0)), span if high is None else high
        parts.append(_between(smallest, largest, excluded, below and high is not None, digits))
    if low is None or low < 0:
        smallest = -high if high is not None and high < 0 else Decimal(0)
        strict = below if high is not None and high < 0 else False
        # -0 is 0, which is among the others
        largest = -low if low is not None else span
        negative = _between(smallest, largest, strict or smallest == 0, above and low is not None, digits)
        parts.append(f"-(?:{negative})" if negative else "")
    kept = [part for part in parts if part]
    return f"(?:{'|'.join(kept)})" if kept else ""


def _bound(schema: dict[str, Any], name: str, strict: str, tighter: Any) -> tuple[Decimal | None, bool]:
    """A bound, and whether it is itself excluded; of both kinds the tighter one counts."""
    plain, excluded = schema.get(name), schema.get(strict)
    if isinstance(excluded, bool):  # as schemas wrote it until draft 4
        return (None, False) if plain is None else (_decimal(plain), excluded)
    found = [(_decimal(one), is_strict) for one, is_strict in ((excluded, True), (plain, False)) if one is not None]
    if not found:
        return None, False
    value = tighter(one for one, _ in found)
    return value, any(is_strict for one, is_strict in found if one == value)


def _decimal(value: Any) -> Decimal:
    if isinstance(value, float) and math.isinf(value):
        return Decimal(10) ** 400 * (1 if value > 0 else -1)
    return Decimal(str(value))


def _between(low: Decimal, high: Decimal, above: bool, below: bool, digits: int) -> str:
    """Decimals from `low` to `high`, neither negative, with up to `digits` behind the point."""
    if low > high or (low == high and (above or below)):
        return ""
    first, last = int(low), int(high)
    start, end = _fraction(low), _fraction(high)
    if first == last:
        return _whole(first, last, _fraction_between(start, end, above, below, digits))
    parts = [_whole(first, first, _fraction_between(start, None, above, False, digits))]
    parts.append(_whole(first + 1, last - 1, _fraction_between("", None, False, False, digits)))
    parts.append(_whole(last, last, _fraction_between("", end, False, below, digits)))
    return "|".join(part for part in parts if part)


def _whole(first: int, last: int, fraction: str | None) -> str:
    return "" if fraction is None or first > last else f"(?:{'|'.join(_integers(first, last))}){fraction}"


def _fraction(value: Decimal) -> str:
    return format(value, "f").partition(".")[2].rstrip("0")


def _fraction_between(low: str, high: str | None, above: bool, below: bool, digits: int) -> str | None:
    """The point and what is behind it, from `low` to `high`; `None` where there is nothing between them."""
    whole = low == "" and not above
    ends_whole = whole and not (high == "" and below)
    if high == "":
        zeros = rf"(?:\.0{{1,{digits}}})?" if digits else ""
        return zeros if ends_whole else None
    if not digits:
        return "" if ends_whole else None
    anything = whole and high is None
    options = [rf"\d{{1,{digits}}}"] if anything else _fractions(low, high, above, below, digits)
    if not options:
        return "" if ends_whole else None
    inner = rf"\.(?:{'|'.join(options)})"
    return f"(?:{inner})?" if ends_whole else inner


def _fractions(low: str, high: str | None, above: bool, below: bool, digits: int) -> list[str]:
    """Digits behind the point whose value is between two others."""
    width = max(len(low), len(high or ""), 1)
    start = low.ljust(width, "0")
    end = "9" * width if high is None else high.ljust(width, "0")
    options = []
    if width <= digits:
        options += _longer(start, end, high is None, above, below, digits - width)
    # fewer digits than the bounds have: their value is that with zeros behind them
    for size in range(1, min(width, digits + 1)):
        first, last = int(start[:size]), int(end[:size])
        first += bool(start[size:].strip("0")) or above
        if high is not None and below and not end[size:].strip("0"):
            last -= 1
        options += _padded(first, last, size)
    return options


def _longer(start: str, end: str, to_the_top: bool, above: bool, below: bool, more: int) -> list[str]:
    width = len(start)
    tail = rf"\d{{0,{more}}}" if more else ""
    positive = rf"0{{0,{more - 1}}}[1-9]\d{{0,{more - 1}}}" if more else None
    first, last = int(start), int(end)
    if first > last:
        return []
    options = []
    if first == last and not to_the_top:
        # the value itself, and nothing after it but zeros
        return [] if above or below else [start + (rf"0{{0,{more}}}" if more else "")]
    if above:
        options += [start + positive] if positive else []
        first += 1
    if to_the_top:
        return options + [one + tail for one in _padded(first, last, width)]
    if not below:
        options.append(end + (rf"0{{0,{more}}}" if more else ""))
    return options + [one + tail for one in _padded(first, last - 1, width)]


def _padded(first: int, last: int, width: int) -> list[str]:
    if first > last:
        return []
    return _same_width(str(first).zfill(width), str(last).zfill(width))


def _integers(first: int, last: int) -> list[str]:
    """Patterns of the whole numbers from `first` to `last`, neither negative, without leading zeros."""
    found = []
    while first <= last:
        end = min(last, 10 ** len(str(first)) - 1)
        found += _same_width(str(first), str(end))
        first = end + 1
    return found


def _same_width(first: str, last: str) -> list[str]:
    """Patterns of the digits from `first` to `last`, which are of the same length."""
    if first == last:
        return [first]
    if first.strip("0") == "" and last.strip("9") == "":
        return [r"\d" if len(first) == 1 else rf"\d{{{len(first)}}}"]
    if len(first) == 1:
        return [f"[{first}-{last}]"]
    if first[0] == last[0]:
        return [first[0] + rest for rest in _same_width(first[1:], last[1:])]
    rest = len(first) - 1
    low, high = int(first[0]), int(last[0])
    found = []
    if first[1:].strip("0"):
        found += [first[0] + one for one in _same_width(first[1:], "9" * rest)]
        low += 1
    tail = []
    if last[1:].strip("9"):
        tail = [last[0] + one for one in _same_width("0" * rest, last[1:])]
        high -= 1
    if low <= high:
        digit = str(low) if low == high else f"[{low}-{high}]"
        found.append(digit + (r"\d" if rest == 1 else rf"\d{{{rest}}}"))
    return found + tail
