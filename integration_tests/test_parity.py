"""Step by step the same beams as the official implementation, and as a plain uncached one of our own."""

import json
from pathlib import Path

import pytest
import torch

from langchain_saffron import MultifurcationRewardModel, SaffronEngine, SearchSettings
from unit_tests.tiny_models import plain_logits, random_engine, random_reward_model

# the official outputs are handed around beside the repository, not inside it
PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity"
official = pytest.mark.skipif(not PARITY.is_dir(), reason="the official implementation's outputs are not at hand")


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    return SaffronEngine.from_pretrained(PARITY / "policy", PARITY / "mrm", reward_base=PARITY / "guard")


@official
def test_rewards_equal_the_official_ones(engine: SaffronEngine):
    expected = json.loads((PARITY / "rewards.json").read_text())
    rewards = engine.reward_model.rewards(expected["mrm_ids"])
    assert torch.allclose(rewards, torch.tensor(expected["rewards"]), atol=1e-4, rtol=0)


def load_rows() -> list[dict]:
    return json.loads((PARITY / "beams.json").read_text())["rows"] if PARITY.is_dir() else [{}]


@official
@pytest.mark.parametrize("row", load_rows(), ids=lambda row: f"{row.get('prompt', '')[:12]}-{row.get('width')}")
def test_beam_sets_equal_the_official_ones_at_every_step(engine: SaffronEngine, row: dict):
    steps = row["min_new_tokens"]
    settings = SearchSettings(
        width=row["width"], top_p=row["top_p"], min_tokens=steps, max_tokens=steps, ranking="paper"
    )
    result = engine.generate(row["policy_ids"], row["mrm_ids"], settings, record_beams=True)
    assert result.beams is not None
    assert [sorted(beams) for beams in result.beams] == [sorted(beams) for beams in row["beams"]]


def paper_search(
    policy: torch.nn.Module,
    mrm: MultifurcationRewardModel,
    prompt: list[int],
    ends: tuple[int, ...],
    width: int,
    top_p: float,
    steps: int,
) -> list[list[list[int]]]:
    """Section 4 of the paper, one full forward a beam a step; endings forbidden throughout."""
    beams: list[list[int]] = [[]]
    history = []
    for _ in range(steps):
        scored = []
        for beam in beams:
            logits = plain_logits(policy, prompt + beam)
            logits = logits.index_fill(0, torch.tensor(ends), -torch.inf)
            p = torch.softmax(logits, -1)
            rewards = mrm.rewards(prompt + beam)
            inside = [t for t in range(len(p)) if float(p[p > p[t]].sum()) < top_p and p[t] > 0]
            candidates = [t for t in inside if mrm.seen[t]]
            if not candidates:
                candidates = [max((t for t in range(len(p)) if mrm.seen[t]), key=lambda t: float(p[t]))]
            scored += [(float(rewards[t]), [*beam, t]) for t in candidates]
        beams = [beam for _, beam in sorted(scored, key=lambda x: -x[0])[:width]]
        history.append(sorted(beams))
    return history


@pytest.mark.parametrize("width", [1, 3, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_beam_sets_equal_a_plain_uncached_search(family: str, width: int):
    mrm = random_reward_model(seed=width, unseen=150)
    engine = random_engine(family, mrm, seed=width)
    prompt = [17, 40, 99, 3, 250]
    settings = SearchSettings(width=width, top_p=0.7, min_tokens=12, max_tokens=12, ranking="paper")
    result = engine.generate(prompt, settings=settings, record_beams=True)
    assert result.beams is not None
    expected = paper_search(engine.policy.model, mrm, prompt, engine.end_tokens, width, 0.7, 12)
    assert [sorted(beams) for beams in result.beams] == expected
