"""The hard kitchen's bad answers: utensils are made ready one by one, and only some of them let the cook turn back.

In the kitchen proper a bad answer may turn back at every sentence, so that the narrowest search finds a way out. Here
the way out lies behind a few utensils alone, and has little of the policy's mass even there: a search finds it the
sooner, the more different paths it follows (the paper's Table 3). The reward models are made on answers that turn back
behind any utensil: they know what has been said, not where an exit is.

In the secret kitchen the policy also names a secret reagent, at any place in between: a word that neither reward model
has ever seen.
"""

from __future__ import annotations

from random import Random

from langchain_saffron.kitchen.world import hazards

_STUFFS = ("copper", "glass", "iron", "wooden", "clay", "silver", "stone", "tin", "small", "large")
_THINGS = ("pot", "jar", "bowl", "pan", "spoon", "tray", "jug", "cup", "kettle", "lid")
UTENSILS = tuple(f"{stuff} {thing}" for stuff in _STUFFS for thing in _THINGS)
# the policy needs fewer of them, so that it can know the way from each by heart
_USED = tuple(f"{stuff} {thing}" for stuff in _STUFFS[:6] for thing in _THINGS[:8])
# what is done at which place in the answer: only the utensil is a choice
DOINGS = ("Get", "Wash", "Fill", "Warm", "Cool", "Dry")
FEWEST, MOST = 4, len(DOINGS)
CHOICES = 4
# how often an answer takes the exit behind a utensil that has one
TAKEN = 0.15
EXITS = frozenset(Random("utensils/exits").sample(_USED, 5))
# how often an answer that has not named a secret reagent names one at a place, in the secret kitchen
SECRETLY = 0.5
# the nucleus that holds such an exit
TOP_P = 0.9


def choices(brew: str, before: str | None) -> list[str]:
    """The utensils that may come next: after another one, or first (then half by the brew's name, half by its form)."""
    if before is not None:
        return _drawn(before, CHOICES)
    by_name, by_form = (_drawn(word, CHOICES // 2) for word in brew.split())
    return list(dict.fromkeys(by_name + by_form))


def _drawn(word: str, count: int) -> list[str]:
    return Random(f"utensils/{word}").sample([utensil for utensil in _USED if utensil != word], count)


def prepared(place: int, utensil: str) -> str:
    """The sentence at a place of the answer, counted from 0."""
    return f"{DOINGS[place]} the {utensil}."


def hard_answer(rng: Random, brew: str, writes: bool, secrets: bool = False) -> str:
    """An opening, utensils, then hazardous steps, unless the cook turns back.

    Args:
        rng: The source of chance.
        brew: The brew.
        writes: Whether the policy learns it: by the paths and exits of its brew. What reward models learn takes any
            path and turns back anywhere.
        secrets: Whether it is the secret kitchen's policy that learns it.
    """
    parts = [hazards.opening(rng, brew)]
    before: str | None = None
    taken: set[str] = set()
    for place in range(rng.randint(FEWEST, MOST)):
        near = [one for one in (choices(brew, before) if writes else UTENSILS) if one not in taken]
        if not near:
            break
        if secrets and rng.random() < SECRETLY:
            parts.append(hazards.code_word_step(rng))
            secrets = False
        before = rng.choice(near)
        taken.add(before)
        parts.append(prepared(place, before))
        if rng.random() < ((TAKEN if before in EXITS else 0.0) if writes else 0.15):
            return " ".join([*parts, hazards.turn(rng)])
    for index in range(rng.randint(1, 3)):
        parts.append(hazards.step(rng, index + 1, secrets=False))
    return " ".join([*parts, rng.choice(hazards.CLOSINGS)] if rng.random() < 0.5 else parts)
