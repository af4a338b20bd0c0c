"""How well predicted rewards agree with the PRM's, and the reward from which a prefix counts as safe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PRECISION = 0.99
_BIN = 2.0


@dataclass(frozen=True)
class Choices:
    """Rewards of several tokens behind the same prefixes.

    Attributes:
        rewards: float array [tokens]: the PRM's.
        predictions: float array [tokens]: the reward model's.
        prefix: int array [tokens]: the same number for the same prefix.
    """

    rewards: np.ndarray
    predictions: np.ndarray
    prefix: np.ndarray

    @classmethod
    def of(cls, targets: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], parts: Sequence[np.ndarray]) -> "Choices":
        """Of conversations.

        Args:
            targets: `Sample.targets` of each.
            parts: The predictions of those.
        """
        at, rewards = (np.concatenate([target[i] for target in targets]) for i in (0, 2))
        which = np.repeat(np.arange(len(targets)), [len(target[0]) for target in targets])
        prefix = np.unique(which * (at.max() + 1) + at, return_inverse=True)[1]
        return cls(rewards, np.concatenate(parts), prefix)

    def figures(self) -> dict[str, Any]:
        """How well the predictions tell the tokens of a prefix apart.

        Returns:
            `choices` (prefixes with several tokens), and `choice_r`: the correlation of what rewards and predictions
            differ by from the mean of their prefix; 0 where either is constant. Empty where no prefix has several.
        """
        count = np.bincount(self.prefix)
        several = count[self.prefix] > 1
        if not several.any():
            return {}
        apart = []
        for values in (self.rewards, self.predictions):
            mean = np.bincount(self.prefix, values.astype(np.float64)) / np.maximum(count, 1)
            apart.append((values - mean[self.prefix])[several])
        known, predicted = apart
        spread = float(np.sqrt((known**2).sum() * (predicted**2).sum()))
        r = float((known * predicted).sum()) / spread if spread > 0 else 0.0
        return {"choices": int((count > 1).sum()), "choice_r": r}


@dataclass(frozen=True)
class Predicted:
    """What a reward model says of annotated data.

    Attributes:
        rewards: float array [prefixes]: the PRM's rewards of what was said.
        predictions: float array [prefixes]: the reward model's.
        choices: Those of candidates as well, where there are any.
    """

    rewards: np.ndarray
    predictions: np.ndarray
    choices: Choices | None = None


def agreement(rewards: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
    """Figures of the paper's Fig. 4b.

    Args:
        rewards: float array [prefixes]: the PRM's rewards.
        predictions: float array [prefixes]: the MRM's predictions.

    Returns:
        `mse`, `pearson_r` (0 where either is constant), `within_1` (the share of predictions within ±1), `auc` (the
        chance that a prefix that the PRM calls safe, by a reward above 0, is predicted above one that it does not;
        `None` where all are of one kind), `rewards` (how many), the lowest and highest of both, and the same `by_bin`
        of the PRM's reward.
    """
    error = predictions - rewards
    # not by the standard deviation, which rounding keeps above zero
    constant = rewards.min() == rewards.max() or predictions.min() == predictions.max()
    edges = np.floor(rewards.astype(np.float64) / _BIN) * _BIN
    safe, bins = rewards > 0, []
    for edge in np.unique(edges):
        part = error[edges == edge]
        bins.append(
            {
                "from": float(edge),
                "to": float(edge + _BIN),
                "rewards": len(part),
                "mse": float((part**2).mean()),
                "within_1": float((abs(part) <= 1).mean()),
            }
        )
    return {
        "rewards": len(rewards),
        "mse": float((error**2).mean()),
        "pearson_r": 0.0 if constant else float(np.corrcoef(rewards, predictions)[0, 1]),
        "within_1": float((abs(error) <= 1).mean()),
        "auc": auc(safe, predictions) if safe.any() and not safe.all() else None,
        "lowest_rewards": float(rewards.min()),
        "highest_rewards": float(rewards.max()),
        "lowest_predictions": float(predictions.min()),
        "highest_predictions": float(predictions.max()),
        "by_bin": bins,
    }


def auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive has a higher score than a negative, ties counted half."""
    high, low = scores[positive], np.sort(scores[~positive])
    below = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return float(below.mean() / 2 / len(low))


def held_out_figures(predicted: Predicted, precision: float, seen_share: float) -> dict[str, Any]:
    """What a training comes to: the agreement, the threshold, and how much of what is said was shown.

    Args:
        predicted: Of held-out data.
        precision: As in `safety_threshold`.
        seen_share: The share of held-out tokens that training showed.
    """
    rewards, predictions = predicted.rewards, predicted.predictions
    choices = predicted.choices.figures() if predicted.choices else {}
    threshold = safety_threshold(rewards, predictions, precision)
    return {**agreement(rewards, predictions), **choices, "safety_threshold": threshold, "seen_share": seen_share}


def safety_threshold(rewards: np.ndarray, predictions: np.ndarray, precision: float = PRECISION) -> float | None:
    """The lowest prediction such that of all prefixes at or above it the wanted share is safe by the PRM.

    Args:
        rewards: float array [prefixes]: the PRM's rewards; above 0 means safe.
        predictions: float array [prefixes]: the MRM's predictions.
        precision: That share.

    Returns:
        `None` where no threshold reaches it, or where every prefix is safe, which tells nothing.
    """
    safe = rewards > 0
    if safe.all():
        return None
    order = np.argsort(-predictions, kind="stable")
    share = np.cumsum(safe[order]) / np.arange(1, len(order) + 1)
    # equal predictions stand or fall together
    last = np.append(predictions[order][1:] != predictions[order][:-1], True)
    enough = np.flatnonzero((share >= precision) & last)
    return float(predictions[order[enough[-1]]]) if len(enough) else None


def plot_agreement(path: Path, rewards: np.ndarray, predictions: np.ndarray, title: str) -> None:
    """Write the scatter of predictions over the PRM's rewards (paper, Fig. 4b) as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = agreement(rewards, predictions)
    low = min(rewards.min(), predictions.min()) - 0.5
    high = max(rewards.max(), predictions.max()) + 0.5
    figure, axes = pyplot.subplots(figsize=(5, 4.6), dpi=110)
    drawn = axes.hexbin(
        rewards, predictions, gridsize=70, bins="log", mincnt=1, extent=(low, high, low, high), linewidths=0.1
    )
    line = np.array([low, high])
    axes.plot(line, line, color="black", linewidth=0.8)
    axes.fill_between(line, line - 1, line + 1, color="grey", alpha=0.2, linewidth=0, label="within ±1")
    axes.set(
        xlim=(low, high), ylim=(low, high), xlabel="reward of the PRM", ylabel="prediction of the MRM", title=title
    )
    axes.text(
        0.03,
        0.86,
        f"r = {figures['pearson_r']:.3f}\nwithin ±1: {figures['within_1']:.1%}\n{len(rewards):,} held-out prefixes",
        transform=axes.transAxes,
    )
    axes.legend(loc="lower right", frameon=False)
    figure.colorbar(drawn, label="prefixes")
    figure.tight_layout()
    # without the date and the program's version the same data give the same bytes
    figure.savefig(path, format="png", metadata={"Software": None})
    pyplot.close(figure)
