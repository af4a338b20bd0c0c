"""All figures of a run."""

from collections.abc import Callable, Collection, Generator, Iterator

import torch

from langchain_saffron.bench.annotation import SUFFIXES, Annotation, measure_annotation
from langchain_saffron.bench.measurements import Bench
from langchain_saffron.bench.scenario import Scenario
from langchain_saffron.bench.timing import Measured, Ratio, Report, rounds
from langchain_saffron.errors import SettingsError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.runtime.devices import computes_bfloat16

Steps = Iterator[str | Measured]

GREEDY, ONE = "greedy generate", "search, width 1"
NARROW_GREEDY, GREEDY_AGAIN = "greedy generate, bfloat16", "greedy generate again"
SHARP = ", sharp policy"
SHARP_GREEDY, SHARP_AGAIN, SHARP_ONE = f"{GREEDY}{SHARP}", f"{GREEDY_AGAIN}{SHARP}", f"{ONE}{SHARP}"
EAGER = ", enforce_eager"
MASK, FIRST, ANOTHER = "masks, a step", "first grammar, with the vocabulary", "another grammar"


def run(scenario: Scenario, device: str = "cpu", parts: Collection[str] = ()) -> Iterator[str | Measured | Report]:
    """Measure; gives the name of what comes next, what each took once it is done, and the report last.

    The shorter measurements are taken in turns, so that a machine that changes its speed changes it for all of them.

    Args:
        scenario: On what.
        device: Where.
        parts: Of `PARTS`; all by default.

    Raises:
        SettingsError: A part is not known.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise SettingsError(f"only: {unknown[0]!r} is not one of {', '.join(PARTS)}")
    whole = _Run(scenario, device)
    for name, measure in PARTS.items():
        if name in parts or not parts:
            yield from measure(whole)
    whole.close()
    whole.report.ratios = [*whole.ratios(), *whole.report.ratios]
    yield whole.report


class _Run:
    """One bench, of some parts."""

    def __init__(self, scenario: Scenario, device: str) -> None:
        self.scenario, self.device = scenario, device
        machine = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
        self.report = Report(machine=machine)
        self.wide = f"search, width {scenario.width}"
        self.bare, self.beams = f"bare forwards of width {scenario.width}", f"generate, {scenario.width} beams"
        self.constrained = f"{self.wide}, in the grammar of a JSON schema"
        self.step = f"step of width {scenario.width}, in the grammar"
        self.sharp, self.whole = f"{self.wide}{SHARP}", f"{self.wide}{SHARP}, all tokens scored"
        self.apart, self.together = f"{scenario.chats} chats one by one", f"{scenario.chats} chats together"
        self._bench: Bench | None = None

    def search(self) -> Steps:
        """The search beside bare forwards and plain decoding."""
        yield "cache"
        fresh = Bench(self.scenario, self.device)
        # CUDA graphs take the whole cache's memory at once
        overhead = fresh.eagerly(fresh.cache_overhead)
        fresh.close()
        self._say(Ratio("bytes of K and V ÷ those of the live nodes, at the peak", overhead, 1.3))
        bench = yield from self._warm()
        measures: dict[str, Callable[[], float]] = {
            GREEDY: bench.generate,
            ONE: lambda: bench.search(1),
            self.wide: lambda: bench.search(self.scenario.width),
            self.bare: bench.bare,
        }
        if GRAMMARS.available():
            bench.constrained()
            measures[self.constrained] = bench.constrained
        if bench.steps():
            measures[f"{ONE}{EAGER}"] = lambda: bench.eagerly(lambda: bench.search(1))
            measures[f"{self.wide}{EAGER}"] = lambda: bench.eagerly(lambda: bench.search(self.scenario.width))
        yield from self._rounds(measures)
        yield "breakdown"
        self.report.breakdown = bench.breakdown()
        if steps := bench.steps():
            self.report.machine["steps"] = steps

    def sharp_policy(self) -> Steps:
        """The same with a policy whose nucleus is as small as a trained one's; on a CPU in int8 too."""
        self.close()
        yield f"warm-up{SHARP}"
        sharp = Bench(self.scenario.sharp, self.device)
        sharp.warm_up()
        wide = self.scenario.width
        yield from self._rounds(
            {
                SHARP_GREEDY: sharp.generate,
                SHARP_ONE: lambda: sharp.search(1),
                self.sharp: lambda: sharp.search(wide),
                self.whole: lambda: sharp.search_whole(wide),
            }
        )
        sharp.close()
        yield from self._in_int8(self.scenario.sharp, SHARP)

    def beam_search(self) -> Steps:
        """As many beams of transformers' own search."""
        bench = yield from self._warm()
        width = self.scenario.width
        measures: dict[str, Callable[[], float]] = {self.beams: lambda: bench.generate(width)}
        if self.wide not in self.report.seconds:
            measures[self.wide] = lambda: bench.search(width)
        yield from self._rounds(measures, 1)

    def chats(self) -> Steps:
        """Many requests at once, and one after the other."""
        bench = yield from self._warm()
        if bench.steps():
            bench.chats(together=True)
            bench.chats(together=False)
        yield from self._rounds(
            {self.apart: lambda: bench.chats(together=False), self.together: lambda: bench.chats(together=True)}, 1
        )

    def grammars(self) -> Steps:
        """What a grammar costs; nothing without the extra."""
        if GRAMMARS.available():
            bench = yield from self._warm()
            yield "grammars"
            self.report.seconds[FIRST], self.report.seconds[ANOTHER] = bench.compiling()
            self.report.seconds[MASK], self.report.seconds[self.step] = bench.masks()

    def bfloat16(self) -> Steps:
        """The same in bfloat16; nothing where it is not computed."""
        if computes_bfloat16(self.device):
            self.close()
            narrow = Bench(self.scenario, self.device, torch.bfloat16)
            yield "warm-up, bfloat16"
            narrow.warm_up()
            narrow.generate()
            yield from self._rounds(
                {
                    NARROW_GREEDY: narrow.generate,
                    f"{self.wide}, bfloat16": lambda: narrow.search(self.scenario.width),
                }
            )
            narrow.close()

    def int8(self) -> Steps:
        """The search in int8, on a CPU."""
        yield from self._in_int8(self.scenario)

    def annotation(self) -> Steps:
        """What a guard's rewards cost."""
        self.close()
        yield "annotation"
        annotations = measure_annotation(self.scenario, self.device)
        for item in annotations:
            name = f"{item.guard}, question of {item.suffix}"
            self.report.seconds[f"{name}: a forward a prefix"] = item.full
            self.report.seconds[f"{name}: tree"] = item.tree
            # with a long question most of the work is the question's, which every prefix has to itself
            reach = 8.0 if item.suffix == SUFFIXES[0] else 1.0
            self._say(Ratio(_prefixes(item), item.full / item.tree, reach, at_most=False))
        worst = max(item.difference for item in annotations)
        self._say(Ratio("largest difference of their rewards ÷ spread", worst, 1e-3))

    def ratios(self) -> list[Ratio]:
        """Of seconds, as far as both were measured."""
        seconds, wide = self.report.seconds, self.wide
        wanted = [
            (wide, self.bare, 1.10, True),
            (wide, GREEDY, 2.3, True),
            (self.beams, wide, 5.4, False),
            (ONE, GREEDY, 1.45, True),
            (f"{wide}{EAGER}", wide, 1.0, False),
            (f"{ONE}{EAGER}", ONE, 1.0, False),
            (f"{wide}, bfloat16", NARROW_GREEDY, 1.8, True),
            (f"{wide}, int8", GREEDY_AGAIN, 0.75, True),
            (f"{ONE}, int8", GREEDY_AGAIN, 0.45, True),
            (self.sharp, SHARP_GREEDY, 1.3, True),
            (SHARP_ONE, SHARP_GREEDY, 1.45, True),
            (self.sharp, self.whole, 0.92, True),
            (f"{self.sharp}, int8", SHARP_AGAIN, 0.75, True),
            (f"{SHARP_ONE}, int8", SHARP_AGAIN, 0.45, True),
            (self.constrained, wide, 1.10, True),
            (MASK, self.step, 0.1, True),
            (ANOTHER, self.step, 1.0, True),
            (self.apart, self.together, 3.0, False),
        ]
        return [
            Ratio(f"{over} ÷ {under}", seconds[over] / seconds[under], reach, at_most)
            for over, under, reach, at_most in wanted
            if over in seconds and under in seconds
        ]

    def close(self) -> None:
        """End what has been loaded."""
        if self._bench is not None:
            self._bench.close()
            self._bench = None

    def _warm(self) -> Generator[str, None, Bench]:
        """The models in the scenario's own dtype; loaded and warmed up once."""
        if self._bench is None:
            self._bench = Bench(self.scenario, self.device)
            yield "warm-up"
            self._bench.warm_up()
            self._bench.generate()
        return self._bench

    def _in_int8(self, scenario: Scenario, kind: str = "") -> Steps:
        """Searches in int8 beside plain decoding as loaded, on a CPU; `kind` is what the figures' names end in."""
        if self.device == "cpu":
            self.close()
            yield f"warm-up{kind}, int8"
            bench = Bench(scenario, self.device, quantization="int8")
            bench.warm_up()
            yield from self._rounds(
                {
                    f"{GREEDY_AGAIN}{kind}": bench.generate,
                    f"{self.wide}{kind}, int8": lambda: bench.search(scenario.width),
                    f"{ONE}{kind}, int8": lambda: bench.search(1),
                }
            )
            bench.close()

    def _rounds(self, measures: dict[str, Callable[[], float]], repeats: int | None = None) -> Iterator[Measured]:
        return rounds(self.report.seconds, measures, repeats or self.scenario.repeats)

    def _say(self, ratio: Ratio) -> None:
        self.report.ratios.append(ratio)


PARTS: dict[str, Callable[[_Run], Steps]] = {
    "search": _Run.search,
    "sharp": _Run.sharp_policy,
    "beams": _Run.beam_search,
    "chats": _Run.chats,
    "grammars": _Run.grammars,
    "bfloat16": _Run.bfloat16,
    "int8": _Run.int8,
    "annotation": _Run.annotation,
}


def _prefixes(item: Annotation) -> str:
    return f"a forward a prefix ÷ annotation ({item.guard}, question of {item.suffix} tokens)"
