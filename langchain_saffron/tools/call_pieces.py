"""Rendered calls taken apart, into what is theirs and what stands around it."""

from collections.abc import Sequence

from langchain_saffron.tools.call_form import Part, Slot


def taken_apart(text: str, name: str, identifier: str, arguments: tuple[int, int]) -> tuple[str, tuple[Part, ...], str]:
    """What stands before the first slot, the slots with the texts between them, and what stands behind the last."""
    slots: list[tuple[int, int, Slot]] = [(*arguments, Slot.ARGUMENTS)]
    for mark, slot in ((name, Slot.NAME), (identifier, Slot.ID)):
        place = text.find(mark)
        while place >= 0:
            slots.append((place, len(mark), slot))
            place = text.find(mark, place + 1)
    slots.sort(key=lambda slot: slot[0])
    parts: list[Part] = []
    end = 0
    for place, size, slot in slots:
        parts += [text[end:place], slot]
        end = place + size
    opening, *call = parts
    assert isinstance(opening, str)
    return opening, tuple(part for part in call if part != ""), text[end:]


def numbered(
    pieces: Sequence[tuple[str, tuple[Part, ...], str]], opening: str, call: tuple[Part, ...]
) -> tuple[str | None, str, tuple[Part, ...]]:
    """Calls that count themselves from 0: the number becomes a slot."""
    whole: list[list[Part]] = []
    for place, (before, parts, _) in enumerate(pieces):
        split: list[Part] = []
        for part in (before, *parts):
            if isinstance(part, str) and part.count(str(place)) == 1:
                head, _, rest = part.partition(str(place))
                split += [head, Slot.INDEX, rest]
            else:
                split.append(part)
        whole.append(split)
    first, second, third = whole
    if first[1:] != second[1:] or second != third or not isinstance(first[0], str) or not isinstance(second[0], str):
        return None, opening, call
    return second[0], first[0], tuple(part for part in first[1:] if part != "")
