"""Where a JSON value ends that is still being written."""

_CLOSERS = {"{": "}", "[": "]"}
# what stands outside strings: punctuation, numbers, and the letters of true, false, null, NaN and Infinity
_PLAIN = frozenset(' \t\r\n{}[],:"0123456789+-.eEtrufalsnNIity')


class JsonScanner:
    """Follows a JSON object character by character; knows its nesting, not its grammar.

    Attributes:
        stack: The brackets that are open, as what closes them.
        in_string: Whether the next character belongs to a string.
    """

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.in_string = False
        self._escaped = False

    @property
    def depth(self) -> int:
        """How many brackets are open."""
        return len(self.stack)

    def push(self, character: str) -> bool:
        """Read a character; `False` if it cannot stand here in any JSON object."""
        if self.in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self.in_string = False
            return True
        if character not in _PLAIN:
            return False
        if not self.stack and character != "{":
            return character.isspace()
        if character == '"':
            self.in_string = True
        elif character in _CLOSERS:
            self.stack.append(_CLOSERS[character])
        elif character in "}]":
            if self.stack[-1] != character:
                return False
            self.stack.pop()
        return True
