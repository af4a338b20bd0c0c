"""How much of what a text was overruled by counts against others that begin like it."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class _Place:
    """A prefix of overruled texts.

    Attributes:
        doubt: The most by which one of these texts doubts what it shares so much with.
        below: The prefixes that are a token longer.
    """

    doubt: float = 0.0
    below: dict[int, "_Place"] = field(default_factory=dict)


class Doubts:
    """The texts that were predicted to be safer than they are, as a trie.

    A text casts as much of its error on another one as that shares of what had not stood an earlier look. The longer
    what they share, the more that is: so the most is found on the way down the trie, whatever number of texts there is.
    """

    def __init__(self) -> None:
        """There are none yet."""
        self._root = _Place()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._root.below)

    def add(self, tokens: tuple[int, ...], since: int, error: float) -> None:
        """Take in a text.

        Args:
            tokens: It.
            since: How many of them had stood an earlier look.
            error: Points of reward by which the prediction was too high.
        """
        place = self._root
        for shared, token in enumerate(tokens, 1):
            place = place.below.setdefault(token, _Place())
            if shared > since:
                place.doubt = max(place.doubt, error * (shared - since) / (len(tokens) - since))

    def of(self, tokens: tuple[int, ...]) -> float:
        """Points of reward by which a text has to be expected to be less safe than predicted."""
        place, most = self._root, 0.0
        for token in tokens:
            below = place.below.get(token)
            if below is None:
                break
            place, most = below, max(most, below.doubt)
        return most
