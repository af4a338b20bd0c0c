"""Searches under a grammar: on tables against plain enumerations, and through an engine on random models."""

import asyncio
import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_saffron import ComputeBudget, SearchSettings
from langchain_saffron.errors import GrammarError, RequestCancelledError
from langchain_saffron.grammar import Grammar
from langchain_saffron.search import Constraint, Expand, SearchInputs, look_ahead
from langchain_saffron.search.decoding import plain_search
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.search.selection import select
from unit_tests.grammars import too_complex
from unit_tests.tables import chances, drive, rules
from unit_tests.tiny_models import random_engine, random_reward_model

END = 4
SAFE = [3.0] * 5
EOS = 313


class Words(Constraint):
    """A grammar of finitely many answers, as token ids."""

    def __init__(self, words: frozenset[tuple[int, ...]], prefix: tuple[int, ...] = ()) -> None:
        self.words, self.prefix = words, prefix

    def following(self) -> set[int]:
        size = len(self.prefix)
        return {word[size] for word in self.words if word[:size] == self.prefix and len(word) > size}

    def advance(self, token: int) -> "Words":
        assert token in self.following()
        return Words(self.words, (*self.prefix, token))

    def allowed(self, states: Sequence[Constraint]) -> torch.Tensor:
        mask = torch.zeros(len(states), 5, dtype=torch.bool)
        for row, state in enumerate(states):
            assert isinstance(state, Words)
            mask[row, sorted(state.following())] = True
            mask[row, END] = state.accepting
        return mask

    @property
    def accepting(self) -> bool:
        return self.prefix in self.words

    @property
    def done(self) -> bool:
        return self.accepting and not self.following()

    def accepts(self, text: str) -> bool:
        raise NotImplementedError("tables have no text")


def words(*answers: str) -> Words:
    return Words(frozenset(tuple(map(int, answer)) for answer in answers))


def inputs(constraint: Constraint | None, **changes: object) -> SearchInputs:
    outer = {name: changes.pop(name) for name in ("seen", "budget", "stops", "trace") if name in changes}
    values: dict[str, object] = {"width": 2, "top_p": 1.0, "max_tokens": 8, "safety_threshold": 2.0}
    return SearchInputs(
        settings=SearchSettings(**{**values, **changes}),  # type: ignore[arg-type]
        end_tokens=(END,),
        constraint=constraint,
        **outer,  # type: ignore[arg-type]
    )


# Against enumerations

languages = st.frozensets(
    st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=9
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    language=languages,
    spare=st.sampled_from([0, 3, 40]),
    seed=st.integers(0, 10_000),
    top_p=st.sampled_from([0.2, 0.6, 0.9, 1.0]),
    unseen=st.sets(st.integers(0, 4), max_size=4),
    threshold=st.sampled_from([-1.0, 0.5, 3.0]),
    penalty=st.sampled_from([0.0, 1.0, 2.0]),
    min_tokens=st.integers(0, 3),
    max_tokens=st.integers(2, 5),
    scale=st.sampled_from([0.5, 3.0]),
)
def test_a_search_as_wide_as_its_grammar_finds_the_best_of_all_answers(
    language: frozenset[tuple[int, ...]],
    spare: int,
    seed: int,
    top_p: float,
    unseen: set[int],
    threshold: float,
    penalty: float,
    min_tokens: int,
    max_tokens: int,
    scale: float,
):
    """Every width that holds all answers at once; each is listed here with the rules spelled out in plain Python."""
    seen = torch.tensor([token not in unseen for token in range(5)])
    fallbacks: set[tuple[int, ...]] = set()

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return [scale * random.Random(f"{seed} {prefix} {token}").gauss(0, 1) for token in range(5)]

    def rewards(prefix: tuple[int, ...]) -> list[float]:
        return [2 * random.Random(f"{seed} reward {prefix} {token}").gauss(0, 1) for token in range(5)]

    def answers(prefix: tuple[int, ...], total: float, reward: float | None) -> Iterator[tuple[bool, float, Any]]:
        beginning = [word for word in language if word[: len(prefix)] == prefix]
        following = {word[len(prefix)] for word in beginning if len(word) > len(prefix)}
        ended = prefix[-1:] == (END,)
        if ended or len(prefix) == max_tokens or not following:
            whole = ended or prefix in language
            if prefix:
                yield whole, total / len(prefix) ** penalty + 10 * min(reward or 0.0, threshold), prefix
            return
        if prefix in language and (len(prefix) >= min_tokens or not following):
            following.add(END)
        values = {token: logits(prefix)[token] for token in following}
        mass = math.fsum(map(math.exp, values.values()))
        chance = {token: math.exp(value) / mass for token, value in values.items()}
        inside = [t for t in chance if math.fsum(p for p in chance.values() if p > chance[t]) < top_p]
        allowed = [token for token in inside if seen[token] or token == END]
        if not allowed:
            fallbacks.add(prefix)
            known = [t for t in chance if seen[t]] or [t for t in chance if t == END] or list(chance)
            allowed = [max(known, key=chance.__getitem__)]
        predicted = rewards(prefix)
        for token in allowed:
            own = reward if token == END else predicted[token]
            yield from answers((*prefix, token), total + math.log(chance[token]), own)

    found = drive(
        saffron_search(
            inputs(
                Words(language),
                width=len(language) + spare,
                top_p=top_p,
                max_tokens=max_tokens,
                min_tokens=min_tokens,
                safety_threshold=threshold,
                length_penalty=penalty,
                safety_weight=10.0,
                seen=seen,
            )
        ),
        logits,
        rewards,
    )
    # at the root ending is impossible: no answer of the language is empty
    expected = sorted(answers((), 0.0, None), reverse=True)
    assert found.unseen_fallbacks == len(fallbacks)
    best, *others = expected
    if not others or best[0] > others[0][0] or best[1] - others[0][1] > 1e-4:
        assert found.tokens == best[2]
        assert found.complete == best[0]
        assert found.finish_reason == ("stop" if best[2][-1] == END or (best[2] in language and not any(
            len(word) > len(best[2]) and word[: len(best[2])] == best[2] for word in language
        )) else "length")  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    language=languages, seed=st.integers(0, 10_000), width=st.integers(1, 4), temperature=st.sampled_from([None, 1.0])
)
def test_whatever_the_width_answers_are_of_the_grammar(
    language: frozenset[tuple[int, ...]], seed: int, width: int, temperature: float | None
):
    """Also beams that branch off one another, and with everything unseen."""
    trace: list[list[list[int]]] = []

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return [3 * random.Random(f"{seed} {prefix} {token}").gauss(0, 1) for token in range(5)]

    seen = torch.tensor([random.Random(f"{seed} {token}").random() < 0.5 for token in range(5)])
    search = saffron_search(
        inputs(Words(language), width=width, temperature=temperature, seed=seed, seen=seen, top_p=0.9, trace=trace)
    )
    answer = drive(search, logits, lambda p: [sum(p) % 3, 1.0, 2.5, -1.0, 0.0])
    assert answer.complete
    assert answer.finish_reason == "stop"
    assert tuple(token for token in answer.tokens if token != END) in language
    for step in trace:
        for beam in step:
            assert any(word[: len(beam)] == tuple(beam) for word in language)


def test_a_grammar_of_everything_changes_nothing():
    every = frozenset(tuple(word) for length in range(1, 5) for word in itertools.product(range(4), repeat=length))
    generator = torch.Generator().manual_seed(5)
    table: dict[tuple[int, ...], list[float]] = {}

    def logits(prefix: tuple[int, ...]) -> list[float]:
        if prefix not in table:
            table[prefix] = (torch.randn(5, generator=generator) * 1.5).tolist()
        return table[prefix]

    for width in (1, 2, 5):
        for temperature in (None, 0.8):
            free, bound = (
                drive(
                    saffron_search(
                        inputs(constraint, width=width, max_tokens=3, min_tokens=1, seed=2, temperature=temperature)
                    ),
                    logits,
                    lambda p: [sum(p) % 3, 1.0, 2.5, -1.0, 0.0],
                )
                for constraint in (None, Words(every))
            )
            assert free.tokens == bound.tokens
            assert free.reward == bound.reward


# The single rules


def test_what_is_forced_costs_no_likelihood():
    """Two beams: one is likely, but goes on by what the policy hardly ever says; the grammar leaves it no choice."""

    def logits(prefix: tuple[int, ...]) -> list[float]:
        if not prefix:
            return chances(t0=0.6, t1=0.4)
        return chances(t2=1e-6, t3=1 - 1e-6) if prefix == (0,) else chances(t3=1.0)

    answer = drive(saffron_search(inputs(words("02", "13"), length_penalty=0.0)), logits, lambda p: SAFE)
    assert answer.tokens == (0, 2)


def step(mask: list[list[int]], probabilities: list[list[float]], **changes: Any):
    beams = len(mask)
    return select(
        torch.tensor(probabilities).log(),
        torch.full((beams, len(mask[0])), 5.0),
        [0.0] * beams,
        [0.0] * beams,
        rules(end_tokens=torch.tensor([END]), **changes),
        10,
        True,
        permitted=torch.tensor(mask, dtype=torch.bool),
    )


@pytest.mark.parametrize("width", [5, 400])
def test_the_nucleus_is_that_of_what_is_allowed(width: int):
    """The policy's favourite is not allowed; what is, is renormalised. With many tokens, by the likeliest only."""
    rest = [0.0] * (width - 5)
    found = step([[0, 1, 1, 1, 0, *map(int, rest)]], [[0.9, 0.06, 0.03, 0.01, 0.0, *rest]]).candidates
    assert [c.token for c in found] == [1, 2]
    assert found[0].logprob == pytest.approx(math.log(0.6), abs=1e-5)


@pytest.mark.parametrize("width", [5, 400])
def test_mask_before_likelihood_and_grammar_before_mask(width: int):
    rest = [0.0] * (width - 5)
    none = [0] * (width - 5)
    seen = torch.tensor([False, True, True, False, False, *([False] * (width - 5))])
    for top_p in (0.5, 1.0):
        found = step(
            [[1, 1, 1, 0, 0, *none], [1, 0, 0, 1, 0, *none], [1, 0, 0, 1, 1, *none], [0, 0, 0, 0, 1, *none]],
            [
                [0.9, 0.02, 0.08, 0, 0, *rest],
                [0.3, 0.1, 0.2, 0.4, 0, *rest],
                [0.9, 0, 0, 0.05, 0.05, *rest],
                [1, 0, 0, 0, 0, *rest],
            ],
            seen=seen,
            top_p=top_p,
        )
        by_beam = [[c.token for c in found.candidates if c.beam == beam] for beam in range(4)]
        # the likeliest seen one; without any, the grammar's likeliest; ends are exempt from the mask
        assert by_beam == [[2] if top_p < 1 else [2, 1], [3], [END], [END]]
        # at top_p = 1 the nuclei hold the seen token and the end themselves
        assert found.fallbacks == (3 if top_p < 1 else 1)


def test_many_unseen_tokens_before_the_first_seen_one():
    """More than the likeliest columns hold: the whole vocabulary has to be looked at."""
    size = 1000
    probabilities = torch.linspace(2, 1, size, dtype=torch.float64)
    probabilities = (probabilities / probabilities.sum()).tolist()
    seen = torch.zeros(size, dtype=torch.bool)
    for known in (700, 100):
        seen[known] = True
        mask = [1] * size
        mask[END] = 0
        found = step([mask], [probabilities], seen=seen, top_p=0.01)
        assert [c.token for c in found.candidates] == [known]
        assert found.fallbacks == 1


@pytest.mark.parametrize("width", [5, 400])
def test_never_nan(width: int):
    """A beam that nothing continues has no candidates; what the policy holds for impossible is equally likely."""
    none = [0] * (width - 5)
    rest = [0.0] * (width - 5)
    for top_p in (0.5, 1.0):
        found = step(
            [[0, 0, 0, 0, 0, *none], [0, 1, 1, 0, 0, *none], [1, 0, 0, 0, 0, *none]],
            [[0.5, 0.5, 0, 0, 0, *rest], [1.0, 0, 0, 0, 0, *rest], [0.5, 0.5, 0, 0, 0, *rest]],
            top_p=top_p,
            seen=torch.ones(width, dtype=torch.bool),
        ).candidates
        assert [(c.beam, c.token) for c in found] == [(2, 0), (1, 1), (1, 2)]
        assert found[1].logprob == pytest.approx(math.log(0.5), abs=1e-5)
        assert not any(math.isnan(c.score) for c in found)


def test_nothing_below_the_refusal_threshold_even_if_it_is_forced():
    answer = drive(
        saffron_search(inputs(words("012"), refusal_threshold=0.0)),
        lambda p: chances(t3=1.0),
        lambda p: [5.0, -5.0, 5.0, 5.0, 5.0],
    )
    assert answer.tokens == (0,)
    assert answer.finish_reason == "refusal"
    assert not answer.complete


def greedy(constraint: Constraint | None, **changes: object) -> SearchInputs:
    return inputs(constraint, search="greedy", **changes)


@pytest.mark.parametrize("search", ["saffron", "greedy"])
def test_min_tokens_yields_where_only_ending_is_allowed(search: str):
    start = saffron_search if search == "saffron" else plain_search
    answer = drive(
        start(inputs(words("0", "01"), search=search, min_tokens=5)),
        lambda p: chances(t4=0.9, t0=0.05, t1=0.05),
        lambda p: SAFE,
    )
    assert answer.tokens == (0, 1)
    assert answer.complete


def test_a_beam_that_nothing_may_follow_ends_without_an_end_token():
    steps: list[Expand] = []
    answer = drive(saffron_search(inputs(words("01"))), lambda p: chances(t0=0.5, t1=0.5), lambda p: SAFE, steps.append)
    assert answer.tokens == (0, 1)
    assert answer.finish_reason == "stop"
    assert len(steps) == 2


@pytest.mark.parametrize("ranking", ["constrained", "paper"])
@pytest.mark.parametrize("width", [2, 3])
def test_at_max_tokens_whole_documents_come_first(ranking: str, width: int):
    """Likelihood and reward are for the one that is cut."""

    def logits(prefix: tuple[int, ...]) -> list[float]:
        return chances(t0=0.9, t1=0.1) if not prefix else chances(t2=0.5, t3=0.5)

    answer = drive(
        saffron_search(inputs(words("0222", "12", "1222"), max_tokens=2, width=width, ranking=ranking)),
        logits,
        lambda p: [2.0, 1.0, 0, 0, 0] if not p else ([2.0] * 5 if p == (0,) else [1.0] * 5),
    )
    assert answer.tokens == (1, 2)
    assert answer.complete
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("search", ["saffron", "greedy"])
def test_out_of_tokens_inside_a_document(search: str):
    start = saffron_search if search == "saffron" else plain_search
    answer = drive(start(inputs(words("0123"), search=search, max_tokens=2)), lambda p: chances(t0=1.0), lambda p: SAFE)
    assert answer.tokens == (0, 1)
    assert answer.finish_reason == "length"
    assert not answer.complete


def test_a_look_ahead_looks_at_what_is_allowed():
    answer = drive(
        look_ahead(inputs(words("1", "2"))), lambda p: chances(t0=0.9, t1=0.06, t2=0.04), lambda p: [-9.0, 1, 2, 0, 0]
    )
    assert answer.reward == pytest.approx(0.6 * 1 + 0.4 * 2)
    assert answer.min_reward == 1


def test_greedy_follows_the_policy_within_the_grammar():
    def logits(prefix: tuple[int, ...]) -> list[float]:
        return {(): chances(t3=0.6, t1=0.3, t0=0.1), (1,): chances(t0=0.7, t2=0.3), (1, 2): chances(t4=0.4, t0=0.6)}[
            prefix
        ]

    answer = drive(plain_search(greedy(words("00", "12", "122"))), logits)
    assert answer.tokens == (1, 2, 4)
    assert answer.complete


def test_samples_follow_the_policy_step_by_step_within_the_grammar():
    """Chi-squared over whole answers, against the products of the renormalised steps."""
    table = {
        (): chances(t0=0.2, t1=0.2, t2=0.4, t3=0.2),
        (0,): chances(t0=0.5, t1=0.1, t4=0.4),
        (1,): chances(t2=0.01, t3=0.03, t4=0.96),
    }
    # after 0: end or 1; after 1: 2 or 3; 2 alone ends; 3 is never allowed
    expected = {(0, END): 0.25 * 0.8, (0, 1): 0.25 * 0.2, (1, 2): 0.25 * 0.25, (1, 3): 0.25 * 0.75, (2,): 0.5}
    language = words("0", "01", "12", "13", "2")
    draws = 3000
    counts = dict.fromkeys(expected, 0)
    for seed in range(draws):
        sampled = inputs(language, search="sample", temperature=1.0, seed=seed)
        counts[drive(plain_search(sampled), table.__getitem__).tokens] += 1
    statistic = sum((counts[a] - p * draws) ** 2 / (p * draws) for a, p in expected.items())
    assert statistic < 18.47  # the 99.9th percentile of chi-squared with 4 degrees of freedom


@pytest.mark.slow
def test_the_tempered_search_of_width_one_samples_the_tilted_policy_within_the_grammar():
    probabilities = {0: 0.5, 1: 0.1, 2: 0.3, 3: 0.1}
    reward = [0.0, 1.5, 0.5, 9.0, 0.0]
    temperature, weight = 0.7, 0.8
    tilted = {t: probabilities[t] ** (1 / temperature) * math.exp(weight * min(reward[t], 1.0)) for t in (1, 2, 3)}
    draws = 3000
    counts = dict.fromkeys(tilted, 0)
    for seed in range(draws):
        tempered = inputs(
            words("1", "2", "3"),
            width=1,
            temperature=temperature,
            seed=seed,
            safety_weight=weight,
            safety_threshold=1.0,
        )
        answer = drive(saffron_search(tempered), lambda p: chances(t0=0.5, t1=0.1, t2=0.3, t3=0.1), lambda p: reward)
        counts[answer.tokens[0]] += 1
    whole = sum(tilted.values())
    statistic = sum((counts[t] - draws * v / whole) ** 2 / (draws * v / whole) for t, v in tilted.items())
    assert statistic < 13.82  # the 99.9th percentile of chi-squared with 2 degrees of freedom


# Through an engine

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "ok": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    },
    "required": ["name", "sizes"],
    "additionalProperties": False,
}
GRAMMAR = Grammar.json_schema(SCHEMA)
KINDS = [
    {"width": 1},
    {"width": 4, "commit_lag": 3},
    pytest.param({"width": 6, "temperature": 1.0, "seed": 4, "top_p": 0.95}, marks=pytest.mark.slow),
    {"search": "greedy"},
    pytest.param({"search": "sample", "temperature": 1.0, "seed": 2}, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def engine():
    return random_engine("qwen3", random_reward_model(shift=1.0), eos_token_id=EOS)


def options(**changes: Any) -> SearchSettings:
    return SearchSettings(**{"max_tokens": 120, **changes})


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_streams_give_what_generate_gives(engine: Any, kind: dict[str, Any]):
    result = engine.generate([5, 6, 7], settings=options(**kind), grammar=GRAMMAR)
    jsonschema.validate(json.loads(result.text), SCHEMA)
    assert result.complete
    assert result.finish_reason == "stop"
    *pieces, last = engine.stream([5, 6, 7], settings=options(**kind), grammar=GRAMMAR)
    assert "".join(pieces) == result.text
    assert last.token_ids == result.token_ids

    async def collect() -> list[Any]:
        return [piece async for piece in engine.astream([5, 6, 7], settings=options(**kind), grammar=GRAMMAR)]

    *pieces, last = asyncio.run(collect())
    assert "".join(pieces) == result.text
    # a deterministic answer does not depend on who else runs
    handles = [engine.submit([5, 6, 7], settings=options(**kind), grammar=GRAMMAR) for _ in range(3)]
    free = engine.submit([5, 6, 7], settings=options(width=3, max_tokens=20))
    assert {handle.result().text for handle in handles} == {result.text}
    assert free.result().complete


def test_cancelled_requests_stop_and_leave_the_rest_alone(engine: Any):
    endless = Grammar.regex("[a-z ]*")
    stream = engine.stream([5, 6, 7], settings=options(width=4, max_tokens=200, commit_lag=2), grammar=endless)
    next(stream)
    other = engine.submit([5, 6, 8], settings=options(width=2), grammar=GRAMMAR)
    stream.close()
    handle = engine.submit([5, 6, 9], settings=options(width=4, max_tokens=200), grammar=endless)
    handle.cancelled.set()
    with pytest.raises(RequestCancelledError):
        handle.result()
    assert other.result().complete
    assert not engine.scheduler.busy


@pytest.mark.parametrize("on_exhausted", ["stop", "narrow", "refuse"])
def test_a_budget_that_ends_inside_a_document(engine: Any, on_exhausted: str):
    budget = ComputeBudget(max_reward_calls=8, on_exhausted=on_exhausted)
    result = engine.generate([5, 6, 7], settings=options(width=4, budget=budget), grammar=GRAMMAR)
    assert result.finish_reason == ("refusal" if on_exhausted == "refuse" else "budget")
    assert not result.complete
    assert result.stats.reward_calls <= 8


def test_a_document_that_is_whole_when_the_budget_ends(engine: Any):
    budget = ComputeBudget(max_reward_calls=6, on_exhausted="stop")
    result = engine.generate([5, 6, 7], settings=options(width=1, budget=budget), grammar=Grammar.regex("[a-z]*"))
    assert result.finish_reason in ("budget", "stop")
    assert result.complete


def test_stop_strings_cut_documents(engine: Any):
    result = engine.generate([5, 6, 7], settings=options(width=2, stop=["}"]), grammar=GRAMMAR)
    assert result.finish_reason == "stop"
    assert not result.text.endswith("}")
    assert not result.complete
    # what comes before a stop string may be a whole answer of another grammar
    result = engine.generate([5, 6, 7], settings=options(width=2, stop=["}"]), grammar=Grammar.regex("x+(}y)?"))
    assert set(result.text) == {"x"}
    assert result.complete


def test_out_of_tokens_in_the_engine(engine: Any):
    result = engine.generate([5, 6, 7], settings=options(width=3, max_tokens=6), grammar=GRAMMAR)
    assert (result.finish_reason, result.complete) == ("length", False)


def test_a_bad_grammar_is_refused_before_any_forward(engine: Any):
    before = dict(engine.scheduler.forwards)
    for grammar in (Grammar.regex("("), Grammar.json_schema({"type": "x"}), Grammar.lark("start: y")):
        with pytest.raises(GrammarError):
            engine.submit([5, 6, 7], settings=options(), grammar=grammar)
    assert engine.scheduler.forwards == before


def test_too_complex_grammars_fail_alone(engine: Any):
    """In mid-search: a typed error of that request; the others, and the engine's thread, go on."""
    for kind in ({"width": 2}, {"search": "greedy"}):
        before = engine.scheduler.forwards["policy"]
        other = engine.submit([5, 6, 8], settings=options(width=2), grammar=GRAMMAR)
        with pytest.raises(GrammarError, match="2000"):
            engine.generate([5, 6, 7], settings=options(**kind), grammar=too_complex())
        assert engine.scheduler.forwards["policy"] > before
        assert other.result().complete
    assert engine.generate([5, 6, 7], settings=options(width=2), grammar=GRAMMAR).complete


def test_a_look_ahead_of_the_engine_takes_the_grammar(engine: Any):
    free = engine.look_ahead([5, 6, 7])
    forced = engine.look_ahead([5, 6, 7], grammar=Grammar.regex("x"))
    x = engine.tokenizer.convert_tokens_to_ids("x")
    reward = float(engine.reward_model.rewards([5, 6, 7])[x])
    assert forced.expected in (None, pytest.approx(reward, abs=1e-4))
    assert free.expected != forced.expected
