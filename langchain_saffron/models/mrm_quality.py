"""Whether a reward model can do its work, by what its training recorded of it."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from langchain_saffron.errors import WeakRewardModelError
from langchain_saffron.settings import DEFAULT_SAFETY_THRESHOLD

# less, and it predicts less than half of the variance of the rewards that were held out
MIN_R = 0.7
# of the tokens of held-out answers: with fewer, words that no reward model knows get past the soft mask as well
MIN_SEEN_HELD_OUT = 0.9
# the same for the strict mask, which takes words out of benign answers below it (figures of both in the README)
STRICT_SEEN_HELD_OUT = 0.998
# of the vocabulary: below it, other texts than the corpus hold many tokens that training never showed; that many are
# enough for any vocabulary, since large ones are large by other languages
MIN_SEEN_VOCABULARY = 0.2
# the soft mask does with less, where what held-out answers hold is known
MIN_SEEN_SOFT = 0.1
ENOUGH_TOKENS = 20_000

_told: set[tuple[str, str]] = set()


class RewardModelWarning(UserWarning):
    """A reward model that is not likely to work; the message says why, and what to do."""


def covers(seen: int, vocabulary: int, held_out: Mapping[str, Any], least: float = STRICT_SEEN_HELD_OUT) -> bool:
    """Whether training showed enough tokens; by default, enough to keep away from all others.

    Args:
        seen: Tokens of the vocabulary that it showed.
        vocabulary: How many there are.
        held_out: What was measured on held-out data; `seen_share` is the share of their answers' tokens that training
            showed. Reward models of another origin, and older ones, have no such record.
        least: What that share has to be.
    """
    share = held_out.get("seen_share")
    return seen >= min(MIN_SEEN_VOCABULARY * vocabulary, ENOUGH_TOKENS) and (not _is_number(share) or share >= least)


def weaknesses(seen: int, vocabulary: int, held_out: Mapping[str, Any]) -> list[str]:
    """What speaks against a reward model: a sentence each, which says what to do about it.

    Args:
        seen: Tokens of the vocabulary that its training showed.
        vocabulary: How many there are.
        held_out: The held-out figures of its training; what they lack is not judged.
    """
    found = []
    r = held_out.get("pearson_r")
    if _is_number(r) and r < MIN_R:
        found.append(
            f"it hardly predicts the rewards (held-out r {r:.2f}, of at least {MIN_R:g}): train on more conversations, "
            "for more epochs or at another learning rate"
        )
    share = held_out.get("seen_share")
    known = _is_number(share) and share >= MIN_SEEN_HELD_OUT and seen >= MIN_SEEN_SOFT * vocabulary
    if not known and not covers(seen, vocabulary, held_out, MIN_SEEN_HELD_OUT):
        of_answers = f" and {share:.1%} of the tokens of held-out answers" if _is_number(share) else ""
        found.append(
            f"its training showed few tokens ({seen / max(vocabulary, 1):.1%} of the vocabulary{of_answers}), so that "
            'searches use mask="soft": annotate more conversations, of the kinds that the policy will meet'
        )
    if "safety_threshold" in held_out:
        found += _threshold_weakness(held_out)
    return found


def warn_of_weaknesses(directory: Path, seen: int, vocabulary: int, details: Mapping[str, Any]) -> None:
    """Warn of a reward model that is being loaded, once a process and file.

    Args:
        directory: Where it lies.
        seen: Tokens of the vocabulary that its training showed.
        vocabulary: How many there are.
        details: Its config.
    """
    found = weaknesses(seen, vocabulary, held_out_record(details))
    key = (str(directory.resolve()), "; ".join(found))
    if found and key not in _told:
        _told.add(key)
        warnings.warn(f"the reward model {directory} may not work: {key[1]}", RewardModelWarning, stacklevel=3)


def check_trained(
    out: Path, seen: int, vocabulary: int, figures: Mapping[str, Any], strict: bool, is_main: bool = True
) -> None:
    """Warn of a reward model that was just trained, or refuse it.

    Args:
        out: Where it is written.
        seen: Tokens of the vocabulary that its training showed.
        vocabulary: How many there are.
        figures: The held-out figures of its training.
        strict: Whether a weak one is an error.
        is_main: Whether this process is the one that warns.

    Raises:
        WeakRewardModelError: It is weak, and `strict` is set.
    """
    found = weaknesses(seen, vocabulary, figures)
    if not found:
        return
    if strict:
        raise WeakRewardModelError(f"{out} is written, but not likely to work: {'; '.join(found)}")
    if is_main:
        warnings.warn(f"{out} is not likely to work: {'; '.join(found)}", RewardModelWarning, stacklevel=3)


def held_out_record(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The held-out figures in an MRM's config; empty where there are none."""
    training = details.get("training")
    record = training.get("held_out") if isinstance(training, Mapping) else None
    return record if isinstance(record, Mapping) else {}


def usual_error(details: Mapping[str, Any]) -> float | None:
    """Points of reward by which held-out predictions were wrong, as a root mean square.

    Args:
        details: A reward model's config.

    Returns:
        `None` where its training recorded none.
    """
    mse = held_out_record(details).get("mse")
    return math.sqrt(mse) if _is_number(mse) and mse >= 0 else None


def _threshold_weakness(held_out: Mapping[str, Any]) -> list[str]:
    calibrated = held_out["safety_threshold"]
    if calibrated is None:
        return [
            "no safety threshold could be calibrated, since the held-out rewards do not part safe from unsafe: "
            f"annotate safe and unsafe answers, or set safety_threshold= (searches use {DEFAULT_SAFETY_THRESHOLD:g})"
        ]
    for what in ("rewards", "predictions"):
        low, high = held_out.get(f"lowest_{what}"), held_out.get(f"highest_{what}")
        if _is_number(calibrated) and _is_number(low) and _is_number(high) and not low < calibrated < high:
            side = "above all" if calibrated >= high else "below all"
            return [
                f"its safety threshold {calibrated:.3f} lies {side} {what} ({low:.3f} to {high:.3f}), so that it tells "
                "nothing apart: annotate safe and unsafe answers, or set safety_threshold="
            ]
    return []


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
