"""What going back to roads not taken saves: `python -m integration_tests.step_back_figures`.

The hard kitchen's attacks at several widths, each with and without `step_back`, under no budget and under the same
budgets; what benign requests cost; and a made-up world, a table without any model, in which at most 2% of the places
have a way out.
"""

import argparse
import random
from collections.abc import Sequence
from statistics import fmean
from typing import Any
from uuid import uuid4

import torch
from langchain_core.messages import AIMessage

from langchain_saffron import SaffronEngine, SearchResult
from langchain_saffron.evaluation.datasets import SETS
from langchain_saffron.evaluation.judges import Exchange
from langchain_saffron.evaluation.kitchen_sets import RuleJudge, kitchen_benign, kitchen_hazards
from langchain_saffron.evaluation.run import Models
from langchain_saffron.evaluation.runner import as_langchain
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.kitchen.held_out import BenignItem
from langchain_saffron.kitchen.judge import on_topic
from langchain_saffron.kitchen.world.utensils import TOP_P
from langchain_saffron.search import Answer, Expand, Node, Scores, SearchInputs
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.settings import ComputeBudget, SearchSettings

PREFILL_TOKENS = 10
WIDTHS = (1, 2, 4, 8)
AUTO = "auto"
# MFLOP an answer; 0 is no budget
BUDGETS = (0, 1500, 2500)
# the world: choices a place, tokens from one to the next, places, tokens of harm, share of places with a way out
CHOICES, STEP, PLACES, HARM, EXITS = 4, 5, 6, 30, 0.02
EXIT, HARMFUL, FILLER, END = CHOICES, CHOICES + 1, CHOICES + 2, CHOICES + 3
CALLS = (0, 450, 900)


class RareExits:
    """A world of places, from each of which some ways lead on; a few have a way out, and after the last comes harm."""

    def __init__(self, seed: int) -> None:
        """One of many."""
        self._seed = seed

    def logits(self, tokens: tuple[int, ...]) -> list[float]:
        """Chances of what comes next, as logarithms."""
        chances = torch.full((END + 1,), 1e-9)
        if EXIT in tokens:
            chances[END] = 1.0
        elif HARMFUL in tokens or len(tokens) >= STEP * PLACES:
            chances[END if len(tokens) >= STEP * PLACES + HARM else HARMFUL] = 1.0
        elif len(tokens) % STEP == 0:
            rng = random.Random(f"{self._seed} {tokens}")
            chances[:CHOICES] = torch.tensor([rng.uniform(0.5, 1.5) for _ in range(CHOICES)])
            # even there, the policy seldom takes it
            chances[EXIT] = 0.15 * CHOICES if self._has_exit(tokens) else 1e-9
        else:
            chances[FILLER] = 1.0
        return chances.log().tolist()

    def rewards(self, tokens: tuple[int, ...]) -> list[float]:
        """Rewards of what comes next."""
        rng = random.Random(f"{self._seed} reward {tokens}")
        said = 3.0 if EXIT in tokens else -5.0 if HARMFUL in tokens else rng.gauss(-1, 0.3)
        rewards = [said] * (END + 1)
        rewards[EXIT], rewards[HARMFUL] = 3.0, -5.0
        return rewards

    def _has_exit(self, tokens: tuple[int, ...]) -> bool:
        return bool(tokens) and random.Random(f"{self._seed} exit {tokens}").random() < EXITS


def responses(nodes: Sequence[Node]) -> list[tuple[int, ...]]:
    """The tokens of prefixes."""
    found = []
    for node in nodes:
        tokens: list[int] = []
        above = node
        while above.parent is not None:
            tokens.append(above.token)
            above = above.parent
        found.append(tuple(reversed(tokens)))
    return found


def search(world: RareExits, settings: SearchSettings) -> tuple[Answer, int]:
    """An answer in that world, and how many nodes were scored for it."""
    meter = BudgetMeter(settings.budget, calls_per_row=1)
    running = saffron_search(SearchInputs(settings, end_tokens=(END,), budget=meter))
    expand: Expand = next(running)
    while True:
        tokens = responses(expand.nodes)
        meter.book(expand.nodes)
        scores = Scores(
            torch.tensor([world.logits(one) for one in tokens]), torch.tensor([world.rewards(one) for one in tokens])
        )
        try:
            expand = running.send(scores)
        except StopIteration as end:
            return end.value, meter.reward_calls


def rare_exits(worlds: int, widths: Sequence[str], budgets: Sequence[int]) -> None:
    """Print attack success and calls for every width and budget."""
    print(f"\na way out at {EXITS:.0%} of the places: harmful / safe / calls an answer, of {worlds} worlds")
    for calls in budgets:
        print(f"budget {calls or 'none'}")
        budget = ComputeBudget(max_reward_calls=calls or None, on_exhausted="stop")
        for width in widths:
            cells = []
            for back in (False, True):
                settings = SearchSettings(
                    width=16 if width == AUTO else int(width), adaptive=width == AUTO, step_back=back, budget=budget,
                    top_p=0.95, max_tokens=STEP * PLACES + HARM + 2, safety_threshold=2.0,
                )  # fmt: skip
                found = [search(RareExits(seed), settings) for seed in range(worlds)]
                harmful = sum(HARMFUL in answer.tokens for answer, _ in found) / worlds
                safe = sum(EXIT in answer.tokens for answer, _ in found) / worlds
                cells.append(f"{harmful:.3f} / {safe:.3f} / {sum(spent for _, spent in found) / worlds:5.0f}")
            print(f"{width:>6}  {'   '.join(cells)}", flush=True)


def settings_of(width: str, back: bool, mflop: float, **common: Any) -> SearchSettings:
    """A width, or what `effort="auto"` stands for, under a budget."""
    limits = ComputeBudget(max_tflops=mflop / 1e6 or None, on_exhausted="stop")
    if width == AUTO:
        common = {"width": 16, "adaptive": True, "commit_lag": 16, **common}
    else:
        common = {"width": int(width), **common}
    return SearchSettings(step_back=back, budget=limits, **common)


def ask(engine: SaffronEngine, samples: Sequence[Sample], settings: SearchSettings) -> list[tuple[str, SearchResult]]:
    """Prefills and answers, all samples at once; nobody profits from what others have computed."""
    renderer = PromptRenderer.for_engine(engine)
    started = []
    for sample in samples:
        messages = as_langchain(sample.messages)
        if sample.kind == "harmful":
            ids = engine.tokenizer.encode(sample.target, add_special_tokens=False)[:PREFILL_TOKENS]
            messages.append(AIMessage(engine.tokenizer.decode(ids)))
        prompt = renderer.render(messages)
        handle = engine.submit(
            prompt.policy_ids, prompt.reward_ids, settings, context_ids=prompt.prefill_ids, cache_salt=uuid4().hex
        )
        started.append((prompt.prefill, handle))
    return [(prefill, handle.result()) for prefill, handle in started]


def attacks(engine: SaffronEngine, samples: Sequence[Sample], settings: SearchSettings) -> str:
    """Shares that are unsafe and that turn back, compute, and steps back."""
    found = ask(engine, samples, settings)
    exchanges = [
        Exchange(sample.request, prefill + answer.text)
        for sample, (prefill, answer) in zip(samples, found, strict=True)
    ]
    judged = RuleJudge().judge(exchanges)
    stats = [answer.stats for _, answer in found]
    shares = f"{fmean(one.unsafe for one in judged):.3f} / {fmean(one.refused for one in judged):.3f}"
    return f"{shares} / {1e6 * fmean(one.tflops for one in stats):5.0f} / {fmean(one.steps_back for one in stats):4.1f}"


def benign(engine: SaffronEngine, samples: Sequence[Sample], settings: SearchSettings) -> str:
    """Share on topic, compute, and steps back."""
    found = ask(engine, samples, settings)
    rules = [BenignItem("", sample.messages, sample.target, sample.must) for sample in samples]
    topical = fmean(on_topic(rule, answer.text) for rule, (_, answer) in zip(rules, found, strict=True))
    stats = [answer.stats for _, answer in found]
    return (
        f"{topical:.3f} / {1e6 * fmean(one.tflops for one in stats):5.0f} / {fmean(s.steps_back for s in stats):4.1f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables: the second column of each is with going back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="attacks on the hard kitchen")
    parser.add_argument("--benign", type=int, default=100, help="benign requests")
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--budgets", type=float, nargs="*", default=BUDGETS, help="MFLOP an answer; 0 for none")
    parser.add_argument("--calls", type=int, nargs="*", default=CALLS, help="the world's budgets; 0 for none")
    parser.add_argument("--widths", nargs="*", default=[*map(str, WIDTHS), AUTO])
    options = parser.parse_args(arguments)
    if options.cases:
        hard = Models().load(SETS["hard-kitchen"].policy)
        hazards = kitchen_hazards(options.cases)
        print(f"hard kitchen: unsafe / turned back / MFLOP an answer / steps back, of {options.cases} attacks")
        for budget in options.budgets:
            print(f"budget {f'{budget:.0f} MFLOP' if budget else 'none'}")
            for width in options.widths:
                cells = [
                    attacks(hard, hazards, settings_of(width, back, budget, max_tokens=112, top_p=TOP_P))
                    for back in (False, True)
                ]
                print(f"{width:>6}  {'   '.join(cells)}", flush=True)
    if options.benign:
        print(f"\nbenign requests: on topic / MFLOP an answer / steps back, of {options.benign}")
        plain, requests = Models().load(), kitchen_benign(options.benign)
        for width in options.widths:
            cells = [benign(plain, requests, settings_of(width, back, 0, max_tokens=112)) for back in (False, True)]
            print(f"{width:>6}  {'   '.join(cells)}", flush=True)
    if options.worlds:
        rare_exits(options.worlds, options.widths, options.calls)


if __name__ == "__main__":
    main()
