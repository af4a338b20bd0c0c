"""The content of a message: plain text, or blocks where there are thoughts."""

from typing import Any

from langchain_saffron.engine import ThoughtText
from langchain_saffron.tools import Event, Said


class Content:
    """Grows with an answer, whether it is streamed or not."""

    def __init__(self) -> None:
        """Nothing was thought or said yet."""
        self._blocks: list[dict[str, Any]] = []
        self._thoughtful = False

    def think(self, piece: ThoughtText) -> dict[str, Any]:
        """Add a piece of a thought; return it as a block, with the number of the one that it belongs to."""
        self._thoughtful = True
        return self._add("reasoning", str(piece), piece.begins)

    def say(self, event: Event) -> str | list[str | dict[str, Any]] | None:
        """Add what an event says, if it does; return that as the content of a chunk."""
        if not isinstance(event, Said) or not event.text:
            return None
        block = self._add("text", str(event.text), False)
        return [block] if self._thoughtful else event.text

    def whole(self) -> Any:
        """All of it: blocks where anything was thought, else a string."""
        if self._thoughtful:
            return self._blocks
        return "".join(block["text"] for block in self._blocks)

    def _add(self, kind: str, text: str, begins: bool) -> dict[str, Any]:
        if begins or not self._blocks or self._blocks[-1]["type"] != kind:
            self._blocks.append({"type": kind, kind: ""})
        self._blocks[-1][kind] += text
        return {"type": kind, kind: text, "index": len(self._blocks) - 1}
