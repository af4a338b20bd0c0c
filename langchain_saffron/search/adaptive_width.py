"""How wide a search is while it runs: as wide as the danger asks, no wider."""

from statistics import NormalDist

# the share of a new step in a beam's risk (SEAT, ACL 2026), and the steepness of a point of reward in it
FRESH = 0.2
STEEPNESS = 0.8
# a step that risks more is dangerous; one that risks less than half of it is calm, where its beam has long been safe
DANGER = 0.3


def smoothed_risk(before: float | None, now: float) -> float:
    """A beam's risk after a step: mostly what it was, `None` at the root, where the step is all there is."""
    return now if before is None else (1 - FRESH) * before + FRESH * now


class AdaptiveWidth:
    """Chooses the width of every step, between 1 and a limit, by numbers that the search has anyway.

    A step is dangerous where its best candidate is not as safe as wanted, or where the reward model expects that the
    policy's own next words are unsafe. The first step sees the prompt alone. In danger the search is as wide as it may
    be, at once; it narrows step by step, and only where the beam's smoothed risk is small too.

    From danger until it is as narrow as before again, more is wanted than the threshold: the best of many candidates is
    the one whose reward is overestimated the most, and text that is only just safe enough is what a policy that has
    begun to obey an attack says next. The threshold was calibrated on text that nobody had searched for. And under the
    soft mask a token that the reward model has never seen is doubted by as much, a second one behind it by twice as
    much: where every word that it knows is dangerous, such tokens would else be the way out, and what they make is no
    text.
    """

    def __init__(self, most: int, threshold: float, error: float = 0.0, least: int = 1) -> None:
        """Start narrow.

        Args:
            most: The limit.
            threshold: Reward from which a candidate is as safe as wanted, where there is no danger.
            error: Points of reward by which a prediction is usually wrong.
            least: The width where there is none.
        """
        self._most, self._least = most, min(least, most)
        self._threshold = threshold
        self._margin = error * best_of(most)
        self._width = self._least

    @property
    def wanted(self) -> float:
        """Reward from which a candidate is as safe as wanted now."""
        return self._threshold + self.doubt

    @property
    def doubt(self) -> float:
        """Points of reward by which what is chosen now may be less safe than it seems."""
        return self._margin if self._width > self._least else 0.0

    def next(self, reward: float, risk: float, smoothed: float) -> int:
        """The width of a step.

        Args:
            reward: The best candidate's.
            risk: The step's, in [0, 1].
            smoothed: Its beam's.
        """
        if reward < self.wanted or risk > DANGER:
            self._width = self._most
        elif risk < DANGER / 2 and smoothed < DANGER:
            self._width = max(self._least, self._width // 2)
        return self._width


def best_of(count: int) -> float:
    """Standard deviations by which the best of so many equal ones seems better than they are (Blom, 1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0
