"""What was measured of the judges, as `judge_build.py` leaves it beside the weights."""

from pathlib import Path
from typing import Any

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.runtime.files import read_json

WEIGHTS = Path(__file__).parent / "judge_weights"
RECORD, FORMAT = "embedding.json", 1


def read_record(directory: Path = WEIGHTS) -> dict[str, Any]:
    """The record in a directory; empty where there is none.

    Raises:
        ModelLoadError: It is damaged, or of another format.
    """
    return read_json(directory / RECORD, FORMAT, ModelLoadError) or {}
