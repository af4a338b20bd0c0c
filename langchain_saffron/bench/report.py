"""All figures of a run."""

from collections.abc import Callable, Iterator

import torch

from langchain_saffron.bench.annotation import SUFFIXES, Annotation, measure_annotation
from langchain_saffron.bench.measurements import Bench
from langchain_saffron.bench.scenario import Scenario
from langchain_saffron.bench.timing import Measured, Ratio, Report, rounds
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.runtime.devices import computes_bfloat16


def run(scenario: Scenario, device: str = "cpu") -> Iterator[str | Measured | Report]:
    """Measure everything; gives the name of what comes next, what each took once it is done, and the report last.

    The shorter measurements are taken in turns, so that a machine that changes its speed changes it for all of them.
    """
    machine = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    report = Report(machine=machine)
    seconds = report.seconds
    wide = f"search, width {scenario.width}"
    bare, beams = f"bare forwards of width {scenario.width}", f"generate, {scenario.width} beams"
    constrained = f"{wide}, in the grammar of a JSON schema"
    narrow_greedy, narrow_wide = "greedy generate, bfloat16", f"{wide}, bfloat16"
    apart, together = f"{scenario.chats} chats one by one", f"{scenario.chats} chats together"

    yield "cache"
    fresh = Bench(scenario, device)
    overhead = fresh.cache_overhead()
    fresh.close()

    bench = Bench(scenario, device)
    yield "warm-up"
    bench.search(4)
    bench.generate()
    measures: dict[str, Callable[[], float]] = {
        "greedy generate": bench.generate,
        "search, width 1": lambda: bench.search(1),
        wide: lambda: bench.search(scenario.width),
        bare: bench.bare,
    }
    if GRAMMARS.available():
        bench.constrained()
        measures[constrained] = bench.constrained
    yield from rounds(report.seconds, measures, scenario.repeats)
    yield from rounds(
        report.seconds,
        {
            beams: lambda: bench.generate(scenario.width),
            apart: lambda: bench.chats(together=False),
            together: lambda: bench.chats(together=True),
        },
        1,
    )
    mask, step = "masks, a step", f"step of width {scenario.width}, in the grammar"
    first, another = "first grammar, with the vocabulary", "another grammar"
    if GRAMMARS.available():
        yield "grammars"
        report.seconds[first], report.seconds[another] = bench.compiling()
        report.seconds[mask], report.seconds[step] = bench.masks()
    yield "breakdown"
    report.breakdown = bench.breakdown()
    bench.close()

    if computes_bfloat16(device):
        narrow = Bench(scenario, device, torch.bfloat16)
        yield "warm-up, bfloat16"
        narrow.search(4)
        narrow.generate()
        yield from rounds(
            report.seconds,
            {
                narrow_greedy: narrow.generate,
                narrow_wide: lambda: narrow.search(scenario.width),
            },
            scenario.repeats,
        )
        narrow.close()
    if device == "cpu":
        yield "warm-up, int8"
        whole = Bench(scenario, device, quantization="int8")
        whole.search(4)
        yield from rounds(
            seconds,
            {
                "greedy generate again": whole.generate,
                f"{wide}, int8": lambda: whole.search(scenario.width),
                "search, width 1, int8": lambda: whole.search(1),
            },
            scenario.repeats,
        )
        whole.close()
    yield "annotation"
    annotations = measure_annotation(scenario, device)
    for item in annotations:
        name = f"{item.guard}, question of {item.suffix}"
        report.seconds[f"{name}: a forward a prefix"], report.seconds[f"{name}: tree"] = item.full, item.tree
    report.ratios = [
        _ratio(seconds, wide, bare, 1.10),
        _ratio(seconds, wide, "greedy generate", 2.3),
        _ratio(seconds, beams, wide, 5.4, at_most=False),
        _ratio(seconds, "search, width 1", "greedy generate", 1.45),
        *([_ratio(seconds, narrow_wide, narrow_greedy, 1.8)] if narrow_wide in seconds else []),
        *(
            [
                _ratio(seconds, f"{wide}, int8", "greedy generate again", 0.75),
                _ratio(seconds, "search, width 1, int8", "greedy generate again", 0.45),
            ]
            if device == "cpu"
            else []
        ),
        *([_ratio(seconds, constrained, wide, 1.10)] if constrained in seconds else []),
        *([_ratio(seconds, mask, step, 0.1)] if mask in seconds else []),
        *([_ratio(seconds, another, step, 1.0)] if mask in seconds else []),
        Ratio("bytes of K and V ÷ those of the live nodes, at the peak", overhead, 1.3),
        _ratio(seconds, apart, together, 3.0, at_most=False),
        *(
            # with a long question most of the work is the question's, which every prefix has to itself
            Ratio(_prefixes(item), item.full / item.tree, 8.0 if item.suffix == SUFFIXES[0] else 1.0, at_most=False)
            for item in annotations
        ),
        Ratio("largest difference of their rewards ÷ spread", max(item.difference for item in annotations), 1e-3),
    ]
    yield report


def _prefixes(item: Annotation) -> str:
    return f"a forward a prefix ÷ annotation ({item.guard}, question of {item.suffix} tokens)"


def _ratio(seconds: dict[str, float], over: str, under: str, reach: float, at_most: bool = True) -> Ratio:
    return Ratio(f"{over} ÷ {under}", seconds[over] / seconds[under], reach, at_most)
