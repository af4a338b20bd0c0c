"""A long prompt beside requests that are being answered: it is read in small portions, and alone in large ones."""

import time
from typing import Any

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from unit_tests.tiny_models import PROMPTS, random_model, random_reward_model, tiny_tokenizer

LONG = (PROMPTS[0] * 200)[:230]


@pytest.fixture
def forwards(monkeypatch):
    """An engine, and the rows of each forward of its policy."""
    engine = SaffronEngine(random_model("llama", max_position_embeddings=1024), tiny_tokenizer(), random_reward_model())
    rows: list[int] = []
    forward = engine.policy.forward

    def counted(slots: list[int], *of: Any, **more: Any) -> Any:
        rows.append(len(slots))
        return forward(slots, *of, **more)

    monkeypatch.setattr(engine.policy, "forward", counted)
    yield engine, rows
    engine.close()


def test_a_prompt_alone_is_read_in_large_portions(forwards):
    engine, rows = forwards
    engine.generate(LONG, settings=SearchSettings(width=1, max_tokens=2, mask="off"))
    assert max(rows) > 200


def test_beside_a_stream_it_is_read_in_small_ones(forwards):
    engine, rows = forwards
    stream = engine.submit(PROMPTS[1], settings=SearchSettings(width=1, max_tokens=100, min_tokens=100, mask="off"))
    while not rows:
        time.sleep(0.001)
    rows.clear()
    engine.generate(LONG, settings=SearchSettings(width=1, max_tokens=2, mask="off"))
    assert len(stream.result().token_ids) == 100
    assert sum(rows) >= len(LONG)
    assert max(rows) <= 64 + 4 + 1
