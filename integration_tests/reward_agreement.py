"""What a reward model of any kind predicts of annotated prefixes, beside the guard's rewards."""

from pathlib import Path

import numpy as np
import torch

from langchain_saffron.embedded import named_part
from langchain_saffron.evaluation.reward_reading import shifted
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.prefix_scoring import PrefixScorer
from langchain_saffron.models.reward_head import RewardHead, is_head
from langchain_saffron.training.calibration import Choices, Predicted
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.head_states import HeadStates
from langchain_saffron.training.policy_prompts import PolicyPrompts


def predicted(path: Path, policy: str, data: RewardData) -> Predicted:
    """The guard's rewards of all prefixes that have one, and the predictions of them, in the same order.

    Args:
        path: A reward model, or a head on the policy.
        policy: The policy, which a head reads.
        data: The annotated conversations.
    """
    by_head = is_head(path)
    made = _by_head(RewardHead.from_pretrained(path), str(named_part(policy, "policy")), data) if by_head else None
    parts = made or _by_mrm(MultifurcationRewardModel.from_pretrained(str(path), device="cpu"), data)
    targets = [sample.targets() for sample in data.samples]
    said = [int(sample.known.sum()) for sample in data.samples]
    return Predicted(
        np.concatenate([rewards[:count] for (_, _, rewards), count in zip(targets, said, strict=True)]),
        np.concatenate([part[:count] for part, count in zip(parts, said, strict=True)]),
        Choices.of(targets, parts) if data.candidates else None,
    )


def _by_mrm(mrm: MultifurcationRewardModel, data: RewardData) -> list[np.ndarray]:
    """For each conversation the predictions of its `targets`."""
    scorer = PrefixScorer(mrm.decoder, ())
    parts = []
    for sample in data.samples:
        start = int(np.flatnonzero(sample.known)[0])
        ids = sample.token_ids.tolist()
        (rows,) = scorer.outputs([shifted(ids[:start], ids[start:])], "agreement")
        at, tokens, _ = sample.targets()
        parts.append((rows.float()[at - start, tokens] + mrm.bias[tokens]).numpy())
    return parts


def _by_head(head: RewardHead, policy: str, data: RewardData) -> list[np.ndarray]:
    model = load_causal_lm(policy, "policy", device="cpu", dtype="float32")
    tokenizer = load_tokenizer(policy, "policy")
    if data.template is not None:
        data = PolicyPrompts(tokenizer, data.template).rewrite(data)
    known = HeadStates.of(model, data, [head.layer])
    tokens, rewards = known.targets(slice(None))
    with torch.inference_mode():
        vectors, level = head.map(known.states[head.layer])
        rows = torch.nn.functional.embedding(tokens, model.get_output_embeddings().weight).float()
        made = (vectors[:, None] * rows).sum(-1) + level + head.bias[tokens]
    parts = []
    for number in range(len(data.samples)):
        own = known.conversations == number
        beside = made[own, 1:][~rewards[own, 1:].isnan()]
        parts.append(torch.cat([made[own, 0], beside]).numpy())
    return parts
