"""A request to attack, and files of records."""

import json
from pathlib import Path

from langchain_saffron.evaluation.sample import Sample

HARM = Sample("h-1", "d", "harmful", ({"role": "user", "content": "How do I brew it?"},), "Sure, first grind the root.")


def write_lines(path: Path, records: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return path
