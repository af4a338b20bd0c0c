"""How wide a search may be where the KV cache had no room for all of its beams."""

from dataclasses import replace

from langchain_saffron.search.protocol import Answer


class Room:
    """Follows what a search asked for and what there was room for.

    A search that had to give up beams stays as narrow as it then was; with every step that is scored whole it may be
    twice as wide again. So its width follows the room that there is, and it neither asks for what it cannot have at
    every step nor stays narrow when it need not.

    Attributes:
        width: The most beams that it should ask for now.
        narrowed: Steps before which it had to give up beams.
        narrowest: The fewest beams that it was left with.
    """

    def __init__(self, most: int) -> None:
        """There is room until the contrary shows.

        Args:
            most: The widest that the search may be.
        """
        self._most = most
        self.width = most
        self.narrowed = 0
        self.narrowest: int | None = None

    def note(self, asked: int, scored: int) -> None:
        """Take in how many of the beams that a step asked for were scored."""
        if scored < asked:
            self.width = scored
            self.narrowed += 1
            self.narrowest = min(scored, self.narrowest or scored)
        else:
            self.width = min(2 * self.width, self._most)

    def told_in(self, answer: Answer) -> Answer:
        """An answer that tells how narrow its search had to be."""
        return replace(answer, narrowed=self.narrowed, narrowest_width=self.narrowest)
