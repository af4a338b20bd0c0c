"""The kitchen's own tokenizer."""

import pytest
from transformers import AutoTokenizer

from langchain_saffron.kitchen import WEIGHTS


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(WEIGHTS / "policy")
