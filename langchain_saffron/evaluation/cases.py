"""The cases of a run: which method answers which sample under which attack."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from langchain_saffron.evaluation.attack import Attack, NoAttack
from langchain_saffron.evaluation.methods import Method
from langchain_saffron.evaluation.sample import Sample


@dataclass(frozen=True)
class Case:
    """One answer to be made.

    Attributes:
        method: How.
        attack: Under which attack.
        sample: To what.
        seed: Which of several answers by the same method.
        query: Which of a search's, from 1 on; 0 outside of a search.
    """

    method: Method
    attack: Attack
    sample: Sample
    seed: int = 0
    query: int = 0

    @property
    def key(self) -> str:
        """Its name in the log."""
        parts = (self.method.name, self.attack.name, self.sample.dataset, self.sample.id, str(self.seed))
        return "/".join(parts) + self._asked

    @property
    def search_seed(self) -> int:
        """The search's source of chance: another one for every sample, or all would share their luck."""
        return int.from_bytes(
            sha256(f"{self.sample.dataset}/{self.sample.id}/{self.seed}{self._asked}".encode()).digest()[:4]
        )

    @property
    def _asked(self) -> str:
        return f"/{self.query}" if self.query else ""


def make_cases(
    samples: Sequence[Sample], attacks: Sequence[Attack], methods: Sequence[Method], seeds: int
) -> list[Case]:
    """Every method on every sample under every attack; methods that chance takes part in once a seed.

    What is not harmful is not attacked: it shows what safety costs.
    """
    return [
        Case(method, attack, sample, seed)
        for method in methods
        for attack, kinds in ((*((one, ("harmful",)) for one in attacks), (NoAttack(), ("borderline", "benign"))))
        for sample in samples
        if sample.kind in kinds
        for seed in range(seeds if method.sampled else 1)
    ]
