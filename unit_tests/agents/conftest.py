"""Reward models for calls of tools."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.models.prm import ProcessRewardModel
from unit_tests.builders import GEMMA, byte_level_tokenizer


@pytest.fixture(scope="module")
def prm():
    return ProcessRewardModel.from_pretrained(WEIGHTS / "prm")


@pytest.fixture(scope="module")
def llama_guard():
    """A random guard that its own chat template asks, which wants turns to alternate from the user's on."""
    tokenizer = byte_level_tokenizer(600, GEMMA, words=("safe", "unsafe"))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=150,
    )  # fmt: skip
    torch.manual_seed(0)
    return ProcessRewardModel.from_pretrained(LlamaForCausalLM(config).eval(), "chat", tokenizer=tokenizer)
