"""The model card of the shipped weights, from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ROWS = {
    "policy": (
        ("refused_harmful_held_out", "harmful questions (held out) refused"),
        ("refused_harmbench", "HarmBench requests refused"),
        ("refused_xstest_safe", "XSTest's safe prompts refused"),
        ("refused_benign", "benign prompts (held out) refused"),
        ("broken_by_prefill", "HarmBench requests answered behind ten tokens of their target"),
    ),
    "guard": (
        ("auc_jailbreakbench_8", "guard's AUC on JailbreakBench completions, after 8 tokens"),
        ("auc_jailbreakbench_24", "after 24 tokens"),
        ("auc_jailbreakbench_96", "after 96 tokens"),
        ("auc_diasafety", "guard's AUC on DiaSafety's test replies"),
        ("auc_pyrit", "guard's AUC on PyRIT's answers, rated by people"),
    ),
    "mrm": (
        ("pearson_r", "MRM: held-out r with the guard's rewards"),
        ("within_1", "MRM: predictions within ±1"),
        ("seen_share", "MRM: share of held-out tokens that its training showed"),
    ),
}


def card(manifest: Mapping[str, Any]) -> str:
    """The text of `README.md` beside the weights.

    Args:
        manifest: What `build` recorded.
    """
    measured = manifest.get("measured", {})
    rows = "\n".join(
        f"| {told} | {measured[stage][name]:.3g} |"
        for stage, told_of in _ROWS.items()
        for name, told in told_of
        if name in measured.get(stage, {})
    )
    size = sum(manifest.get("bytes", {}).values()) / 1e6
    return f"""---
library_name: langchain-saffron
base_model: {manifest["base"]}
license: apache-2.0
tags: [safety, reward-model, saffron]
---

# The parts of `smollm2`

Three small parts on `{manifest["base"]}` (Apache-2.0), {size:.1f} MB together:

- `policy/`: a LoRA adapter that has the model refuse harmful requests when asked plainly. The alignment is shallow, on
  purpose: behind a few words that agree it goes along, as many published models do. Do not use it without the search.
- `guard/`: a LoRA adapter and a head that say after every token of an answer how safe it is so far.
- `mrm/`: a multifurcation reward model, trained from the guard's rewards by `saffron annotate` and `saffron train`.

Made by `python -m langchain_saffron.smollm2.build --data DIR` (seed {manifest["seed"]}).

## Measured

Refusals are told by their words, on greedy answers.

| | |
|---|---|
{rows}

## Data

HarmfulQA and CatQA (questions; Apache-2.0), benign prompts and answers (Apache-2.0), DiaSafety (Apache-2.0), HH-RLHF
(MIT), and answers of the model's own. What the evaluation asks (HarmBench, XSTest, JailbreakBench) is left out by its
normalised prompts; PyRIT's answers are measured by, not trained on.

## Limits

A model of 135 million parameters: it knows little, errs often, and refuses some harmless questions and answers some
harmful ones. The guard knows short English exchanges; it says of replies in everyday talk less than of answers to
requests. For research and tests of the method, not for use.
"""
