"""The model's own answers, by the package's engine with many requests at once; resumable."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.settings import SearchSettings

# requests at once
TOGETHER = 64

Row = dict[str, Any]


def chat_text(tokenizer: Any, prompt: str, said: str = "") -> str:
    """A request in the policy's chat template, up to the answer's first words."""
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    return text + said


def sample_answers(
    engine: SaffronEngine, rows: Sequence[Row], out: Path, *, max_tokens: int, top_p: float = 0.9, greedy: bool = False
) -> list[Row]:
    """Continue answers, each with a seed of its own text, and write them as they come.

    Args:
        engine: The policy's.
        rows: With `prompt`, and `opening` where the answer has begun already; anything else is kept.
        out: A JSONL file; rows whose prompt and opening are there already are not sampled again.
        max_tokens: Of a continuation.
        top_p: The nucleus that is sampled from.
        greedy: Whether to take the likeliest token instead.

    Returns:
        All rows with `answer`, the continuation, and `ended`, whether it came to its end, in the order of `rows`.
    """
    done = {_key(row): row for row in read_jsonl(out)}
    out.parent.mkdir(parents=True, exist_ok=True)
    missing = [row for row in rows if _key(row) not in done]

    def answer(row: Row) -> Row:
        said = row.get("opening", "")
        ids = engine.tokenizer.encode(chat_text(engine.tokenizer, row["prompt"], said), add_special_tokens=False)
        settings = SearchSettings(
            search="greedy" if greedy else "sample",
            top_p=top_p,
            temperature=None if greedy else 1.0,
            max_tokens=max_tokens,
            seed=zlib.crc32(f"{row['prompt']}\n{said}".encode()),
        )
        result = engine.generate(ids, settings=settings, cache_salt="recipe")
        return {**row, "answer": result.text, "ended": result.finish_reason == "stop"}

    with ThreadPoolExecutor(TOGETHER) as pool, out.open("a", encoding="utf-8") as file:
        for number, future in enumerate(as_completed([pool.submit(answer, row) for row in missing]), 1):
            row = future.result()
            done[_key(row)] = row
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if number % 100 == 0 or number == len(missing):
                file.flush()
                print(f"{out.stem}: {number}/{len(missing)}", flush=True)
    return [done[_key(row)] for row in rows]


def read_jsonl(path: Path) -> list[Row]:
    """The rows of a file that this module wrote; none where it is not there yet."""
    if not path.exists():
        return []
    lines: Iterable[str] = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.endswith("}")]


def _key(row: Row) -> tuple[str, str]:
    return row["prompt"], row.get("opening", "")
