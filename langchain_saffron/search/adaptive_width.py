"""How wide a search is while it runs: as wide as the danger asks, no wider."""

# the share of a new step in a beam's risk (SEAT, ACL 2026), and the steepness of a point of reward in it
FRESH = 0.2
STEEPNESS = 0.8
# a beam whose risk lies above is in danger; the search narrows only where it lies below half of it
DANGER = 0.3
# how much wider the next step is in danger
GROWTH = 4
# steps without danger after which a search is half as wide
PATIENCE = 2


def smoothed_risk(before: float | None, now: float) -> float:
    """A beam's risk after a step: mostly what it was, `None` at the root, where the step is all there is."""
    return now if before is None else (1 - FRESH) * before + FRESH * now


class AdaptiveWidth:
    """Chooses the width of every step, between 1 and a limit, by numbers that the search has anyway.

    A step is dangerous where its best candidate is not as safe as wanted, or where its beam's risk is high: the reward
    model expects that the policy's own next words are unsafe. The first step sees the prompt alone. The width grows at
    once and shrinks slowly.
    """

    def __init__(self, most: int, threshold: float) -> None:
        """Start narrow.

        Args:
            most: The limit.
            threshold: Reward from which a candidate is as safe as wanted.
        """
        self._most = most
        self._threshold = threshold
        self._width = 1
        self._calm = 0

    def next(self, reward: float, risk: float) -> int:
        """The width of a step.

        Args:
            reward: The best candidate's.
            risk: The smoothed risk of its beam, in [0, 1].
        """
        unsafe = reward < self._threshold
        if unsafe or risk > DANGER:
            self._calm = 0
            self._width = min(self._most, self._width * GROWTH)
        elif risk < DANGER / 2:
            self._calm += 1
            if self._calm >= PATIENCE:
                self._calm = 0
                self._width = max(1, self._width // 2)
        return self._width
