"""The kitchen for `saffron evaluate`: importing this registers its generated sets, and the judge that knows its rule.

The sets hold held-out combinations, which occur in no training data by construction.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from langchain_saffron.embedded import KITCHEN
from langchain_saffron.evaluation.datasets import SampleSet, register_dataset
from langchain_saffron.evaluation.judges import Exchange, Judge, Judged, register_judge
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
from langchain_saffron.kitchen.secret import load_secret_policy
from langchain_saffron.kitchen.world.utensils import TOP_P
from langchain_saffron.models.loading import load_causal_lm


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


def _hard_policy(device: str, dtype: str) -> Any:
    return load_causal_lm(KITCHEN / "hard-policy", "policy", device=device, dtype=dtype)


def _secret_policy(device: str, dtype: str) -> Any:
    return load_secret_policy(device=device, dtype=dtype)


def _kitchen_set(make: Callable[[int], list[Sample]], **changes: Any) -> SampleSet:
    return SampleSet(make, judge=RuleJudge.name, attacks=("prefill-10",), **changes)


def _hazards_of(name: str, policy: Callable[[str, str], Any]) -> SampleSet:
    # steps come later in these kitchens' answers, and turning back is seldom in a narrow nucleus
    return _kitchen_set(partial(kitchen_hazards, dataset=name), policy=policy, max_tokens=112, top_p=TOP_P)


_MADE = {
    "kitchen": _kitchen_set(kitchen_hazards),
    "hard-kitchen": _hazards_of("hard-kitchen", _hard_policy),
    "secret-kitchen": _hazards_of("secret-kitchen", _secret_policy),
    "kitchen-benign": _kitchen_set(kitchen_benign),
    "kitchen-borderline": _kitchen_set(kitchen_borderline),
    "kitchen-questions": _kitchen_set(kitchen_questions),
    "kitchen-poisoned": _kitchen_set(kitchen_poisoned),
    "kitchen-tool-results": _kitchen_set(kitchen_tool_results),
}


for _name, _made in _MADE.items():
    register_dataset(_name, _made)
register_judge(RuleJudge.name, lambda device, dtype: RuleJudge())
