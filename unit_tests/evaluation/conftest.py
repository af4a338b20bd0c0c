"""An engine of random models, with a reward model of each kind."""

import pytest

from langchain_saffron import SaffronEngine
from unit_tests.builders import CHATML
from unit_tests.tiny_models import random_model, random_prm, random_reward_model, tiny_tokenizer


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return SaffronEngine(
        random_model("llama", max_position_embeddings=512),
        tokenizer,
        random_reward_model(shift=2.0, max_position_embeddings=512),
        process_reward_model=random_prm(),
    )
