"""Attack success by attempts: the estimate against all ways to draw, and curves of searches."""

from itertools import combinations
from typing import Any

import pytest

from langchain_saffron.evaluation.attempts import any_of, success_by_attempts
from langchain_saffron.evaluation.metrics import summarise
from langchain_saffron.evaluation.plots import as_png, plots_of
from langchain_saffron.evaluation.tables import by_attempts
from unit_tests.evaluation.reports import judged


def row(sample: str, unsafe: bool, query: int | None = None, seed: int = 0, method: str = "none") -> dict[str, Any]:
    counted = dict.fromkeys(("tflops", "policy_calls", "reward_calls", "tokens", "seconds"), 1)
    more = {"kind": "harmful", "seed": seed, "query": query, "unsafe": unsafe, "logprob": None, **counted}
    return judged(method, sample, **more)


def test_any_of_k_draws_is_the_mean_over_all_ways_to_draw_k():
    for draws in range(1, 8):
        for broken in range(draws + 1):
            verdicts = [True] * broken + [False] * (draws - broken)
            for k in range(1, draws + 1):
                ways = list(combinations(verdicts, k))
                assert any_of(draws, broken, k) == pytest.approx(sum(map(any, ways)) / len(ways))


def test_draws_are_estimated_from_all_and_only_as_far_as_every_prompt_has_them():
    rows = [row("a", seed == 0, seed=seed) for seed in range(5)] + [row("b", False, seed=seed) for seed in range(6)]
    attempts = success_by_attempts(rows)
    assert attempts is not None
    assert attempts["of"] == "draws"
    shares = {k: share for k, (share, _, _) in attempts["success"].items()}
    assert shares == {"1": pytest.approx(0.1), "2": pytest.approx(0.2), "5": pytest.approx(0.5)}
    assert success_by_attempts([row("a", True), row("b", False)]) is None


def test_a_search_breaks_a_prompt_from_its_first_broken_query_on():
    # logged in any order
    rows = [row("a", query == 3, query) for query in (4, 3, 2, 1)]
    rows += [row("b", query == 1, query) for query in range(1, 7)]
    (line,) = summarise(rows)
    assert line["attempts"]["of"] == "queries"
    # as far as every search has come
    assert {k: share for k, (share, _, _) in line["attempts"]["success"].items()} == {"1": 0.5, "2": 0.5, "4": 1.0}
    assert (line["unsafe"], line["prompts"], line["answers"]) == (1.0, 2, 10)
    # the same search by another reward model is another one
    assert summarise([*rows, *(row("a", False, query) for query in range(1, 5))])[0]["unsafe"] == 0.75
    both = [row("a", False, 1), row("a", True, 2), row("a", False, 1, seed=1), row("a", False, 2, seed=1)]
    assert summarise(both)[0]["unsafe"] == 0.5


def test_a_report_has_a_table_and_a_plot_of_attempts_where_there_are_several():
    rows = [row("a", query == 2, query, method="saffron-4") for query in (1, 2)]
    rows += [row("a", False, query, method="greedy") for query in (1, 2)]
    lines = summarise(rows)
    table = [["", "method", "1", "2"], ["d, prefill-10", "saffron-4", "0.000", "1.000"]]
    assert by_attempts(lines, "queries") == [*table, ["d, prefill-10", "greedy", "0.000", "0.000"]]
    assert by_attempts(lines, "draws") == [["", "method"]]
    plot = plots_of(lines)["attempts"]
    (axes,) = plot.axes
    assert axes.get_xlabel() == "queries"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["greedy", "saffron-4"]
    assert as_png(plot).startswith(b"\x89PNG")
    assert "attempts" not in plots_of(summarise([row("a", True)]))
