"""The kitchen for `saffron evaluate`: its generated sets, and the judge that knows its rule.

The sets hold held-out combinations, which occur in no training data by construction.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from langchain_saffron.evaluation.judges import Exchange, Judge, Judged
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.kitchen.held_out import (
    BenignItem,
    held_out_benign,
    held_out_borderline,
    held_out_hazards,
    held_out_poisoned_results,
    held_out_retrieval,
)
from langchain_saffron.kitchen.judge import is_refusal, last_user_message, on_topic, verdict


def kitchen_hazards(count: int, seed: int = 1, dataset: str = "kitchen-hazards") -> list[Sample]:
    """Hazardous requests, each with a harmful answer for attacks that prefill."""
    return [
        Sample(f"hazard-{seed}-{i}", dataset, "harmful", item.messages, item.answer)
        for i, item in enumerate(held_out_hazards(count, seed))
    ]


def kitchen_benign(count: int, seed: int = 1) -> list[Sample]:
    """Benign requests with the rule for answers on topic."""
    return [
        Sample(f"benign-{seed}-{i}", "kitchen-benign", "benign", item.messages, item.answer, item.must)
        for i, item in enumerate(held_out_benign(count, seed))
    ]


def kitchen_borderline(count: int, seed: int = 1) -> list[Sample]:
    """Harmless requests that sound like hazardous ones: what is refused among them is refused too often."""
    return [
        Sample(f"borderline-{seed}-{i}", "kitchen-borderline", "borderline", messages)
        for i, messages in enumerate(held_out_borderline(count, seed))
    ]


def kitchen_questions(count: int, seed: int = 1) -> list[Sample]:
    """Questions over clean passages, with the rule for answers that come from them."""
    return [
        Sample(
            f"question-{seed}-{i}", "kitchen-questions", "benign", item.messages, item.exchange.answer,
            item.exchange.must,
        )
        for i, item in enumerate(held_out_retrieval(count, poisoned=False, seed=seed))
    ]  # fmt: skip


def kitchen_poisoned(count: int, seed: int = 1) -> list[Sample]:
    """Harmless questions over passages, one of which wants a brew explained: an answer that does is unsafe."""
    return [
        Sample(f"poisoned-{seed}-{i}", "kitchen-poisoned", "harmful", item.messages)
        for i, item in enumerate(held_out_retrieval(count, poisoned=True, seed=seed))
    ]


def kitchen_tool_results(count: int, seed: int = 1) -> list[Sample]:
    """Tool calls whose results want a brew explained."""
    return [
        Sample(f"result-{seed}-{i}", "kitchen-tool-results", "harmful", item.messages, tools=item.tools)
        for i, item in enumerate(held_out_poisoned_results(count, seed))
    ]


HARD_KITCHEN, SECRET_KITCHEN = "hard-kitchen", "secret-kitchen"
WITH_OWN_POLICY = (HARD_KITCHEN, SECRET_KITCHEN)
# by their names on the command line; the first argument is how many
SETS: dict[str, Callable[[int], list[Sample]]] = {
    "kitchen": kitchen_hazards,
    **{name: partial(kitchen_hazards, dataset=name) for name in WITH_OWN_POLICY},
    "kitchen-benign": kitchen_benign,
    "kitchen-borderline": kitchen_borderline,
    "kitchen-questions": kitchen_questions,
    "kitchen-poisoned": kitchen_poisoned,
    "kitchen-tool-results": kitchen_tool_results,
}


class RuleJudge(Judge):
    """The kitchen's ground truth: a rule on text that no reward model knows."""

    name = "rule"

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judged]:
        """The verdicts, in order."""
        requests = [last_user_message([{"role": "user", "content": one.request}]) for one in exchanges]
        return [
            Judged(verdict(one.answer, request) == "unsafe", is_refusal(one.answer))
            for one, request in zip(exchanges, requests, strict=True)
        ]


def topic_rule(samples: Sequence[Sample]) -> Callable[[dict[str, Any]], bool | None]:
    """From a row of the log to whether its answer is on topic; `None` where the sample has no rule."""
    rules = {
        sample.id: BenignItem("", sample.messages, sample.target, sample.must) for sample in samples if sample.must
    }

    def judge(row: dict[str, Any]) -> bool | None:
        rule = rules.get(row["sample"])
        return None if rule is None else on_topic(rule, row["answer"])

    return judge
