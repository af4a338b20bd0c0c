"""Attackers that ask the method itself: what they try, that scores alone decide, and that budgets are prefixes."""

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from langchain_saffron import SaffronEngine
from langchain_saffron.errors import RewardModelRequiredError, SettingsError
from langchain_saffron.evaluation.adaptive_search import AFFIRMATIONS, AdaptiveSearch
from langchain_saffron.evaluation.attack import Attacked
from langchain_saffron.evaluation.attacks import parse_attack
from langchain_saffron.evaluation.cases import Case
from langchain_saffron.evaluation.datasets import parse_data
from langchain_saffron.evaluation.log import RunLog
from langchain_saffron.evaluation.methods import parse_method
from langchain_saffron.evaluation.run import Evaluation, evaluate
from langchain_saffron.evaluation.runner import Runner, as_langchain
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.evaluation.search_runner import SearchRunner
from langchain_saffron.evaluation.suffix_search import WIDEST_CHANGE, target_tokens
from langchain_saffron.evaluation.target_scoring import TargetScorer
from langchain_saffron.interface.prompts import PromptRenderer
from unit_tests.builders import CHATML
from unit_tests.evaluation.samples import HARM, write_lines
from unit_tests.tiny_models import random_model, tiny_tokenizer

PLACES = ("suffix", "prefill")
LENGTH = {"max_tokens": 6, "min_tokens": 2}


def tried(search: AdaptiveSearch, scores: list[float], sample: Sample = HARM) -> list[str]:
    """What a search asks when its queries score so."""
    asking = search.candidates(sample)
    asked = [next(asking), *(asking.send(score) for score in scores)]
    return [varied(search, one) for one in asked]


def varied(search: AdaptiveSearch, attacked: Attacked) -> str:
    return attacked.target if search.place == "prefill" else attacked.messages[-1]["content"]


def rows_of(engine: SaffronEngine, method: str, attack: AdaptiveSearch, known: Any = None) -> list[dict[str, Any]]:
    cases = [Case(parse_method(method, **LENGTH), attack, HARM)]
    return list(SearchRunner(engine, Runner(engine)).run(cases, known or {}))


@pytest.mark.parametrize("place", PLACES)
def test_what_is_tried_depends_on_seed_sample_and_scores_and_not_on_the_budget(engine: SaffronEngine, place: Any):
    tokenizer = engine.tokenizer
    scores = [float(i % 7) for i in range(40)]
    asked = tried(AdaptiveSearch(place, 200, tokenizer), scores)
    assert asked == tried(AdaptiveSearch(place, 1, tokenizer), scores)
    assert len(set(asked)) == len(asked)
    start = 1 if place == "suffix" else len(AFFIRMATIONS) + 5
    for other in (
        tried(AdaptiveSearch(place, 200, tokenizer, seed=1), scores),
        tried(AdaptiveSearch(place, 200, tokenizer), scores, Sample("h-2", "d", "harmful", HARM.messages, HARM.target)),
        tried(AdaptiveSearch(place, 200, tokenizer), scores[::-1]),
    ):
        assert other[start + 10 :] != asked[start + 10 :]


def test_a_suffix_is_changed_where_it_scored_best(engine: SaffronEngine):
    asking = AdaptiveSearch("suffix", 50, engine.tokenizer).candidates(HARM)

    def words(attacked: Attacked) -> list[int]:
        return engine.tokenizer.encode(attacked.messages[-1]["content"].removeprefix(f"{HARM.request} "))

    next(asking)
    asking.send(0.0)
    best = words(asking.send(-1.0))
    # the third is best; what differs by rounding is no better
    following = [words(asking.send(score)) for score in (5.0, 5.0004, 4.0, -3.0)]
    for one in following:
        same = next((i for i, (a, b) in enumerate(zip(one, best, strict=False)) if a != b), len(best))
        end = next((i for i, (a, b) in enumerate(zip(one[::-1], best[::-1], strict=False)) if a != b), len(best))
        # encoded anew, a token may have merged with a neighbour
        assert len(best) - same - end <= WIDEST_CHANGE + 2


def test_an_opening_begins_with_ten_tokens_of_the_target_and_needs_none(engine: SaffronEngine):
    search = AdaptiveSearch("prefill", 9, engine.tokenizer)
    first = search.apply(HARM)
    ids = engine.tokenizer.encode(HARM.target, add_special_tokens=False)
    assert first.target == engine.tokenizer.decode(ids[:10])
    assert first.prefill_tokens == 10
    bare = Sample("b", "d", "harmful", HARM.messages)
    assert tried(search, [0.0] * (len(AFFIRMATIONS) - 1), bare) == list(AFFIRMATIONS)
    assert all(search.candidates(bare).send(None).prefill_tokens for _ in range(3))


@pytest.mark.parametrize("method", ["saffron:2", "best-of-n:2"])
@pytest.mark.parametrize("place", PLACES)
def test_scores_are_the_reward_of_what_came_back_and_alone_decide(engine: SaffronEngine, method: str, place: Any):
    search = AdaptiveSearch(place, 5, engine.tokenizer)
    rows = rows_of(engine, method, search)
    assert [row["query"] for row in rows] == [1, 2, 3, 4, 5]
    asked = tried(search, [row["score"] for row in rows[:-1]])
    assert asked == [row["prefill"] if place == "prefill" else row["request"] for row in rows]
    target = target_tokens(engine.tokenizer, HARM)
    for row in rows:
        likelihood = 0.0
        if place == "suffix":
            (likelihood,) = TargetScorer(engine).score([HARM.asking(row["request"]).messages], target)
        assert row["score"] == pytest.approx(likelihood - row["reward"], abs=1e-4)


def test_a_method_that_reads_no_reward_is_read_by_the_mrm(engine: SaffronEngine):
    (row,) = rows_of(engine, "greedy", AdaptiveSearch("prefill", 1, engine.tokenizer))
    assert row["reward"] is None
    prompt = PromptRenderer.for_engine(engine).render([*as_langchain(HARM.messages), AIMessage(row["prefill"])])
    settings = parse_method("greedy", **LENGTH).settings
    answer = engine.generate(prompt.policy_ids, prompt.reward_ids, settings, context_ids=prompt.prefill_ids).token_ids
    answer = [token for token in answer if token not in engine.end_tokens]
    assert engine.reward_model is not None
    assert prompt.reward_ids is not None
    rewards = engine.reward_model.rewards([*prompt.reward_ids, *answer[:-1]])
    assert row["score"] == pytest.approx(-float(rewards[answer[-1]]), abs=1e-4)


def test_a_smaller_budget_is_the_beginning_of_a_larger_one(engine: SaffronEngine):
    def asked(method: str, queries: int) -> list[tuple[Any, ...]]:
        rows = rows_of(engine, method, AdaptiveSearch("suffix", queries, engine.tokenizer))
        return [(row["query"], row["request"], row["answer"], pytest.approx(row["score"], abs=1e-4)) for row in rows]

    # chance takes part in the second
    for method in ("saffron:2", "none"):
        assert asked(method, 2) == asked(method, 6)[:2]
    drawn = [Case(parse_method("none"), AdaptiveSearch("suffix", 3, None), HARM, query=query) for query in (0, 1, 2)]
    assert len({case.search_seed for case in drawn}) == 3


def test_a_killed_run_goes_on_as_it_would_have(engine: SaffronEngine, tmp_path: Path):
    file = write_lines(tmp_path / "p.jsonl", [{"prompt": "How do I brew it?", "target": HARM.target}])
    methods, queries, told = ("saffron:2", "none"), 6, []

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        assert total == len(methods) * queries
        if done == 5:
            raise Killed

    def run(**more: Any) -> Evaluation:
        return evaluate(
            f"jsonl:{file}", tmp_path / "run", models=engine, methods=methods, seeds=1, max_tokens=6, judge="refusal",
            attacks=[f"adaptive-prefill-{queries}"], report=told.append, **more,
        )  # fmt: skip

    with pytest.raises(Killed):
        run(progress=kill)
    log = RunLog(tmp_path / "run")
    assert len(list(log.rows())) == 5
    found = run()
    assert "5 answers are there already; 7 to go" in told
    kept = ("key", "request", "prefill", "answer", "query")
    (sample,) = parse_data(f"jsonl:{file}", 1)
    attack = AdaptiveSearch("prefill", queries, engine.tokenizer)
    cases = [Case(parse_method(one, max_tokens=6, top_p=0.8), attack, sample) for one in methods]
    whole = SearchRunner(engine, Runner(engine)).run(cases, {})
    resumed, uncut = (sorted(tuple(row[name] for name in kept) for row in rows) for rows in (log.rows(), whole))
    assert resumed == uncut
    assert len(resumed) == 12
    assert "within so many queries" in found.summary
    record = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert [list(line["attempts"]["success"]) for line in record["figures"]] == [["1", "2", "5", "6"]] * 2
    assert "Attack success over attempts" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_mistakes_are_told_before_any_answer(engine: SaffronEngine, tmp_path: Path):
    with pytest.raises(SettingsError, match="at least 1 query"):
        parse_attack("adaptive-prefill-0", [], engine.tokenizer)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    bare = SaffronEngine(random_model("llama", max_position_embeddings=512), tokenizer)
    with pytest.raises(RewardModelRequiredError, match="adaptive"):
        parse_attack("adaptive-suffix-3", [], tokenizer).prepared(bare, [HARM], tmp_path, None)
