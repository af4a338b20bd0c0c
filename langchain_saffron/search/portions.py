"""What a process reward model says of many texts, where the KV cache may not have room for all of them at once."""

from collections.abc import Generator
from dataclasses import replace

from langchain_saffron.search.protocol import Expand, Scores


def rewards_in_portions(expand: Expand) -> Generator[Expand, Scores, list[float]]:
    """The rewards of all `expand.prm_nodes`, in as few requests as there is room for."""
    rewards: list[float] = []
    while left := expand.prm_nodes[len(rewards) :]:
        scores = yield replace(expand, prm_nodes=left, committed=() if rewards else expand.committed, least=1)
        assert scores.prm_rewards is not None
        rewards += scores.prm_rewards.tolist()
    return rewards
