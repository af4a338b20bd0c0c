"""What a reward model of any kind predicts of annotated prefixes, beside the guard's rewards."""

from pathlib import Path

import numpy as np
import torch

from langchain_saffron.embedded import named_part
from langchain_saffron.evaluation.reward_reading import chosen, shifted
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.prefix_scoring import PrefixScorer
from langchain_saffron.models.reward_head import RewardHead, is_head
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.head_states import HeadStates
from langchain_saffron.training.policy_prompts import PolicyPrompts


def predictions(path: Path, policy: str, data: RewardData) -> tuple[np.ndarray, np.ndarray]:
    """The guard's rewards of all prefixes that have one, and the predictions of them, in the same order.

    Args:
        path: A reward model, or a head on the policy.
        policy: The policy, which a head reads.
        data: The annotated conversations.
    """
    if is_head(path):
        return _by_head(RewardHead.from_pretrained(path), str(named_part(policy, "policy")), data)
    mrm = MultifurcationRewardModel.from_pretrained(str(path), device="cpu")
    scorer = PrefixScorer(mrm.decoder, ())
    rewards, predicted = [], []
    for sample in data.samples:
        start = int(np.flatnonzero(sample.known)[0])
        ids = sample.token_ids.tolist()
        (rows,) = scorer.outputs([shifted(ids[:start], ids[start:])], "agreement")
        made = (chosen(rows, ids[start:]) + mrm.bias[ids[start:]]).numpy()
        known = sample.known[start:]
        rewards.append(sample.rewards[start:][known])
        predicted.append(made[known])
    return np.concatenate(rewards), np.concatenate(predicted)


def _by_head(head: RewardHead, policy: str, data: RewardData) -> tuple[np.ndarray, np.ndarray]:
    model = load_causal_lm(policy, "policy", device="cpu", dtype="float32")
    tokenizer = load_tokenizer(policy, "policy")
    if data.template is not None:
        data = PolicyPrompts(tokenizer, data.template).rewrite(data)
    known = HeadStates.of(model, data, [head.layer])
    with torch.inference_mode():
        vectors, level = head.map(known.states[head.layer])
        rows = torch.nn.functional.embedding(known.following, model.get_output_embeddings().weight).float()
        predicted = (vectors * rows).sum(-1) + level[:, 0] + head.bias[known.following]
    # states are computed in the order of the conversations' lengths
    order = known.conversations.argsort(stable=True)
    return known.rewards[order].numpy(), predicted[order].numpy()
