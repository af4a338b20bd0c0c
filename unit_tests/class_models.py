"""Random Pydantic classes: dates, decimals, unions, enumerations, nested lists, aliases, recursion."""

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Annotated, Any, Literal, Optional, Union
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, create_model

PATTERNS = (r"^[A-Z]{2}\d{3}$", r"^(foo|barbaz)+$", r"^\d{3}-\d{4}$", r"^a.*z$")
ALIASES = ("Name", "some key", "é", "x-")


class ClassMaker:
    """Makes one class, and those that it is made of."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = Random(seed)
        self._made: list[type[BaseModel]] = []

    def make(self) -> type[BaseModel]:
        """The class of the seed."""
        return self._class(self._random.randint(0, 3))

    def _class(self, depth: int) -> type[BaseModel]:
        chance = self._random
        if self._made and chance.random() < 0.2:
            return chance.choice(self._made)
        fields: dict[str, Any] = {}
        for number in range(chance.randint(1, 4)):
            kind = self._type(depth)
            alias = {"alias": f"{chance.choice(ALIASES)}{number}"} if chance.random() < 0.3 else {}
            optional = chance.random() < 0.35
            fields[f"f{number}"] = (Optional[kind], Field(None, **alias)) if optional else (kind, Field(..., **alias))  # noqa: UP045
        name = f"Class{len(self._made)}Of{self._seed}"
        if chance.random() < 0.2:
            fields["kids"] = (list[name], Field(default_factory=list))  # type: ignore[valid-type]
        if chance.random() < 0.15:
            fields["next"] = (Optional[name], Field(...))  # type: ignore[valid-type]  # noqa: UP045
        made = create_model(name, __config__=ConfigDict(extra=chance.choice(["ignore", "forbid"])), **fields)
        made.model_rebuild(_types_namespace={name: made})
        self._made.append(made)
        return made

    def _type(self, depth: int) -> Any:
        chance = self._random
        kind = chance.randrange(14)
        if depth <= 0 or kind < 5:
            return self._leaf()
        inner = self._type(depth - 1) if kind < 11 or kind == 12 else None
        if kind == 6:
            return Annotated[list[inner], Field(min_length=chance.randint(0, 2), max_length=chance.randint(2, 5))]
        if kind == 11:
            return set[chance.choice([str, int, Literal["a", "b", "c"]])]  # type: ignore[misc]
        if kind == 13:
            return self._class(depth - 1)
        pairs: dict[int, Any] = {
            5: list[inner],
            7: Optional[inner],  # noqa: UP045
            9: dict[str, inner],
            12: dict[Literal["a", "b"], inner],
        }  # type: ignore[valid-type]
        if kind in pairs:
            return pairs[kind]
        other = self._type(depth - 1)
        return Union[inner, other] if kind == 8 else tuple[inner, other]  # noqa: UP007

    def _leaf(self) -> Any:
        chance = self._random
        values = {f"v{i}": chance.choice(["red", f"long value {i}", f"x{i}"]) for i in range(chance.randint(1, 5))}
        digits = {"max_digits": chance.randint(2, 8), "decimal_places": 2}
        whole = {"ge": chance.randint(-100, 0), "le": chance.randint(1, 10 ** chance.randint(1, 9))}
        size = {"min_length": chance.randint(0, 5), "max_length": chance.randint(6, 30)}
        leaves: list[Any] = [
            date, datetime, time, timedelta, UUID, bool, None, int, float, str, Literal["alpha", "beta", 3, True],
            Decimal, Annotated[Decimal, Field(**digits)], Annotated[Decimal, Field(gt=0, lt=chance.randint(5, 500))],
            enum.Enum(f"Enum{chance.randrange(10**6)}", values, type=str), Annotated[int, Field(**whole)],
            Annotated[int, Field(ge=-(2**63), le=2**63 - 1)], Annotated[str, Field(**size)],
            Annotated[str, Field(pattern=chance.choice(PATTERNS))],
            Annotated[float, Field(gt=-10 * chance.random(), le=1000 * chance.random())],
            Annotated[float, Field(multiple_of=chance.choice([0.5, 0.25, 5]))],
        ]  # fmt: skip
        return chance.choice(leaves)
