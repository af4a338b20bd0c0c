"""The architecture as `CONTRIBUTING.md` draws it: imports point downwards and form no circle, and the core knows no
LangChain."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import langchain_saffron

PACKAGE = Path(langchain_saffron.__file__).parent

# from the ground up; what stands in one line does not import each other
LAYERS = (
    ("errors",),
    ("settings", "extras", "embedded"),
    ("runtime",),
    ("search", "cache", "templates"),
    ("grammar", "models"),
    ("engine", "training", "tools", "kitchen"),
    ("shared_budget", "smollm2"),
    ("interface",),
    ("chat_models", "llms", "agents", "evaluation", "bench", "explain"),
    ("server",),
    ("cli",),
    ("__main__", "__init__"),
)
CORE = ("engine", "cache", "search", "grammar", "models", "templates", "training", "runtime")


@cache
def modules() -> dict[str, ast.Module]:
    """Every module below the package, by its dotted name there; a folder's `__init__` bears the folder's name."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports anywhere in it, inside functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole.removeprefix("langchain_saffron.") in modules() else str(node.module)


def own_imports(name: str) -> set[str]:
    """The modules of this package that one of them imports."""
    package = "langchain_saffron."
    return {one.removeprefix(package) for one in imported(modules()[name]) if one.startswith(package)}


def layer(name: str) -> int:
    """On which floor a module lives."""
    folder = name.split(".")[0]
    return next(i for i, folders in enumerate(LAYERS) if folder in folders)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_downwards(name: str):
    own = name.split(".")[0]
    upward = {one for one in own_imports(name) if one.split(".")[0] != own and layer(one) >= layer(name)}
    assert not upward


def test_imports_form_no_circle():
    below = {name: own_imports(name) for name in modules()}
    free: set[str] = set()
    while ready := {name for name in below if name not in free and below[name] <= free}:
        free |= ready
    assert not below.keys() - free


@pytest.mark.parametrize("folder", CORE)
def test_the_core_knows_no_langchain(folder: str):
    names = [name for name in modules() if name.split(".")[0] == folder]
    assert names
    for name in names:
        assert not [one for one in imported(modules()[name]) if one.startswith(("langchain_core", "langchain."))]


def test_the_root_shows_the_plan():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 10
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        folder for folders in LAYERS for folder in folders if (PACKAGE / folder).is_dir()
    }
