"""A tiny random sentence encoder in a directory, and the real one where it is installed."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from langchain_saffron.evaluation.sentence_encoder import PACKAGE, SentenceEncoder, find_encoder

needs_encoder = pytest.mark.skipif(find_encoder() is None, reason=f"{PACKAGE} is not installed")


def tiny_encoder_in(directory: Path) -> Path:
    """A directory with a random BERT that reads bytes, and its tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: i for i, one in enumerate(["[PAD]", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=257, hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=256, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(directory)
    return directory


def tiny_encoder(directory: Path) -> SentenceEncoder:
    return SentenceEncoder.load(tiny_encoder_in(directory))
