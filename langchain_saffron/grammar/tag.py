"""One way to call a tool, as text around JSON."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tag:
    """A call: `begin`, JSON that fits `schema`, `end`.

    Attributes:
        begin: The text before the JSON.
        schema: The JSON's schema.
        end: The text behind it.
    """

    begin: str
    schema: dict[str, Any]
    end: str
