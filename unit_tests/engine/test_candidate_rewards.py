"""Rewards of candidates alone are those of the whole vocabulary, and lead to the same beams."""

import random
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from langchain_saffron import MultifurcationRewardModel, SaffronEngine, SearchSettings
from langchain_saffron.engine.candidate_rewards import CandidateRewards
from langchain_saffron.errors import NumericalError
from langchain_saffron.models import packing, quantization
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.unembedding import Unembedding
from langchain_saffron.search import Scores, SearchInputs, look_ahead
from langchain_saffron.search.rewards import RewardTable
from langchain_saffron.search.selection import select
from unit_tests.families import VOCABULARY
from unit_tests.tables import rules
from unit_tests.tiny_models import PROMPTS, random_engine, random_model, random_reward_model, tiny_tokenizer

SIZE, WIDTH = 700, 16


def whole(mrm: MultifurcationRewardModel) -> MultifurcationRewardModel:
    """The same reward model, which computes all rewards at once."""
    mrm.decoder.unembedding = None
    return mrm


def beams(engine: SaffronEngine, prompt: list[int], **settings: Any) -> list[list[list[int]]] | None:
    settings = {"max_tokens": 10, "min_tokens": 10, **settings}
    return engine.generate(prompt, settings=SearchSettings(**settings), record_beams=True).beams


def unembedding(rows: int = SIZE, seed: int = 0) -> tuple[Unembedding, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(WIDTH, rows, bias=False)
    head.weight = torch.nn.Parameter(torch.randn(rows, WIDTH, generator=generator), requires_grad=False)
    return Unembedding(head, head.weight, None), torch.randn(SIZE, generator=generator)


def of_states(states: torch.Tensor, seed: int = 0) -> tuple[CandidateRewards, RewardTable]:
    product, bias = unembedding(seed=seed)
    return (
        CandidateRewards(states, product, bias, lambda flops, nodes: None),
        RewardTable(product.whole(states) + bias),
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("constrained", [False, True])
def test_steps_on_random_tables_choose_the_same(seed: int, constrained: bool):
    """Fifty steps each: masks, thresholds, nuclei and roots of all kinds."""
    draw = random.Random(f"{seed} {constrained}")
    for step in range(50):
        generator = torch.Generator().manual_seed(draw.randrange(2**31))
        nodes = draw.choice([1, 2, 7, 16])
        logits = torch.randn(nodes, SIZE, generator=generator) * draw.choice([0.3, 1.0, 3.0, 9.0])
        pieces, table = of_states(torch.randn(nodes, WIDTH, generator=generator) / 4, step)
        permitted = torch.rand(nodes, SIZE, generator=generator) < draw.choice([0.01, 0.5]) if constrained else None
        rest: list[Any] = [
            [-draw.random() for _ in range(nodes)],
            [draw.choice([None, draw.gauss(0, 1)]) for _ in range(nodes)],
            rules(
                seen=None if draw.random() < 0.2 else torch.rand(SIZE, generator=generator) < draw.choice([0.02, 0.7]),
                soft=draw.random() < 0.5,
                top_p=draw.choice([0.2, 0.8, 0.99, 1.0]),
                paper=draw.random() < 0.3,
                refusal_threshold=draw.choice([None, 0.0]),
            ),
            2 * nodes,
            draw.random() < 0.5,
        ]
        found, expected = (select(logits, one, *rest, permitted=permitted) for one in (pieces, table))
        assert [(c.beam, c.token) for c in found.candidates] == [(c.beam, c.token) for c in expected.candidates]
        assert found.fallbacks == expected.fallbacks
        for one, other in zip(found.candidates, expected.candidates, strict=True):
            assert (one.reward, one.risk, one.score) == pytest.approx((other.reward, other.risk, other.score), abs=1e-4)


def test_an_accelerator_multiplies_each_beam_with_its_own_columns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CandidateRewards, "_of_any", lambda self, tokens, wanted: self._of_each(tokens))
    pieces, table = of_states(torch.randn(3, WIDTH))
    tokens = torch.randint(0, SIZE, (3, 40))
    everything = torch.ones_like(tokens, dtype=torch.bool)
    assert torch.allclose(pieces.of(tokens, everything), table.of(tokens, everything), atol=1e-5)


def test_tokens_that_only_the_policy_has_are_worth_their_bias():
    product, bias = unembedding(rows=SIZE - 20)
    states = torch.randn(2, WIDTH)
    rewards = CandidateRewards(states, product, bias, lambda flops, nodes: None)
    tokens = torch.tensor([[0, SIZE - 21, SIZE - 20, SIZE - 1]] * 2)
    expected = rewards.whole().gather(1, tokens)
    fresh = CandidateRewards(states, product, bias, lambda flops, nodes: None)
    assert torch.equal(expected[:, 2:], bias[tokens[:, 2:]])
    assert torch.allclose(fresh.of(tokens, torch.ones_like(tokens, dtype=torch.bool)), expected, atol=1e-5)
    assert torch.allclose(fresh._of_each(tokens), expected, atol=1e-5)


def test_rows_of_other_nodes_may_be_judged_by_nobody():
    pieces, table = of_states(torch.randn(3, WIDTH))
    taken, expected = pieces.rows([2, -1, 0, 2]), table.rows([2, -1, 0, 2])
    assert taken.unjudged.tolist() == expected.unjudged.tolist() == [[False], [True], [False], [False]]
    assert torch.allclose(taken.whole(), expected.whole(), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "gpt2", "opt", "phi", "qwen2-moe"])
@pytest.mark.parametrize("size", [1, 2**16])
def test_beams_are_those_of_whole_rewards(family: str, size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", size)
    mrm = random_reward_model()
    made = [
        MultifurcationRewardModel(random_model(family, 5), tiny_tokenizer(), mrm.bias, mrm.seen, mrm.template)
        for _ in range(2)
    ]
    assert made[0].decoder.unembedding is not None
    engines = [random_engine("llama", one) for one in (made[0], whole(made[1]))]
    for width in (1, 4, 16):
        found, expected = (beams(engine, PROMPTS[3], width=width) for engine in engines)
        assert found == expected
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("mask", ["strict", "soft", "off"])
def test_beams_of_requests_together_are_those_of_whole_rewards(mask: str):
    engines = [random_engine("qwen3", one) for one in (random_reward_model(), whole(random_reward_model()))]
    kinds = [
        {"width": 4, "ranking": "paper"},
        {"width": 8, "adaptive": True},
        {"width": 3, "top_p": 1.0},
        {"width": 2, "temperature": 1.0, "seed": 3},
    ]
    kinds = [SearchSettings(**kind, mask=mask, max_tokens=8, min_tokens=8) for kind in kinds]
    asked = [(prompt, kind) for prompt in PROMPTS[:4] for kind in kinds]
    answers = []
    for engine in engines:
        handles = [engine.submit(prompt, settings=kind, record_beams=True) for prompt, kind in asked]
        answers.append([handle.result().beams for handle in handles])
        engine.close()
    assert answers[0] == answers[1]


def test_int8_is_exact(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    monkeypatch.setattr(quantization, "SMALLEST_PRODUCT", 1)
    monkeypatch.setattr(quantization, "MOST_REWARD_ERROR", 1.0)
    for dtype in (torch.float32, torch.bfloat16):
        decoder = TrieDecoder(random_model("gpt2", 2, dtype=dtype), "reward model", 100, int8_text=list(range(40)))
        decoder.split()
        product = decoder.unembedding
        assert product is not None
        assert product._scales is not None
        states = torch.randn(5, 32, dtype=dtype)
        tokens = torch.randperm(VOCABULARY)[:50]
        assert torch.equal(product.columns(states, tokens), product.whole(states)[:, tokens])


def test_what_is_multiplied_is_what_is_counted(monkeypatch: pytest.MonkeyPatch):
    counted = []

    def counting(name: str) -> None:
        real = getattr(Unembedding, name)

        def run(self: Unembedding, *arguments: torch.Tensor) -> torch.Tensor:
            with FlopCounterMode(display=False) as counter:
                result = real(self, *arguments)
            counted.append(counter.get_total_flops())
            return result

        monkeypatch.setattr(Unembedding, name, run)

    counting("whole")
    counting("columns")
    for settings in (
        SearchSettings(width=4, max_tokens=8, min_tokens=8),
        SearchSettings(width=2, top_p=1.0, max_tokens=4, min_tokens=4),
    ):
        made = random_reward_model(), whole(random_reward_model())
        counted.clear()
        pieces, table = (random_engine("llama", mrm).generate(PROMPTS[2], settings=settings).stats for mrm in made)
        everything = pieces.reward_calls * made[0].decoder.flops.head
        assert pieces.reward_calls == table.reward_calls
        assert 0 < sum(counted) <= everything
        assert (sum(counted) == everything) == (settings.top_p == 1.0)
        saved = (table.tflops - pieces.tflops) * 1e12
        assert saved == pytest.approx(everything - sum(counted), rel=1e-6, abs=1e-3)


def test_a_damaged_row_is_an_error_of_who_meets_it():
    mrm = random_reward_model(unseen=0)
    engine = random_engine("llama", mrm)
    expected = beams(engine, PROMPTS[0], width=2)
    with torch.no_grad():
        mrm.decoder.model.lm_head.weight[:] = float("inf")
    with pytest.raises(NumericalError, match="the reward model returned NaN"):
        beams(engine, PROMPTS[1], width=2)
    with pytest.raises(NumericalError, match="the reward model returned NaN"):
        engine.look_ahead(PROMPTS[1])
    assert expected
    engine.close()


def test_a_look_ahead_asks_for_the_nucleus_alone():
    flops: list[float] = []
    product, bias = unembedding()
    states = torch.randn(1, WIDTH)
    search = look_ahead(SearchInputs(SearchSettings(top_p=0.5)))
    next(search)
    logits = torch.randn(1, SIZE) * 4
    scores = Scores(logits, CandidateRewards(states, product, bias, lambda spent, nodes: flops.append(spent)))
    with pytest.raises(StopIteration) as end:
        search.send(scores)
    assert end.value.value.reward is not None
    assert 0 < sum(flops) < product.product * SIZE / 4
