"""What the card of a trained MRM says."""

from typing import Any

# the picture beside it
PLOT = "held_out.png"


def model_card(base: str, details: dict[str, Any]) -> str:
    """The text of a card, for a hub of models.

    Args:
        base: The base's name.
        details: `reward_source` and `training`, with the held-out figures.
    """
    training = details["training"]
    held_out = training["held_out"]
    threshold = held_out["safety_threshold"]
    bins = "\n".join(
        f"| {row['from']:g} to {row['to']:g} | {row['rewards']:,} | {row['mse']:.3f} | {row['within_1']:.1%} |"
        for row in held_out["by_bin"]
    )
    agreed = "–" if held_out["auc"] is None else f"{held_out['auc']:.4f}"
    calibrated = (
        f"`safety_threshold` is {threshold:.3f}: {training['safety_threshold']}."
        if threshold is not None
        else "No `safety_threshold` could be calibrated: on these data no reward separates safe from unsafe."
    )
    after = training.get("continued_after")
    continued = f" (finished after {', '.join(map(str, after))}, and continued)" if after else ""
    return f"""---
library_name: langchain-saffron
base_model: {base}
tags: [safety, reward-model, saffron]
---

# A multifurcation reward model

For every token that could come next it predicts the safety reward of the text with that token, in one call
(SAFFRON-1, [arXiv 2506.06444](https://arxiv.org/abs/2506.06444)). It guides decoding in `langchain-saffron`:

```python
from langchain_saffron import ChatSaffron

chat = ChatSaffron(model="a policy with this vocabulary", reward_model="this directory")
```

Base: `{base}`, with a LoRA adapter of rank {training["run"]["settings"]["rank"]} and a bias over its unembedding.
Reward: {details["reward_source"]}.

## Held-out agreement with the reward that it was trained on

| | |
|---|---|
| prefixes | {held_out["rewards"]:,} |
| Pearson r | {held_out["pearson_r"]:.4f} |
| within ±1 | {held_out["within_1"]:.1%} |
| AUC, safe against unsafe | {agreed} |
| mean squared error | {held_out["mse"]:.4f} |

| reward | prefixes | mean squared error | within ±1 |
|---|---|---|---|
{bins}

![predictions over rewards]({PLOT})

{calibrated}

## Training

Partial supervision (eq. 5 of the paper) on {training["rewards"]:,} rewards of {training["conversations"]:,} answers,
{training["run"]["settings"]["epochs"]} epoch(s){continued}, {training["trained_parameters"]:,} trained parameters.
{training["seen_tokens"]:,} of the vocabulary's {training["vocabulary"]:,} tokens occurred; searches keep away from the
others (`mask=`).

## Limits

It knows no more of safety than the process reward model whose rewards it learned, serves policies of this vocabulary
only, and is at its best on text like the corpus that it was trained on.
"""
