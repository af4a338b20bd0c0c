"""Streams of a server, each read by a thread of its own."""

import json
import threading
import time

import httpx

from integration_tests.served import Served

DONE = "data: [DONE]"


class Stream(threading.Thread):
    """A stream that is read to its end.

    Attributes:
        lines: What came, without empty ones.
        ended: When there was no more, of `time.monotonic`.
    """

    def __init__(self, server: Served, number: int, tokens: int, headers: dict[str, str] | None = None) -> None:
        """Ask at once.

        Args:
            server: Whom.
            number: Of the conversation: others have other first questions.
            tokens: So many, neither more nor fewer.
            headers: Of the request.
        """
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.ended = 0.0
        self._url, self._tokens, self._number = f"{server.url}/v1/chat/completions", tokens, number
        self._headers = headers or {}
        self.start()

    def run(self) -> None:
        """Read."""
        asked = {"messages": [{"role": "user", "content": f"How do I make soup {self._number}?"}], "stream": True}
        asked |= {"min_tokens": self._tokens, "max_tokens": self._tokens}
        try:
            with httpx.stream("POST", self._url, json=asked, headers=self._headers, timeout=120) as one:
                for line in one.iter_lines():
                    if line:
                        self.lines.append(line)
        finally:
            self.ended = time.monotonic()

    @property
    def last(self) -> dict:
        """The last event, `[DONE]` aside."""
        assert self.lines[-1] == DONE
        found: dict = json.loads(self.lines[-2].removeprefix("data: "))
        return found

    @property
    def fate(self) -> str:
        """`"replica_lost"` or another code of an error event, `"length"` or another reason to end, or `"cut"`."""
        if self.is_alive():
            return "running"
        if not self.lines or self.lines[-1] != DONE:
            return "cut"
        return str(self.last["error"]["code"] if "error" in self.last else self.last["saffron"]["finish_reason"])


def streams(server: Served, count: int, tokens: int, headers: dict[str, str] | None = None) -> list[Stream]:
    """So many at once, all of them begun."""
    begun = [Stream(server, number, tokens, headers) for number in range(count)]
    while not all(one.lines for one in begun):
        assert all(one.is_alive() for one in begun), "some ended before others began: ask for more tokens"
        time.sleep(0.01)
    return begun
