"""What an attack is: from a sample to the prompt as the model gets it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.evaluation.sample import Message, Sample

Report = Callable[[str], None]


@dataclass(frozen=True)
class Attacked:
    """A prompt as the model gets it.

    Attributes:
        messages: The turns up to the answer.
        prefill_tokens: How many tokens of `target` are put into the model's mouth.
        target: The harmful answer that they are taken from.
        tools: Schemas of the tools that are shown.
    """

    messages: tuple[Message, ...]
    prefill_tokens: int = 0
    target: str = ""
    tools: tuple[dict[str, Any], ...] = ()


class Attack(ABC):
    """One way to attack. Instances are compared and named by `name`."""

    name: str

    @abstractmethod
    def apply(self, sample: Sample) -> Attacked:
        """The prompt under attack.

        Raises:
            SettingsError: The sample lacks what the attack needs, such as a harmful answer.
        """

    def prepared(self, engine: Any, samples: Sequence[Sample], directory: Path, report: Report | None) -> "Attack":
        """The attack when it has done what it does before any answer; most have nothing to do.

        Args:
            engine: The `SaffronEngine` that is attacked.
            samples: The harmful ones.
            directory: Of the run, where an attack keeps what it has found.
            report: Called with a line of news.
        """
        return self


class QueryAttack(Attack):
    """One that asks something a number of times for each sample; for dataclasses with `name` and `queries`."""

    queries: int

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise SettingsError(f"{self.name}: a search needs at least 1 query")


@dataclass(frozen=True)
class NoAttack(Attack):
    """The prompt as it is."""

    name: str = "none"

    def apply(self, sample: Sample) -> Attacked:
        """The prompt as it is."""
        return Attacked(sample.messages, tools=sample.tools)
