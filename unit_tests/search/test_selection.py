"""Nucleus, mask, fallback, ranking: one step of the search on tables."""

import math
from functools import partial

import pytest
import torch

from langchain_saffron.search import looks, selection
from langchain_saffron.search.nucleus import CHUNK, likeliest, nucleus
from langchain_saffron.search.rules import Rules
from langchain_saffron.search.selection import select
from unit_tests.tables import rules

INF = math.inf


def step(probabilities, rewards, count=10, may_end=True, inherited=None, totals=None, **changes):
    logits = torch.tensor(probabilities).log()
    beams = len(probabilities)
    return select(
        logits,
        torch.tensor(rewards, dtype=torch.float32),
        totals or [0.0] * beams,
        inherited or [0.0] * beams,
        rules(**changes),
        count,
        may_end,
    )


def inside_by_definition(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Equation 2, token by token."""
    return torch.stack([probabilities[probabilities > p].sum() < top_p for p in probabilities])


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.8, 0.99, 0.9999])
@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 8.0])
def test_the_nucleus_is_that_of_the_definition(top_p: float, scale: float):
    generator = torch.Generator().manual_seed(3)
    logprobs = torch.log_softmax(torch.randn(6, 3 * CHUNK, generator=generator, dtype=torch.float64) * scale, -1)
    inside = nucleus(logprobs, top_p)
    for row in range(6):
        assert torch.equal(inside[row], inside_by_definition(logprobs[row].exp(), top_p))
    for look in (64, CHUNK):
        _, tokens, among, wider = likeliest(logprobs, top_p, look)
        for row in range(6):
            members = set(tokens[row][among[row]].tolist())
            assert among[row, -1] or members == set(inside[row].nonzero().flatten().tolist())
        assert bool(wider) == bool((inside.sum(-1) >= look).any())


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("beams", [2, 8])
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 8.0])
def test_what_is_selected_does_not_depend_on_where_it_is_looked_for(monkeypatch, scale: float, beams: int, soft: bool):
    generator = torch.Generator().manual_seed(5)
    logits, rewards = (torch.randn(beams, 9 * CHUNK, generator=generator) * size for size in (scale, 3.0))
    # nuclei of very different sizes, and a beam that nothing continues
    logits[0] /= 4
    permitted = torch.ones_like(logits, dtype=torch.bool)
    permitted[1] = False
    for seen in (None, torch.rand(9 * CHUNK, generator=generator) < 0.5):
        for mask in (None, permitted):
            step = partial(select, logits, rewards, [0.0] * beams, [0.0] * beams, permitted=mask)
            found = step(rules(top_p=0.8, seen=seen, soft=soft), 12, True)
            with monkeypatch.context() as patch:
                patch.setattr(selection, "looks", lambda *of: [looks._whole(*of)])
                expected = step(rules(top_p=0.8, seen=seen, soft=soft), 12, True)
            assert found.fallbacks == expected.fallbacks
            pairs = list(zip(found.candidates, expected.candidates, strict=True))
            assert [(one.beam, one.token) for one, _ in pairs] == [(other.beam, other.token) for _, other in pairs]
            assert [one.score for one, _ in pairs] == pytest.approx([other.score for _, other in pairs])
            assert [one.risk for one, _ in pairs] == pytest.approx([other.risk for _, other in pairs], abs=1e-5)


@pytest.mark.parametrize("top_p", [0.05, 0.8, 0.99, 0.9999])
@pytest.mark.parametrize("scale", [0.1, 1.0, 2.0, 4.0, 8.0])
def test_a_cpu_takes_out_the_nucleus_and_little_else(top_p: float, scale: float):
    logits = torch.randn(6, 12 * CHUNK, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * scale
    logits[1] /= 3
    for logprobs in (torch.log_softmax(logits, -1), torch.log_softmax(logits[:3], -1)):
        look = next(looks.looks(logprobs, top_p))
        for row, chances in enumerate(logprobs.exp()):
            ordered = chances.sort(descending=True).values
            least = ordered[ordered.cumsum(-1) - ordered < top_p][-1]
            inside = look.inside[row].nonzero().flatten()
            found = inside if look.tokens is None else look.tokens[row][inside]
            assert set(found.tolist()) == set((chances >= least).nonzero().flatten().tolist())
            assert torch.equal(look.mass[row][inside], chances[found])


def test_the_noise_of_a_seed_is_that_of_the_likeliest_tokens():
    """However the nucleus was found, and however many tokens had to be looked at for it."""
    logits = torch.randn(5, 20 * CHUNK, generator=torch.Generator().manual_seed(4)) * 5
    drawn = rules(temperature=0.7)
    noise = torch.rand(5, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rewards = torch.zeros_like(logits)
    for beams in (1, 5):
        step = partial(select, logits[:beams], rewards[:beams], [0.0] * beams, [0.0] * beams, drawn, 200, True)
        order = logits.sort(descending=True).indices
        for one in step(generator=torch.Generator().manual_seed(1)).candidates:
            place = int((order[one.beam] == one.token).nonzero())
            gumbel = -math.log(-math.log(noise[one.beam, place]))
            assert one.score == pytest.approx(one.logprob + gumbel, abs=1e-4)


def test_equally_likely_tokens_are_in_or_out_together():
    inside = nucleus(torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log(), 0.6)
    assert inside.tolist() == [[True, True, True, False]]


def test_the_most_likely_token_is_always_in():
    assert nucleus(torch.tensor([[0.9, 0.1]]).log(), 0.01).tolist() == [[True, False]]


@pytest.mark.parametrize("top_p", [1.0, 0.9999999])
def test_a_nucleus_of_everything_is_everything_that_is_possible(top_p: float):
    assert nucleus(torch.log(torch.tensor([[0.7, 0.3, 0.0]])), top_p).tolist() == [[True, True, False]]


def test_ranking_is_likelihood_plus_capped_reward():
    found = step([[0.5, 0.3, 0.2, 0.0, 0.0]], [[1.0, 9.0, 2.0, 0, 0]], top_p=1.0).candidates
    assert [c.token for c in found] == [1, 2, 0]
    assert found[0].score == pytest.approx(math.log(0.3) + 3 * 2.0, abs=1e-5)
    assert found[0].reward == 9.0
    assert found[2].score == pytest.approx(math.log(0.5) + 3 * 1.0, abs=1e-5)


def test_paper_ranking_is_the_newest_reward_alone():
    found = step([[0.5, 0.3, 0.2, 0.0, 0.0]], [[1.0, 9.0, 2.0, 0, 0]], top_p=1.0, paper=True, totals=[-50.0]).candidates
    assert [(c.token, c.score) for c in found] == [(1, 9.0), (2, 2.0), (0, 1.0)]


def test_beams_compete_with_each_other():
    found = step([[0.6, 0.4, 0, 0, 0]] * 2, [[3.0] * 5] * 2, top_p=1.0, totals=[-1.0, 0.0], count=3).candidates
    assert [(c.beam, c.token) for c in found] == [(1, 0), (1, 1), (0, 0)]


def test_ties_go_to_the_better_beam_and_the_lower_token():
    found = step([[0.25, 0.25, 0.25, 0.25, 0]] * 2, [[3.0] * 5] * 2, top_p=1.0, count=8).candidates
    assert [(c.beam, c.token) for c in found] == [(b, t) for b in (0, 1) for t in range(4)]


def test_unseen_tokens_are_no_candidates_but_end_tokens_are_exempt():
    seen = torch.tensor([False, True, True, True, False])
    found = step([[0.4, 0.3, 0, 0, 0.3]], [[9.0] * 5], top_p=1.0, seen=seen, inherited=[1.5])
    assert [c.token for c in found.candidates] == [1, 4]
    assert found.fallbacks == 0
    end = found.candidates[1]
    assert end.ends
    assert end.reward == 1.5


def test_an_emptied_nucleus_falls_back_on_the_likeliest_seen_token():
    seen = torch.tensor([False, False, True, True, False])
    found = step([[0.9, 0.06, 0.01, 0.03, 0.0], [0.0, 0.0, 0.6, 0.4, 0.0]], [[5.0] * 5] * 2, seen=seen)
    assert found.fallbacks == 1
    assert {(c.beam, c.token) for c in found.candidates} == {(0, 3), (1, 2), (1, 3)}
    fallback = next(c for c in found.candidates if c.beam == 0)
    assert fallback.logprob == pytest.approx(math.log(0.03), abs=1e-5)


def test_nothing_seen_at_all_leaves_no_candidate():
    found = step([[0.9, 0.1, 0, 0, 0]], [[5.0] * 5], seen=torch.zeros(5, dtype=torch.bool))
    assert found.candidates == []
    assert found.fallbacks == 0


def test_a_ban_on_ending_renormalises_the_rest():
    found = step([[0.2, 0.2, 0.0, 0.0, 0.6]], [[5.0] * 5], may_end=False).candidates
    assert [c.token for c in found] == [0, 1]
    assert found[0].logprob == pytest.approx(math.log(0.5), abs=1e-5)


def test_ending_an_empty_answer_is_worth_what_the_policy_expects():
    found = step([[0.45, 0.15, 0, 0, 0.4]], [[4.0, 0.0, 9.0, 9.0, 9.0]], top_p=1.0, inherited=[None]).candidates
    end = next(c for c in found if c.ends)
    assert end.reward == pytest.approx((0.45 * 4.0 + 0.15 * 0.0) / 0.6, abs=1e-5)


def test_nothing_below_the_refusal_threshold_is_a_candidate():
    found = step([[0.5, 0.3, 0, 0, 0.2]], [[-3.0, 1.0, 0, 0, 0]], top_p=1.0, refusal_threshold=0.0, inherited=[-1.0])
    assert [c.token for c in found.candidates] == [1]


def test_fewer_candidates_than_wanted_are_all_there_is():
    assert len(step([[0.9, 0.1, 0, 0, 0]], [[1.0] * 5], top_p=1.0, count=64).candidates) == 2


@pytest.mark.slow
def test_the_tempered_choice_follows_the_tilted_distribution():
    """8,000 draws of width 1: chi-squared against p^(1/T) · exp(w · min(M, τ)) over the nucleus."""
    probabilities = torch.tensor([0.35, 0.3, 0.2, 0.1, 0.05])
    rewards = torch.tensor([0.2, 0.5, 3.0, 0.4, 9.0])
    temperature, weight, threshold, top_p = 0.7, 0.8, 1.0, 0.9
    generator = torch.Generator().manual_seed(11)
    draws = 8_000
    counts = torch.zeros(5)
    chosen = rules(end_tokens=torch.tensor([], dtype=torch.long), top_p=top_p, temperature=temperature, weight=weight)
    chosen = Rules(**{**{f: getattr(chosen, f) for f in chosen.__slots__}, "threshold": threshold})
    batch = 500
    for _ in range(draws // batch):
        # a batch of equal beams gives one independent choice a row
        for row in range(batch):
            found = select(
                probabilities.log()[None], rewards[None], [0.0], [0.0], chosen, 1, True, generator=generator
            ).candidates
            counts[found[0].token] += 1
    tilted = probabilities ** (1 / temperature) * torch.exp(weight * rewards.clamp(max=threshold))
    tilted[4] = 0  # the tokens before it hold 0.95 of the mass
    expected = tilted / tilted.sum() * draws
    assert counts[4] == 0
    statistic = float(((counts - expected)[:4] ** 2 / expected[:4]).sum())
    assert statistic < 16.27  # the 99.9th percentile of chi-squared with 3 degrees of freedom
