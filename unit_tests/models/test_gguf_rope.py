"""Scaled rotary positions in GGUF files: the model that was written, or an error, never one without its scaling."""

import pytest
import torch

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.models.loading import load_causal_lm
from unit_tests.gguf_files import write_gguf
from unit_tests.tiny_models import VOCABULARY, plain_logits, random_model

PROMPT = [(13 * i) % (VOCABULARY - 10) + 3 for i in range(200)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def scaled(**parameters):
    return random_model(rope_parameters={"rope_theta": 10000.0, **parameters})


def test_llama_3s_factors_are_not_lost(tmp_path):
    path = tmp_path / "tiny.gguf"
    model = write_gguf(path, scaled(**LLAMA3))
    loaded = load_causal_lm(path, "policy")
    assert loaded.config.rope_parameters == LLAMA3
    assert torch.equal(plain_logits(loaded, PROMPT), plain_logits(model, PROMPT))
    assert not torch.equal(plain_logits(loaded, PROMPT), plain_logits(random_model(), PROMPT))


@pytest.mark.parametrize(
    ("kind", "more", "entries"),
    [
        ("linear", {}, {}),
        (
            "yarn",
            {"original_max_position_embeddings": 64},
            {"llama.rope.scaling.original_context_length": 64, "llama.rope.scaling.finetuned": 1},
        ),
    ],
)
def test_factors_that_are_named_are_not_lost(tmp_path, kind, more, entries):
    path = tmp_path / "tiny.gguf"
    named = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0}
    model = write_gguf(path, scaled(rope_type=kind, factor=4.0, **more), entries={**named, **entries})
    loaded = load_causal_lm(path, "policy")
    assert torch.equal(plain_logits(loaded, PROMPT), plain_logits(model, PROMPT))
    loaded.save_pretrained(tmp_path / "saved")
    assert torch.equal(plain_logits(load_causal_lm(tmp_path / "saved", "policy"), PROMPT), plain_logits(model, PROMPT))


@pytest.mark.parametrize("entries", [{"llama.rope.scaling.type": "none"}, {"llama.rope.scaling.factor": 1.0}])
def test_a_scaling_that_does_nothing_is_none(tmp_path, entries):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, entries=entries)
    assert load_causal_lm(path, "policy").config.rope_parameters["rope_type"] == "default"


@pytest.mark.parametrize(
    ("model", "entries", "says"),
    [
        ({}, {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}, "by longrope"),
        (
            {},
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.yarn_log_multiplier": 0.1,
            },
            "by yarn, yarn_log_multiplier",
        ),
        ({**LLAMA3, "low_freq_factor": 2.0}, {}, "by factors of their frequencies other than Llama 3's"),
    ],
)
def test_a_scaling_that_cannot_be_read_is_an_error(tmp_path, model, entries, says):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, scaled(**model) if model else None, entries=entries)
    with pytest.raises(ModelLoadError, match=f"scales its rotary positions {says}"):
        load_causal_lm(path, "policy")
