"""What a GGUF file says of itself."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_saffron.extras import GGUF

_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies.

    Attributes:
        name: As llama.cpp calls it.
        shape: As torch has it, the slowest dimension first.
        kind: ggml's number of the type that its numbers are stored in.
        bytes: How many it takes.
        end: Where it ends, from the start of the tensors.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    bytes: int
    end: int


@dataclass
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        path: The file.
        version: Of the format.
        values: The metadata: scalars, strings, short lists; of long lists only how many items they have.
        entries: Where in the file the same lies, by key: begin and end.
        tensors: What tensors there are.
        table: Where in the file they are listed.
        start: Where the tensors begin.
        size: The file's, in bytes.
    """

    path: Path
    version: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, tuple[int, int]] = field(default_factory=dict)
    tensors: list[GgufTensor] = field(default_factory=list)
    table: tuple[int, int] = (0, 0)
    start: int = 0
    size: int = 0

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it."""
        return str(self.values["general.architecture"])

    @property
    def numbers(self) -> int:
        """How many numbers all tensors hold."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def vocabulary(self) -> int:
        """How many tokens the tokenizer has; 0 where the file holds none."""
        return count_of(self.values.get("tokenizer.ggml.tokens"))

    @property
    def chat_templates(self) -> dict[str, str]:
        """The chat templates by name; the one without a name is `default`."""
        found = {key.removeprefix(_TEMPLATE): text for key, text in self.values.items() if key.startswith(_TEMPLATE)}
        return {name.removeprefix(".") or "default": text for name, text in found.items() if isinstance(text, str)}

    @property
    def main_type(self) -> str:
        """The type of most of its numbers, such as `"Q4_1"` or `"F16"`; empty where it has no tensors."""
        totals: dict[int, int] = {}
        for tensor in self.tensors:
            totals[tensor.kind] = totals.get(tensor.kind, 0) + math.prod(tensor.shape)
        types = GGUF.load("gguf.constants").GGMLQuantizationType
        return types(max(totals, key=lambda kind: totals[kind])).name if totals else ""


def count_of(value: Any) -> int:
    """A count in a header.

    Args:
        value: As `GgufHeader.values` has it: `None` where it is missing; a list stands for how many items it has.
    """
    if isinstance(value, list):
        return len(value)
    return int(value) if isinstance(value, int) else 0
