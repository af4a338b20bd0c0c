"""What a missing extra says, and that it is an `ImportError` too."""

import sys
import tomllib
from pathlib import Path

import pytest

from langchain_saffron import extras
from langchain_saffron.errors import ExtraRequiredError, SaffronError
from langchain_saffron.extras import EVALUATION, GRAMMARS, Extra

NOWHERE = Extra("some", "this needs", ("json", "no_such_package", "nor_this_one"))


def test_what_is_missing_is_named_with_the_command_that_brings_it():
    assert GRAMMARS.available()
    assert not NOWHERE.available()
    with pytest.raises(ExtraRequiredError, match="this needs no_such_package, nor_this_one: pip install") as caught:
        NOWHERE.require()
    assert "'langchain-saffron[some]'" in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, SaffronError)


def test_a_package_that_does_not_load_is_missing(monkeypatch):
    assert EVALUATION.load("pyarrow.parquet") is sys.modules["pyarrow.parquet"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert not EVALUATION.available()
    with pytest.raises(ExtraRequiredError, match="evaluating needs pyarrow: pip install"):
        EVALUATION.load("pyarrow")


def test_every_extra_is_one_that_something_needs():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # of the scripts and the tests, not of the package
    others = {"examples", "test", "dev"}
    needed = {one.name for one in vars(extras).values() if isinstance(one, Extra)}
    assert set(project["optional-dependencies"]) - others == needed
