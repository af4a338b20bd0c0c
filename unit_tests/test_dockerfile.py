"""The Dockerfile keeps to what the package says: bounds, extras, files, and options that are there."""

import json
import re
import tomllib
from pathlib import Path

from typer.main import get_command

from langchain_saffron.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "examples/docker/Dockerfile").read_text()


def test_it_installs_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(one for one in project["dependencies"] if one.startswith("torch"))
    assert f"'{torch}'" in TEXT
    extras = re.search(r"'\.\[(.*)\]'", TEXT)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


def test_it_copies_what_is_there():
    for line in re.findall(r"^COPY (.*)$", TEXT, re.MULTILINE):
        assert all((ROOT / one).exists() for one in line.split()[:-1])


def test_its_variables_and_command_are_those_of_the_server():
    *_, entry = re.findall(r"^ENTRYPOINT (.*)$", TEXT, re.MULTILINE)
    program, name = json.loads(entry)
    assert program == "saffron"
    serve = get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {f"SAFFRON_{option.name.upper()}" for option in serve.params}
    assert set(re.findall(r"SAFFRON_[A-Z_]+", TEXT)) <= known
