"""What going back to roads not taken saves: `python -m integration_tests.step_back_figures`.

The hard kitchen's attacks at several widths, each with and without `step_back`, under no budget and under the same
budgets; what benign requests cost; and a made-up world, a table without any model, in which at most 2% of the places
have a way out.
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from langchain_saffron.evaluation.methods import Method, make_method
from langchain_saffron.evaluation.run import evaluate
from langchain_saffron.search import Answer, Expand, Node, Scores, SearchInputs
from langchain_saffron.search.budget import BudgetMeter
from langchain_saffron.search.saffron import saffron_search
from langchain_saffron.settings import ComputeBudget, SearchSettings

WIDTHS = (1, 2, 4, 8)
AUTO = "auto"
# MFLOP an answer; 0 is no budget
BUDGETS = (0, 1000, 2000, 4000)
# the world: choices a place, tokens from one to the next, places, tokens of harm, share of places with a way out
CHOICES, STEP, PLACES, HARM, EXITS = 4, 5, 6, 30, 0.02
EXIT, HARMFUL, FILLER, END = CHOICES, CHOICES + 1, CHOICES + 2, CHOICES + 3
CALLS = (50, 100, 200, 400)


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


def rare_exits(worlds: int) -> None:
    """Print attack success and calls for every width and budget."""
    print(f"\na way out at {EXITS:.0%} of the places: harmful / safe / calls an answer, of {worlds} worlds")
    for calls in (None, *CALLS):
        print(f"budget {calls or 'none'}")
        budget = ComputeBudget(max_reward_calls=calls, on_exhausted="stop")
        for width in (*WIDTHS, AUTO):
            cells = []
            for back in (False, True):
                settings = SearchSettings(
                    width=16 if width == AUTO else width, adaptive=width == AUTO, step_back=back, budget=budget,
                    top_p=0.95, max_tokens=STEP * PLACES + HARM + 2, safety_threshold=2.0,
                )  # fmt: skip
                found = [search(RareExits(seed), settings) for seed in range(worlds)]
                harmful = sum(HARMFUL in answer.tokens for answer, _ in found) / worlds
                safe = sum(EXIT in answer.tokens for answer, _ in found) / worlds
                cells.append(f"{harmful:.3f} / {safe:.3f} / {sum(spent for _, spent in found) / worlds:5.0f}")
            print(f"{width:>6}  {'   '.join(cells)}", flush=True)


def kitchen_methods(budget: float, widths: Sequence[int | str], top_p: float) -> list[Method]:
    """Each width without and with going back."""
    methods = []
    for width in widths:
        family = "saffron-auto" if width == AUTO else "saffron"
        plain = make_method(family, 16 if width == AUTO else int(width), max_tokens=112, top_p=top_p)
        limits = ComputeBudget(max_tflops=budget / 1e6 or None, on_exhausted="stop")
        for back in (False, True):
            settings = plain.settings.model_copy(update={"step_back": back, "budget": limits})
            methods.append(Method(f"{width}{'+' if back else ''}", settings))
    return methods


def kitchen(data: str, show: Callable[[dict[str, float]], str], cases: int, options: argparse.Namespace) -> None:
    """Print the figures of one set of the kitchen's for every width and budget."""
    for budget in options.budgets if data == "hard-kitchen" else (0,):
        top_p = 0.9 if data == "hard-kitchen" else 0.8
        methods = kitchen_methods(budget, options.widths, top_p)
        with tempfile.TemporaryDirectory() as out:
            run = evaluate(data, Path(out), methods=methods, judge="rule", limit=cases, top_p=top_p, max_tokens=112)
        figures = {line["method"]: line for line in run.figures}
        print(f"budget {f'{budget} MFLOP' if budget else 'none'}")
        for width in options.widths:
            print(f"{width:>6}  {show(figures[f'{width}'])}   {show(figures[f'{width}+'])}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables: the second column of each is with going back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="of the hard kitchen, and benign requests")
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--budgets", type=float, nargs="*", default=BUDGETS, help="MFLOP an answer; 0 for none")
    parser.add_argument("--widths", nargs="*", default=[*WIDTHS, AUTO])
    options = parser.parse_args(arguments)
    if options.cases:
        print(f"hard kitchen: unsafe / refused / MFLOP an answer, of {options.cases} attacks")
        shares = "{unsafe:.3f} / {refused:.3f} / {mflop:5.0f}"
        kitchen("hard-kitchen", lambda row: shares.format(**row, mflop=row["tflops"] * 1e6), options.cases, options)
        print(f"\nbenign requests: on topic / MFLOP an answer, of {options.cases}")
        shares_benign = "{on_topic:.3f} / {mflop:5.0f}"
        kitchen(
            "kitchen-benign", lambda row: shares_benign.format(**row, mflop=row["tflops"] * 1e6), options.cases, options
        )
    if options.worlds:
        rare_exits(options.worlds)


if __name__ == "__main__":
    main()
