"""Best-of-N, Rebase and DeAL: on tables against plain code that caches nothing, and through an engine."""

import math
import threading
from random import Random

import pytest
import torch

from langchain_saffron import ComputeBudget, SaffronEngine, SearchSettings
from langchain_saffron.search import Expand, SearchInputs
from langchain_saffron.search.best_of_n import best_of_n_search
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.deal import deal_search
from langchain_saffron.search.rebase import balanced, narrowed, rebase_search
from unit_tests.families import VOCABULARY
from unit_tests.tables import drive
from unit_tests.tiny_models import random_model, random_prm, tiny_tokenizer

END, TOKENS = 4, 5
SEARCHES = {"best_of_n": best_of_n_search, "rebase": rebase_search, "deal": deal_search}


class Table:
    """Random logits and rewards of every prefix; the same prefix always has the same ones."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.judged: list[tuple[int, ...]] = []

    def logits(self, prefix: tuple[int, ...]) -> list[float]:
        rng = Random(f"{self.seed} logits {prefix}")
        return [rng.gauss(0, 1.5) for _ in range(TOKENS)]

    def reward(self, prefix: tuple[int, ...]) -> float:
        self.judged.append(prefix)
        return Random(f"{self.seed} reward {prefix}").gauss(0, 3)


def inputs(search: str, budget: BudgetMeter | None = None, **changes: object) -> SearchInputs:
    values: dict[str, object] = {"width": 4, "max_tokens": 6, "safety_threshold": 1.0, "seed": 11, "top_p": 0.9}
    settings = SearchSettings(search=search, **{**values, **changes})
    return SearchInputs(settings=settings, end_tokens=(END,), trace=[], budget=budget or BudgetMeter())


# --- plain code ---


def nucleus(logits: list[float], top_p: float) -> tuple[torch.Tensor, list[int]]:
    chances = torch.softmax(torch.tensor(logits), -1)
    order = sorted(range(TOKENS), key=lambda token: -float(chances[token]))
    kept, mass = [], 0.0
    for token in order:
        kept.append(float(chances[token]) if mass < top_p else 0.0)
        mass += float(chances[token])
    return torch.tensor(kept), order


def said(tokens: tuple[int, ...]) -> tuple[int, ...]:
    return tokens[:-1] if tokens[-1:] == (END,) else tokens


def over(tokens: tuple[int, ...], settings: SearchSettings) -> bool:
    return tokens[-1:] == (END,) or len(tokens) == settings.max_tokens


def plain_best_of_n(table: Table, settings: SearchSettings) -> tuple[tuple[int, ...], list[list[tuple[int, ...]]]]:
    generator = torch.Generator().manual_seed(settings.seed)
    samples: list[tuple[int, ...]] = [()] * settings.width
    steps = []
    while not all(over(sample, settings) for sample in samples):
        for i, sample in enumerate(samples):
            if not over(sample, settings):
                kept, order = nucleus(table.logits(sample), settings.top_p)
                samples[i] = (*sample, order[int(torch.multinomial(kept, 1, generator=generator))])
        steps.append([sample for sample in samples if sample[-1:] != (END,)])
    return max(samples, key=lambda sample: table.reward(said(sample))), steps


def plain_rebase(table: Table, settings: SearchSettings) -> tuple[tuple[int, ...], list[list[tuple[int, ...]]]]:
    generator = torch.Generator().manual_seed(settings.seed)
    live: list[tuple[tuple[int, ...], int]] = [((), settings.width)]
    finished: list[tuple[float, tuple[int, ...]]] = []
    steps: list[list[tuple[int, ...]]] = []
    last: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(settings.max_tokens):
        if not live:
            break
        children = []
        for tokens, share in live:
            kept, order = nucleus(table.logits(tokens), settings.top_p)
            count = min(share, int((kept > 0).sum()))
            children += [(*tokens, order[i]) for i in torch.multinomial(kept, count, generator=generator).tolist()]
        scored = [(table.reward(said(child)), child) for child in children]
        finished += [pair for pair in scored if pair[1][-1] == END]
        last = [pair for pair in scored if pair[1][-1] != END]
        shares = settings.width - len(finished)
        weights = [math.exp(reward) for reward, _ in last]
        exact = [shares * weight / sum(weights) for weight in weights]
        given = [int(part) for part in exact]
        while last and sum(given) < shares:
            most = max(range(len(exact)), key=lambda i: (exact[i] - given[i], -i))
            given[most] += 1
        live = [(child, share) for (_, child), share in zip(last, given, strict=True) if share]
        steps.append([child for child, _ in live])
    left = finished or [pair for pair in last if pair[1] in [tokens for tokens, _ in live]]
    return max(left, key=lambda pair: pair[0])[1], steps


def plain_deal(table: Table, settings: SearchSettings) -> tuple[tuple[int, ...], list[list[tuple[int, ...]]]]:
    tokens: tuple[int, ...] = ()
    steps = []
    while not over(tokens, settings):
        kept, order = nucleus(table.logits(tokens), settings.top_p)
        first = [(*tokens, token) for token in order[: min(settings.width, int((kept > 0).sum()))]]
        steps.append(first)
        if len(first) == 1:
            tokens = first[0]
            continue
        scores = []
        for chance, start in zip(kept.tolist(), first, strict=False):
            ahead = start
            for _ in range(settings.lookahead):
                if not over(ahead, settings):
                    logits = table.logits(ahead)
                    ahead = (*ahead, logits.index(max(logits)))
            reward = table.reward(said(ahead))
            paper = settings.ranking == "paper"
            scores.append(reward if paper else math.log(chance) + 3 * min(reward, settings.safety_threshold))
        tokens = first[scores.index(max(scores))]
    table.reward(said(tokens))
    return tokens, steps


PLAIN = {"best_of_n": plain_best_of_n, "rebase": plain_rebase, "deal": plain_deal}


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(
    ("search", "changes"),
    [
        ("best_of_n", {}),
        ("best_of_n", {"width": 1}),
        ("best_of_n", {"top_p": 1.0, "width": 9}),
        ("rebase", {}),
        ("rebase", {"width": 1}),
        ("rebase", {"top_p": 1.0, "width": 9}),
        ("deal", {}),
        ("deal", {"lookahead": 2}),
        ("deal", {"lookahead": 9, "ranking": "paper"}),
        ("deal", {"width": 1, "lookahead": 2}),
    ],
)
def test_every_step_is_that_of_plain_code(search: str, changes: dict[str, object], seed: int):
    table, plain = Table(seed), Table(seed)
    asked = inputs(search, **changes)
    committed: list[int] = []
    answer = drive(
        SEARCHES[search](asked), table.logits, None, lambda expand: committed.extend(expand.committed), table.reward
    )
    expected, steps = PLAIN[search](plain, asked.settings)
    assert answer.tokens == expected
    assert asked.trace == [[list(tokens) for tokens in step] for step in steps]
    assert answer.reward == pytest.approx(plain.reward(said(expected)))
    # a process reward model is asked as often as plain code asks it, about the same prefixes
    assert sorted(table.judged) == sorted(plain.judged[:-1])
    assert answer.finish_reason == ("stop" if expected[-1:] == (END,) else "length")
    # what has become final is the answer's beginning
    assert tuple(committed) == answer.tokens[: len(committed)]


def test_shares_follow_the_softmax_and_none_is_lost():
    assert balanced([0.0, 0.0], 4) == [2, 2]
    assert balanced([0.0, 0.0, 0.0], 4) == [2, 1, 1]
    assert balanced([5.0, -5.0], 4) == [4, 0]
    assert balanced([1e4, 0.0], 3) == [3, 0]
    assert balanced([1.0], 0) == [0]
    assert balanced([], 5) == []
    rng = Random(0)
    for _ in range(200):
        rewards = [rng.gauss(0, 2) for _ in range(rng.randint(1, 9))]
        given = balanced(rewards, 16)
        total = sum(math.exp(reward) for reward in rewards)
        assert sum(given) == 16
        assert all(abs(share - 16 * math.exp(r) / total) < 1 for share, r in zip(given, rewards, strict=True))


def test_narrowing_takes_from_the_last():
    assert narrowed([2, 3, 1], 6) == [2, 3, 1]
    assert narrowed([2, 3, 1], 4) == [2, 2, 0]
    assert narrowed([2, 3, 1], 1) == [1, 0, 0]


# --- budgets ---


def calls_only(budget: ComputeBudget) -> BudgetMeter:
    return BudgetMeter(budget, prm_cost=lambda length: 0.0)


def drive_paying(search: str, budget: ComputeBudget, **changes: object):
    budget = calls_only(budget)
    table = Table(3)
    return drive(
        SEARCHES[search](inputs(search, budget, **changes)),
        table.logits,
        None,
        lambda expand: budget.spend(0.0, len(expand.prm_nodes), rows=len(expand.nodes)),
        table.reward,
    ), budget


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("calls", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("behaviour", ["narrow", "stop", "refuse"])
def test_reward_calls_are_never_exceeded(search: str, calls: int, behaviour: str):
    budget = ComputeBudget(max_reward_calls=calls, on_exhausted=behaviour)
    answer, budget = drive_paying(search, budget, lookahead=1, top_p=1.0, width=4)
    assert budget.reward_calls <= calls
    if answer.budget_exhausted:
        assert answer.finish_reason == ("refusal" if behaviour == "refuse" else "budget")


@pytest.mark.parametrize(("floor", "width"), [(None, 2), (2, 2), (3, None), (9, None)])
def test_best_of_n_draws_no_fewer_than_the_floor(floor: int | None, width: int | None):
    """A budget of two calls: it draws two answers, or none where that are too few."""
    answer, budget = drive_paying("best_of_n", ComputeBudget(max_reward_calls=2), width_floor=floor)
    if width is None:
        assert (answer.tokens, answer.finish_reason, budget.reward_calls) == ((), "budget", 0)
    else:
        assert (answer.width, budget.reward_calls) == (width, width)


# --- through an engine ---


PROMPTS = [[(13 * i + 7 * j) % (VOCABULARY - 10) + 3 for j in range(6 + 3 * i)] for i in range(4)]


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    return SaffronEngine(random_model("llama"), tiny_tokenizer(), process_reward_model=random_prm())


def settings_of(search: str, **changes: object) -> SearchSettings:
    return SearchSettings(
        search=search,
        **{"width": 5, "max_tokens": 10, "seed": 2, "lookahead": 2, "top_p": 0.95, "min_tokens": 1, **changes},
    )


@pytest.mark.parametrize(
    "family", ["llama", pytest.param("gemma3", marks=pytest.mark.slow), pytest.param("gpt2", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("search", SEARCHES)
def test_the_reward_is_the_process_reward_model_s_own(search: str, family: str):
    """Computed over a trie that lives through the search; compared with all prefixes scored afresh."""
    engine = SaffronEngine(random_model("llama"), tiny_tokenizer(), process_reward_model=random_prm(4, family))
    fresh = random_prm(4, family)
    for prompt in PROMPTS:
        result = engine.generate(prompt, settings=settings_of(search), record_beams=True)
        ids = result.token_ids[:-1] if result.token_ids[-1] in engine.end_tokens else result.token_ids
        wanted = fresh.prefix_rewards(prompt, ids)
        assert result.reward == pytest.approx(float(wanted[-1]), abs=1e-4)
        assert result.stats.reward_calls > 0
        if search == "best_of_n":
            assert result.stats.reward_calls == 5
            last = [sample for sample in result.beams[-1] if len(sample) == 10]
            rewards = [float(fresh.prefix_rewards(prompt, sample)[-1]) for sample in last]
            assert result.reward >= max(rewards) - 1e-4
    engine.close()


@pytest.mark.parametrize("search", SEARCHES)
def test_together_is_as_alone(engine: SaffronEngine, search: str):
    alone = [engine.generate(prompt, settings=settings_of(search), cache_salt="a").token_ids for prompt in PROMPTS]
    found: dict[int, list[int]] = {}

    def run(i: int) -> None:
        found[i] = engine.generate(PROMPTS[i], settings=settings_of(search), cache_salt="b").token_ids

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(PROMPTS))] == alone


@pytest.mark.parametrize("search", SEARCHES)
def test_nothing_stays_in_the_caches(engine: SaffronEngine, search: str):
    engine.generate(PROMPTS[0], settings=settings_of(search))
    for decoder in (engine.policy, engine.process_reward_model.decoder):
        decoder.forest.drop_kept()
        assert decoder.forest.used == 0


def test_a_prompt_of_its_own_for_the_process_reward_model(engine: SaffronEngine):
    settings = settings_of("best_of_n")
    result = engine.generate(PROMPTS[1], settings=settings, prm_prompt_ids=PROMPTS[2])
    ids = [token for token in result.token_ids if token not in engine.end_tokens]
    assert result.reward == pytest.approx(float(random_prm().prefix_rewards(PROMPTS[2], ids)[-1]), abs=1e-4)


@pytest.mark.parametrize("search", SEARCHES)
def test_compute_is_bounded_and_counted(engine: SaffronEngine, search: str):
    free = engine.generate(PROMPTS[0], settings=settings_of(search), cache_salt="free")
    half = ComputeBudget(max_tflops=free.stats.tflops / 2)
    result = engine.generate(PROMPTS[0], settings=settings_of(search, budget=half), cache_salt="half")
    assert 0 < result.stats.tflops <= free.stats.tflops * 0.75
    assert result.stats.policy_calls > 0


def test_requests_say_what_they_judge_and_keep():
    """Rebase asks the policy about nothing but what has a share, and the guard about nothing but new children."""
    seen: list[Expand] = []
    table = Table(5)
    drive(rebase_search(inputs("rebase", top_p=1.0)), table.logits, None, seen.append, table.reward)
    for scoring, judging in zip(seen[::2], seen[1::2], strict=True):
        assert scoring.nodes
        assert not scoring.prm_nodes
        assert not judging.nodes
        assert set(scoring.nodes) <= set(judging.retain)
