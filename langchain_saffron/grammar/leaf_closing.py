"""The shortest ends of values that a regular language describes, found byte by byte."""

from typing import Any, ClassVar

# what may be missing of a character
_REST = (b"", b"\x80", b"\xa0", b"\x80\x80", b"\xa0\x80", b"\x90\x80\x80", b"\x80\x80\x80")
# how far and how wide the search for an end goes, and how many ends are kept
DEEPEST, WIDEST, KEPT = 512, 24, 2048


class ByteGrammars:
    """Grammars over bytes as tokens, compiled once each."""

    def __init__(self, library: Any) -> None:
        """Take llguidance."""
        self._library = library
        self._tokenizer = library.LLTokenizer(_Bytes(), slices=[])
        self._limits = library.LLParserLimits(verbose_errors=False)
        self._roots: dict[str, Any] = {}
        self._ends: dict[tuple[str, bytes], bytes | None] = {}

    def matcher(self, source: str) -> Any:
        """A matcher of Lark, which is the caller's; it is in error where the Lark is."""
        if source not in self._roots:
            self._roots[source] = self._library.LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)
        return self._roots[source].deep_copy()

    def after(self, source: str, written: bytes) -> Any:
        """A matcher that has read something; `None` where that does not begin anything of the grammar."""
        matcher = self.matcher(source)
        if matcher.is_error() or matcher.try_consume_tokens(list(written)) != len(written):
            return None
        return matcher

    def accepts(self, source: str, written: bytes) -> bool:
        """Whether something is of the grammar as it stands."""
        matcher = self.after(source, written)
        return matcher is not None and bool(matcher.is_accepting())

    def close(self, source: str, written: bytes) -> bytes | None:
        """A shortest end of what has been written.

        Args:
            source: Lark.
            written: What is there of the value.

        Returns:
            What makes it whole, empty where it is; `None` where none was found.
        """
        key = (source, written)
        if key not in self._ends:
            if len(self._ends) > KEPT:
                self._ends.clear()
            matcher = self.after(source, written)
            self._ends[key] = None if matcher is None else shortest_end(matcher)
        return self._ends[key]


def character_end(text: bytes) -> bytes:
    """What makes half a character at the end of a text a whole one."""
    for rest in _REST:
        try:
            (text + rest).decode()
        except UnicodeDecodeError:
            continue
        return rest
    return b""


def shortest_end(matcher: Any) -> bytes | None:
    """The fewest bytes that bring a matcher over bytes to an end, as far as a narrow search finds them.

    Of responses of the same length that may go on with the same bytes, one is followed.
    """
    levels: dict[int, dict[bytes, tuple[Any, bytes]]] = {0: {b"": (matcher, b"")}}
    for depth in range(DEEPEST):
        states = levels.pop(depth, {})
        for state, written in states.values():
            if state.is_accepting():
                return written
        for state, written in list(states.values())[:WIDEST]:
            forced = state.compute_ff_bytes()
            if forced:
                _follow(levels, state, written, forced)
                continue
            for byte in _allowed(state.compute_bitmask()):
                _follow(levels, state.deep_copy(), written, bytes([byte]))
        if not levels:
            break
    return None


def _follow(levels: dict[int, dict[bytes, tuple[Any, bytes]]], state: Any, written: bytes, more: bytes) -> None:
    if not state.consume_tokens(list(more)):
        return
    written += more
    level = levels.setdefault(len(written), {})
    # what is over has no mask
    mask = b"" if state.is_accepting() else state.compute_bitmask()
    if not state.is_error():
        level.setdefault(mask, (state, written))


def _allowed(mask: bytes) -> list[int]:
    """The bytes that may follow; of those outside ASCII, two stand for all."""
    allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
    return [byte for byte in allowed if byte < 0x80] + [byte for byte in allowed if byte >= 0x80][:2]


class _Bytes:
    """Bytes in the shape of a tokenizer that llguidance takes."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256
    special_token_ids: ClassVar[list[int]] = []
    tokens: ClassVar[list[bytes]] = [*(bytes([byte]) for byte in range(256)), b""]

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())
