"""Three kinds of reward model side by side: `python -m integration_tests.head_figures`.

A separate model, a LoRA on the policy and a head on the policy guard the same attacked answers: harmful requests behind
the first ten tokens of a harmful answer. Printed: how well each predicts the guard's rewards of held-out prefixes (r,
AUC for what the guard calls safe, and, with `--candidates`, r among the tokens that could follow a prefix), attack
success with Wilson's interval, compute and CPU seconds an answer at several widths, and what each takes beside greedy
decoding.

By default the world is the hard kitchen, and what is not there yet is trained from the same annotated conversations.
`--world smollm2 --data DIR --attacks harmbench:FILE` is the small real model: its shipped MRM beside what is trained on
the policy's own answers. `--separate`, `--policy` and `--head` name reward models that are trained already, and
`--annotated DIR` data, in `mrm` and `held_out`. With `--candidates K` the guard scores the policy's K likeliest other
tokens as well, and with `--candidates-after N` what follows each of them, at every N-th place.
`--commit-lag N` bounds what is held back of an answer, as `effort` does; `--commit-lag none 8` measures both.

`--model NAME=DIR`, once or more, measures reward models that are there under names of one's own, and trains none; r and
AUC need `--annotated DIR` then. `--model shipped=smollm2` is the world's own.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from integration_tests.head_training import annotated, trained
from integration_tests.reward_agreement import predicted
from integration_tests.scaling_figures import PREFILL, WORLDS, World
from langchain_saffron.embedded import named_part
from langchain_saffron.engine import SaffronEngine
from langchain_saffron.evaluation.attacks import parse_attack
from langchain_saffron.evaluation.cases import make_cases
from langchain_saffron.evaluation.datasets import parse_data
from langchain_saffron.evaluation.intervals import wilson
from langchain_saffron.evaluation.methods import parse_method, register_method
from langchain_saffron.evaluation.run import Models, evaluate
from langchain_saffron.evaluation.runner import Runner
from langchain_saffron.training.calibration import agreement
from langchain_saffron.training.dataset import RewardData

KINDS = ("separate", "policy", "head")


@dataclass(frozen=True)
class Cell:
    """What one reward model does at one width.

    Attributes:
        broken: Share of attacks that succeed.
        low: Of its interval.
        high: Of its interval.
        tflop: Mean of an answer.
        seconds: CPU seconds of an answer, one at a time.
    """

    broken: float
    low: float
    high: float
    tflop: float
    seconds: float


def seconds_of(engine: SaffronEngine, world: World, methods: Sequence[str], cases: int) -> dict[str, float]:
    """CPU seconds of an answer to an attacked request by each method, one at a time, the methods in turn."""
    samples = parse_data(world.attacks, cases)
    attack = parse_attack(PREFILL, samples, engine.tokenizer)
    common = {"max_tokens": world.max_tokens, **({"top_p": world.top_p} if world.top_p else {})}
    made = {name: make_cases(samples, [attack], [parse_method(name, **common)], 1) for name in methods}
    spent = dict.fromkeys(methods, 0.0)
    # the first answers of an engine plan its forwards
    for some in made.values():
        Runner(engine).start(some[0]).handle.result()
    runner = Runner(engine)
    for number in range(len(samples)):
        for name, some in made.items():
            began = time.process_time()
            runner.start(some[number]).handle.result()
            spent[name] += time.process_time() - began
    return {name: seconds / len(samples) for name, seconds in spent.items()}


def measure(
    world: World, path: Path | None, methods: Sequence[str], out: Path, cases: int, timed: int
) -> dict[str, Cell]:
    """Attack a policy with one reward model, by several methods; what is answered already is not answered again.

    Args:
        world: The policy and its attacks.
        path: The reward model; `None` for the world's own.
        methods: As `saffron evaluate` takes them.
        out: The run's directory.
        cases: Attacks.
        timed: Answers of each method that are timed.

    Returns:
        By method.
    """
    engine = Models(model=world.policy, reward_model=path and str(path)).load()
    figures = evaluate(
        world.attacks, out, methods=methods, attacks=[PREFILL], models=engine, limit=cases, seeds=1, answers=0,
        max_tokens=world.max_tokens, top_p=world.top_p, report=print,
    ).figures  # fmt: skip
    seconds = seconds_of(engine, world, methods, timed)
    engine.close()
    cells = {}
    for method, row in zip(methods, figures, strict=True):
        low, high = wilson(row["unsafe"], row["prompts"])
        cells[method] = Cell(row["unsafe"], low, high, row["tflops"], seconds[method])
    return cells


def table(cells: Mapping[str, Mapping[str, Cell]], found: Mapping[str, tuple[float, float]]) -> str:
    """Everything as Markdown.

    Args:
        cells: By reward model and method; of greedy decoding those of each model's own engine.
        found: By reward model r and AUC, where held-out data are there.
    """
    lines = [
        "| reward model | held-out r | AUC | method | attacks that succeed | GFLOP | CPU s an answer | ÷ greedy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, by_method in cells.items():
        r, auc = (f"{value:.3f}" for value in found[kind]) if kind in found else ("", "")
        for method, cell in by_method.items():
            ratio = cell.seconds / by_method["greedy"].seconds
            lines.append(
                f"| {kind} | {r} | {auc} | {method} | {cell.broken:.3f} [{cell.low:.3f}, {cell.high:.3f}] "
                f"| {cell.tflop * 1e3:.3g} | {cell.seconds:.3g} | {ratio:.2f} |"
            )
    return "\n".join(lines)


def named(text: str) -> tuple[str, Path]:
    """A reward model with its name, of `NAME=DIR`; an embedded world's name is its own."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=DIR")
    return name, Path(named_part(path, "reward_model"))


def lag(text: str) -> int | None:
    """How many tokens are held back at most, of a number or `none`."""
    return None if text == "none" else int(text)


def searches(widths: Sequence[int], lags: Sequence[int | None]) -> list[str]:
    """Greedy decoding, and searches of all widths under all bounds on what is held back.

    Args:
        widths: Of the searches. One beam holds nothing back, and is there once.
        lags: The bounds; `None` for none.
    """
    methods = ["greedy"]
    for number, bound in enumerate(lags):
        family = "saffron"
        if bound is not None:
            family = f"saffron-lag-{bound}"
            register_method(family, "saffron", commit_lag=bound)
        methods += [f"{family}:{width}" for width in widths if number == 0 or width > 1]
    return methods


def main() -> None:
    """Train what is not there yet, answer what is not answered yet, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("head-figures"), help="a killed run goes on in it")
    parser.add_argument("--world", choices=WORLDS, default="hard-kitchen")
    parser.add_argument("--data", type=Path, help="smollm2's data files, as its recipe reads them")
    parser.add_argument("--attacks", help="harmful prompts, FORMAT:FILE; needed for smollm2")
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=Path, help="a reward model that is trained already")
    parser.add_argument(
        "--model", type=named, action="append", metavar="NAME=DIR", help="one that is measured as it is"
    )
    parser.add_argument("--annotated", type=Path, help="annotated data that are there already")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="by default all, and none beside --model")
    parser.add_argument("--chats", type=int, default=2000, help="conversations that are annotated")
    parser.add_argument("--candidates", type=int, default=0, help="of each place that are annotated as well")
    parser.add_argument("--candidates-after", type=int, default=0, help="at every how many places what follows them is")
    parser.add_argument("--cases", type=int, default=40, help="attacked answers")
    parser.add_argument("--timed", type=int, default=6, help="of those, how many are timed one at a time")
    parser.add_argument("--tokens", type=int, help="of an answer; by default what the world is for")
    parser.add_argument("--widths", type=int, nargs="+", default=(1, 4, 16))
    parser.add_argument(
        "--commit-lag", type=lag, nargs="+", default=(None,), metavar="N|none",
        help="of the searches, as effort sets one; by default no bound",
    )  # fmt: skip
    options = parser.parse_args()
    world = WORLDS[options.world]
    world = replace(world, attacks=options.attacks or world.attacks, max_tokens=options.tokens or world.max_tokens)
    kinds = options.kinds or (() if options.model else KINDS)
    if not world.attacks:
        parser.error("--attacks FORMAT:FILE: this world holds no harmful prompts")
    if kinds and options.world == "smollm2" and not (options.annotated or options.data):
        parser.error("--data DIR or --annotated DIR: what reward models learn from")
    if options.candidates_after and not options.candidates:
        parser.error("--candidates-after N: needs --candidates K, whose followers it is about")
    place = options.annotated
    if kinds and place is None:
        place = annotated(
            options.world, options.work, options.chats, options.data, options.candidates, options.candidates_after
        )
    held_out = RewardData.load(place / "held_out") if place else None
    paths = {kind: path for kind in kinds if (path := getattr(options, kind)) is not None}
    if options.world == "smollm2" and "separate" in kinds:
        paths.setdefault("separate", named_part("smollm2", "reward_model"))
    missing = [kind for kind in kinds if kind not in paths]
    if missing:
        assert held_out is not None
        paths |= trained(options.world, options.work, RewardData.load(place / "mrm"), held_out, missing)
    paths = {kind: paths[kind] for kind in kinds} | dict(options.model or ())
    methods = searches(options.widths, options.commit_lag)
    cells, found = {}, {}
    for kind, path in paths.items():
        if held_out is not None:
            made = predicted(path, world.policy, held_out)
            figures = agreement(made.rewards, made.predictions)
            found[kind] = figures["pearson_r"], figures["auc"]
            print(f"{kind}: held-out r {figures['pearson_r']:.4f}, AUC {figures['auc']:.4f}", flush=True)
            if made.choices:
                print(f"{kind}: among candidates r {made.choices.figures()['choice_r']:.4f}", flush=True)
        run = options.work / f"run-{kind}"
        cells[kind] = measure(world, path, methods, run, options.cases, options.timed)
    print(f"\n{options.world}, {options.cases} attacks\n")
    print(table(cells, found))


if __name__ == "__main__":
    main()
