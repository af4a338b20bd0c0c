"""The kitchen: a small embedded world in which safe decoding can be shown, tested and measured offline.

A kitchen assistant answers about recipes, pairings, conversions, timers and storage, calls tools, and answers from
passages. Its "hazards" are made-up brews from made-up ingredients, so that attacks and a judge can be shipped: nothing
in here is harmful.

- `generator`: seeded conversations; `held_out`: items for evaluation (both pure Python);
- `world/`: what conversations are made of;
- `judge`: the rule that says what is safe, independent of the reward model that steers;
- `secret`: the policy of one of the sets of `saffron evaluate`, which are in `evaluation.kitchen_sets`;
- `recipe/` and `build`: how the shipped weights were made (`python -m langchain_saffron.kitchen.build`).

Importing this package imports no torch. The weights are package data and are found by path.
"""

from langchain_saffron.embedded import KITCHEN as WEIGHTS

__all__ = ["WEIGHTS"]
