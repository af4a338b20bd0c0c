"""Optional packages: which extra of `langchain-saffron` brings them, and the error where they are missing."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from langchain_saffron.errors import ExtraRequiredError


@dataclass(frozen=True)
class Extra:
    """Packages that something needs and the core install does not bring.

    Attributes:
        name: The extra of `pyproject.toml`.
        need: What needs them, as an error says it: "evaluating needs".
        packages: What has to be importable.
    """

    name: str
    need: str
    packages: tuple[str, ...]

    def available(self) -> bool:
        """Whether all packages are installed; nothing is imported."""
        return not self._missing()

    def require(self) -> None:
        """Refuse to begin without the packages.

        Raises:
            ExtraRequiredError: Some are not installed.
        """
        if missing := self._missing():
            raise self.error(missing)

    def load(self, module: str) -> Any:
        """Import one of the packages, or a module of it.

        Raises:
            ExtraRequiredError: It is not installed, or does not load.
        """
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise self.error([module.partition(".")[0]]) from error

    def error(self, missing: list[str] | None = None) -> ExtraRequiredError:
        """What to raise where packages (by default all of them) are missing."""
        names = ", ".join(missing or self.packages)
        return ExtraRequiredError(f"{self.need} {names}: pip install 'langchain-saffron[{self.name}]'")

    def _missing(self) -> list[str]:
        return [name for name in self.packages if not _installed(name)]


GRAMMARS = Extra("agents", "grammars, structured output and tool calls need", ("llguidance",))
MIDDLEWARE = Extra("agents", "ToolCallGuard needs", ("langchain", "langgraph"))
TRAINING = Extra("train", "annotating and training need", ("peft", "datasets", "pyarrow", "tensorboard", "matplotlib"))
EVALUATION = Extra("eval", "evaluating needs", ("pyarrow", "matplotlib"))
SERVER = Extra("serve", "saffron serve needs", ("fastapi", "uvicorn", "prometheus_client"))
REPLICAS = Extra("ray", "saffron serve --replicas needs", ("ray", "fastapi", "uvicorn", "prometheus_client"))
RAY = Extra("ray", "annotating over Ray needs", ("ray",))
PEER = Extra("peer", "a bench beside llama.cpp needs", ("xllamacpp",))
GGUF = Extra("gguf", "GGUF files need", ("gguf",))


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    # a module that was put into sys.modules by hand has no spec
    except (ImportError, ValueError):
        return False
