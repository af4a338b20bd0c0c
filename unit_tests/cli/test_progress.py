"""What long work says where there is no terminal."""

import math

import pytest

from langchain_saffron.cli import progress
from langchain_saffron.cli.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where the test says so."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def told(capsys):
    return [line.removeprefix("saffron: ") for line in capsys.readouterr().err.splitlines()]


def test_how_much_is_done_how_fast_and_how_long_the_rest_takes(clock, capsys):
    with progress_bar("annotating", 400, "rewards/s") as update:
        # a run that goes on: what was there is no part of its pace
        update(100, 5000)
        clock[0] += 20
        update(110, 5400)
        clock[0] += 20
        update(120, 6000)
        clock[0] += 70
        update(400, 90_000)
    assert told(capsys) == [
        "annotating: 120 of 400, 25 rewards/s, 0:09:20 left",
        "annotating: 400 of 400, 773 rewards/s, 0:00:00 left",
    ]


def test_another_total_is_other_work_with_a_pace_of_its_own(clock, capsys):
    with progress_bar("training", None, "loss") as update:
        update(0, math.nan, 50)
        clock[0] += 40
        update(20, math.nan, 50)
        clock[0] += 60
        update(1, 2.5, 10)
        clock[0] += 40
        update(5, 1.25, 10)
    assert told(capsys) == [
        "training: 20 of 50, 0:01:00 left",
        "training: 1 of 10, loss 2.5000",
        "training: 5 of 10, loss 1.2500, 0:00:50 left",
    ]
