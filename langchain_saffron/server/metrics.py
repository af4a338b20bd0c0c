"""The engine's metrics as Prometheus reads them: vLLM's names, under `saffron:`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.engine.metrics import Distribution, EngineMetrics
from langchain_saffron.server.load import Load

PREFIX = "saffron:"
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
LABELS = {"request_success": "finished_reason", "admission_rejections": "reason"}

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class EngineCollector(Collector):
    """Asks the engine whenever it is scraped."""

    def __init__(self, engine: SaffronEngine, load: Load, served: str, replica: str | None = None) -> None:
        """Take what is told about.

        Args:
            engine: The engine.
            load: Of the server before it, for those that it turned away.
            served: What the model is called.
            replica: Which of several processes this is.
        """
        self._engine, self._load = engine, load
        self._labels = {"model_name": served} | ({} if replica is None else {"replica": replica})

    def collect(self) -> Iterable[Family]:
        """All of them, as they are now."""
        now = self._engine.metrics()
        rejected = now.admission_rejections + self._load.rejections
        for name, about in _described().items():
            value = rejected if name == "admission_rejections" else getattr(now, name)
            yield self._family(name, about, value)

    def _family(self, name: str, about: str, value: int | float | Mapping[str, int] | Distribution) -> Family:
        if isinstance(value, Distribution):
            family = HistogramMetricFamily(PREFIX + name, about, labels=list(self._labels))
            bounds = [*map(str, value.bounds), "+Inf"]
            buckets = list(zip(bounds, map(float, accumulate(value.counts)), strict=True))
            family.add_metric(list(self._labels.values()), buckets=buckets, sum_value=value.total)
            return family
        if isinstance(value, Mapping):
            counters = CounterMetricFamily(PREFIX + name, about, labels=[*self._labels, LABELS[name]])
            for reason, count in sorted(value.items()):
                counters.add_metric([*self._labels.values(), reason], count)
            return counters
        kind = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
        plain = kind(PREFIX + name, about, labels=list(self._labels))
        plain.add_metric(list(self._labels.values()), value)
        return plain


def merged(texts: Sequence[str]) -> str:
    """What several processes say in Prometheus' text format, as one of them would: a family's samples stand together.

    Args:
        texts: Of `generate_latest`, whose samples differ by a label.
    """
    families: dict[str, list[str]] = {}
    for text in texts:
        for block in re.split(r"^(?=# HELP )", text, flags=re.MULTILINE):
            lines = block.splitlines()
            about = [line for line in lines if line.startswith("# ")]
            families.setdefault("\n".join(about), []).extend(lines[len(about) :])
    return "".join("\n".join([head, *samples]) + "\n" for head, samples in families.items() if head)


def _described() -> dict[str, str]:
    """The metrics' names, each with what its docstring says."""
    lines = (EngineMetrics.__doc__ or "").split("Attributes:")[1].splitlines()
    told = dict(line.strip().split(": ", 1) for line in lines if ": " in line)
    return {one.name: told[one.name].replace("`", "") for one in fields(EngineMetrics)}
