"""The shortest end of half a document, by its shape."""

from collections.abc import Callable, Iterable, Sequence

from langchain_saffron.grammar.closer import shortest
from langchain_saffron.grammar.json_text import STRING, joined, string_end, value_end
from langchain_saffron.grammar.leaf_closing import ByteGrammars, character_end
from langchain_saffron.grammar.shapes import (
    Array,
    Leaf,
    Object,
    Shape,
    Union,
    all_shapes,
    leaf_grammar,
    resolved,
    schema_text,
)


class JsonCloser:
    """Finds the shortest end of JSON of one shape."""

    def __init__(
        self, shape: Shape, grammars: ByteGrammars, cost: Callable[[bytes], int], item: str = ", ", key: str = ": "
    ) -> None:
        """Prepare for documents of one shape.

        Args:
            shape: Of the whole.
            grammars: Over bytes.
            cost: How long some text is, in tokens.
            item: What stands between items.
            key: What stands behind keys.
        """
        self._comma, self._colon = item.encode(), key.encode()
        self._shape = shape
        self._grammars = grammars
        self._cost = cost
        self._whole: dict[int, bytes] = {}
        self._fits: dict[tuple[int, bytes], bool] = {}
        self._find_shortest()

    @property
    def shortest(self) -> bytes | None:
        """The shortest document; `None` where there is none that ends."""
        return self._least(self._shape)

    @property
    def rise(self) -> int:
        """How many tokens farther the end may be after one more piece of the document, at most."""
        longest = 0
        for shape in self._shapes:
            if isinstance(shape, Leaf):
                longest = max(longest, shape.longest)
            elif isinstance(shape, Object):
                longest = max([longest, *(len(schema_text(member.name)) + 2 for member in shape.members)])
        return longest + max([self._cost(text) for text in self._whole.values()], default=0) + 8

    def close(self, text: bytes, start: int = 0) -> bytes | None:
        """What makes `text` from `start` on a whole document; `None` where nothing is known to."""
        return self._close(self._shape, text, start)

    def matches(self, text: bytes) -> bool:
        """Whether some JSON is a whole document."""
        return self._matches(self._shape, text)

    # The shortest value of each shape.

    def _find_shortest(self) -> None:
        self._shapes = list(all_shapes(self._shape))
        changed = True
        while changed:
            changed = False
            for shape in self._shapes:
                text = self._shortest_of(shape)
                known = self._whole.get(id(shape))
                if text is not None and self._best((known, text)) != known:
                    self._whole[id(shape)] = text
                    changed = True

    def _shortest_of(self, shape: Shape) -> bytes | None:
        if isinstance(shape, Leaf):
            return self._whole.get(id(shape)) or self._close_leaf(shape, b"")
        if isinstance(shape, Union):
            return self._best(self._least(option) for option in shape.options)
        if isinstance(shape, Object):
            rest = self._members(shape, 0, (), first=True)
            return None if rest is None else b"{" + rest
        assert isinstance(shape, Array)
        items = self._items(shape, 0, (), first=True)
        return None if items is None else b"[" + items

    def _least(self, shape: Shape) -> bytes | None:
        return self._whole.get(id(resolved(shape)))

    def _best(self, found: Iterable[bytes | None]) -> bytes | None:
        return shortest(found, self._cost)

    # What is missing of a value that has begun.

    def _close(self, shape: Shape, text: bytes, start: int) -> bytes | None:
        shape = resolved(shape)
        if start >= len(text):
            return self._least(shape)
        if isinstance(shape, Leaf):
            return self._close_leaf(shape, text[start:])
        if isinstance(shape, Union):
            return self._best(self._close(option, text, start) for option in shape.options)
        if isinstance(shape, Object):
            return self._close_object(shape, text, start + 1) if text[start : start + 1] == b"{" else None
        assert isinstance(shape, Array)
        return self._close_array(shape, text, start + 1) if text[start : start + 1] == b"[" else None

    def _close_leaf(self, leaf: Leaf, written: bytes) -> bytes | None:
        if leaf.texts:
            values = [text.encode() for text in leaf.texts]
            return self._best(value[len(written) :] for value in values if value.startswith(written))
        if leaf.least is not None and (end := string_end(leaf.least, written)) is not None:
            return end
        return self._grammars.close(leaf_grammar(leaf), written)

    def _close_object(self, shape: Object, text: bytes, place: int) -> bytes | None:
        member, first = 0, True
        others: tuple[bytes, ...] = ()
        while True:
            rest = text[place:]
            if not rest:
                return self._members(shape, member, others, first)
            if rest[:1] == b"}":
                whole = len(rest) == 1 and self._members(shape, member, others, first) == b"}"
                return b"" if whole else None
            if not first:
                if self._comma.startswith(rest):
                    return joined(self._comma[len(rest) :], self._another(shape, member, others, b""))
                if not rest.startswith(self._comma):
                    return None
                place += len(self._comma)
            key = STRING.match(text, place)
            if key is None:
                return self._another(shape, member, others, text[place:])
            found = self._named(shape, member, key[0])
            if found is None:
                return None
            inner, member, other = found
            others = (*others, key[0]) if other else others
            first, place = False, key.end()
            rest = text[place:]
            if self._colon.startswith(rest) and len(rest) < len(self._colon):
                return joined(self._colon[len(rest) :], self._least(inner), self._members(shape, member, others, False))
            if not rest.startswith(self._colon):
                return None
            place += len(self._colon)
            end = value_end(text, place)
            if end is None or end == len(text):
                return joined(self._close(inner, text, place), self._members(shape, member, others, False))
            if not self._matches(inner, text[place:end]):
                return None
            place = end

    def _named(self, shape: Object, member: int, key: bytes) -> tuple[Shape, int, bool] | None:
        """The shape behind a key, which member comes next, and whether it is one of the others."""
        for place, one in enumerate(shape.members):
            if schema_text(one.name).encode() == key:
                skipped = any(before.required for before in shape.members[member:place])
                return None if place < member or skipped else (one.shape, place + 1, False)
        if shape.others is None or any(one.required for one in shape.members[member:]):
            return None
        return shape.others, len(shape.members), True

    def _another(self, shape: Object, member: int, others: tuple[bytes, ...], begun: bytes) -> bytes | None:
        """The shortest member whose key begins so, and all after it."""
        found: list[bytes | None] = []
        for place in range(member, len(shape.members)):
            one = shape.members[place]
            key = schema_text(one.name).encode()
            if key.startswith(begun):
                rest = self._members(shape, place + 1, others, False)
                found.append(joined(key[len(begun) :], self._colon, self._least(one.shape), rest))
            if one.required:
                break
        else:
            if shape.others is not None and (shape.most is None or len(others) < shape.most):
                end = _other_key(shape, others, begun)
                rest = self._members(shape, len(shape.members), (*others, begun + end), False)
                found.append(joined(end, self._colon, self._least(shape.others), rest))
        return self._best(found)

    def _members(self, shape: Object, member: int, others: tuple[bytes, ...], first: bool) -> bytes | None:
        """What has to follow behind a member, the bracket included."""
        parts: list[bytes | None] = []
        for one in shape.members[member:]:
            if one.required:
                parts.append(joined(schema_text(one.name).encode(), self._colon, self._least(one.shape)))
        for _ in range(shape.least - len(others)):
            least = None if shape.others is None else self._least(shape.others)
            key = _other_key(shape, others, b"")
            others = (*others, key)
            parts.append(joined(key, self._colon, least))
        return self._listed(parts, first, b"}")

    def _close_array(self, shape: Array, text: bytes, place: int) -> bytes | None:
        count, first = 0, True
        used: tuple[bytes, ...] = ()
        while True:
            rest = text[place:]
            if not rest:
                return self._items(shape, count, used, first)
            if rest[:1] == b"]":
                return b"" if len(rest) == 1 and count >= shape.least else None
            if not first:
                if self._comma.startswith(rest):
                    return joined(self._comma[len(rest) :], self._item(shape, count, used, b""))
                if not rest.startswith(self._comma):
                    return None
                place += len(self._comma)
            end = value_end(text, place)
            if end is None or end == len(text):
                return self._item(shape, count, used, text[place:])
            written = text[place:end]
            inner = _item_shape(shape, count)
            if written in used or not (self._matches(inner, written) if inner else written in _choices(shape)):
                return None
            used = (*used, written) if shape.choices else ()
            count, first, place = count + 1, False, end

    def _item(self, shape: Array, count: int, used: tuple[bytes, ...], begun: bytes) -> bytes | None:
        """The shortest end of an item that has begun, and all after it."""
        if shape.most is not None and count >= shape.most:
            return None
        if shape.choices:
            left = [text for text in _choices(shape) if text not in used and text.startswith(begun)]
            ends = (joined(one[len(begun) :], self._items(shape, count + 1, (*used, one), False)) for one in left)
            return self._best(ends)
        inner = _item_shape(shape, count)
        if inner is None:
            return None
        return joined(self._close(inner, begun, 0), self._items(shape, count + 1, (), False))

    def _items(self, shape: Array, count: int, used: tuple[bytes, ...], first: bool) -> bytes | None:
        """What has to follow behind an item, the bracket included."""
        if shape.choices:
            left = sorted((text for text in _choices(shape) if text not in used), key=self._cost)
            return self._listed(left[: max(shape.least - count, 0)], first, b"]")
        parts = [self._least(inner) for inner in shape.first[count : shape.least]]
        alike = shape.least - max(count, len(shape.first))
        if alike > 0:
            parts += [None if shape.rest is None else self._least(shape.rest)] * alike
        return self._listed(parts, first, b"]")

    def _listed(self, parts: Sequence[bytes | None], first: bool, end: bytes) -> bytes | None:
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return (b"" if first or not known else self._comma) + self._comma.join(known) + end

    # Values that are whole.

    def _matches(self, shape: Shape, text: bytes) -> bool:
        shape = resolved(shape)
        key = (id(shape), text)
        if key not in self._fits:
            if len(self._fits) > 4096:
                self._fits.clear()
            if isinstance(shape, Leaf):
                known = leaf_grammar(shape)
                fits = (
                    text.decode(errors="replace") in shape.texts if shape.texts else self._grammars.accepts(known, text)
                )
            elif isinstance(shape, Union):
                fits = any(self._matches(option, text) for option in shape.options)
            else:
                fits = self._close(shape, text, 0) == b""
            self._fits[key] = fits
        return self._fits[key]


def _item_shape(shape: Array, place: int) -> Shape | None:
    return shape.first[place] if place < len(shape.first) else shape.rest


def _choices(shape: Array) -> list[bytes]:
    return [text.encode() for text in shape.choices]


def _other_key(shape: Object, others: tuple[bytes, ...], begun: bytes) -> bytes:
    """What makes a key of another member, which is not there yet, of what has begun."""
    taken = {*others, *(schema_text(member.name).encode() for member in shape.members)}
    body = begun if begun else b'"'
    end = character_end(body)
    more = 0
    while body + end + b"a" * more + b'"' in taken:
        more += 1
    return (b'"' if not begun else b"") + end + b"a" * more + b'"'
