"""How well predicted rewards agree with the PRM's, and the reward from which a prefix counts as safe."""

from pathlib import Path
from typing import Any

import numpy as np

PRECISION = 0.99
_BIN = 2.0


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


def held_out_figures(
    rewards: np.ndarray, predictions: np.ndarray, precision: float, seen_share: float
) -> dict[str, Any]:
    """What a training comes to: the agreement, the threshold, and how much of what is said was shown.

    Args:
        rewards: float array [prefixes]: the PRM's rewards.
        predictions: float array [prefixes]: the reward model's predictions.
        precision: As in `safety_threshold`.
        seen_share: The share of held-out tokens that training showed.
    """
    threshold = safety_threshold(rewards, predictions, precision)
    return {**agreement(rewards, predictions), "safety_threshold": threshold, "seen_share": seen_share}


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
