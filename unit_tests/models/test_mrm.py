"""MRM directories: both layouts, merging, and everything that is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from langchain_saffron import MultifurcationRewardModel
from langchain_saffron.errors import ModelLoadError, VocabularyMismatchError
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.builders import byte_level_tokenizer
from unit_tests.tiny_models import (
    VOCABULARY,
    plain_logits,
    random_engine,
    random_model,
    random_reward_model,
    tiny_tokenizer,
)

RANK, ALPHA = 4, 8


def write_adapter(directory, model, base_name, scale=0.3, seed=0):
    torch.manual_seed(seed)
    weights = {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, module.in_features) * scale
            weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(module.out_features, RANK) * scale
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "base_model_name_or_path": base_name}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, directory / "adapter_model.safetensors")
    return weights


@pytest.fixture
def base(tmp_path):
    directory = tmp_path / "guard"
    model = random_model("llama", 4)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def published(tmp_path, base):
    """A directory in the published layout, as `torch.save` of a Parameter on disk writes it."""
    directory = tmp_path / "published"
    write_adapter(directory, random_model("llama", 4), "some-org/guard")
    generator = torch.Generator().manual_seed(1)
    bias = torch.nn.Parameter(torch.randn(VOCABULARY, generator=generator).to(torch.bfloat16))
    torch.save(bias, directory / "lm_head_bias.pt")
    torch.save(torch.rand(VOCABULARY, generator=generator) < 0.2, directory / "unseen_mask.pt")
    return directory


def expected_rewards(published, base, tokens):
    """M(s) = W f(s) + b with the adapter applied beside the weights, not merged."""
    model = random_model("llama", 4)
    weights = load_file(published / "adapter_model.safetensors")
    hooks = []
    for name, module in model.named_modules():
        if f"base_model.model.{name}.lora_A.weight" in weights:
            a = weights[f"base_model.model.{name}.lora_A.weight"]
            b = weights[f"base_model.model.{name}.lora_B.weight"]
            hooks.append(
                module.register_forward_hook(
                    lambda _, inputs, output, a=a, b=b: output + inputs[0] @ a.T @ b.T * ALPHA / RANK
                )
            )
    logits = plain_logits(model, tokens)
    return logits + torch.load(published / "lm_head_bias.pt", weights_only=True).float()


def test_the_published_layout_loads_merged_with_its_bias(published, base):
    mrm = MultifurcationRewardModel.from_pretrained(published, base=base)
    tokens = [5, 9, 100, 33]
    rewards = mrm.rewards(tokens)
    assert rewards.dtype == torch.float32
    assert rewards.shape == (VOCABULARY,)
    assert torch.allclose(rewards, expected_rewards(published, base, tokens), atol=1e-4)
    assert not torch.allclose(rewards, plain_logits(random_model("llama", 4), tokens), atol=0.1)
    unseen = torch.load(published / "unseen_mask.pt", weights_only=True)
    assert torch.equal(mrm.seen, ~unseen)
    assert mrm.template == RewardTemplate.published()
    assert mrm.safety_threshold is None


def test_the_engine_scores_what_rewards_says(published, base):
    mrm = MultifurcationRewardModel.from_pretrained(published, base=base)
    engine = random_engine("llama", mrm)
    result = engine.generate([5, 9, 100], settings=engine.resolve(None, 3).model_copy(update={"max_tokens": 6}))
    last = mrm.rewards([5, 9, 100, *result.token_ids[:-1]])[result.token_ids[-1]]
    if result.finish_reason == "length":
        assert result.reward == pytest.approx(float(last), abs=1e-4)


def test_a_loaded_base_is_not_changed(published, base):
    model = random_model("llama", 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    mrm = MultifurcationRewardModel.from_pretrained(published, base=model, tokenizer=tiny_tokenizer())
    assert torch.allclose(mrm.rewards([5, 9]), expected_rewards(published, base, [5, 9]), atol=1e-4)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_our_layout_round_trips_merged(tmp_path, published, base):
    mrm = MultifurcationRewardModel.from_pretrained(published, base=base)
    mrm.safety_threshold = 1.25
    mrm.save_pretrained(tmp_path / "ours", reward_source="a guard")
    files = {p.name for p in (tmp_path / "ours").iterdir()}
    assert {"mrm_config.json", "mrm.safetensors", "model.safetensors"} <= files
    assert not any(name.endswith((".pt", ".bin", ".pkl")) for name in files)
    again = MultifurcationRewardModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(again.rewards([5, 9]), mrm.rewards([5, 9]))
    assert torch.equal(again.seen, mrm.seen)
    assert again.safety_threshold == 1.25
    assert again.template == mrm.template
    assert again.details["reward_source"] == "a guard"


def test_our_layout_round_trips_with_an_adapter_on_a_base_beside_it(tmp_path, published, base):
    mrm = MultifurcationRewardModel.from_pretrained(published, base=base)
    mrm.save_pretrained(tmp_path / "ours", base_model="../guard", adapter=published)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(tmp_path / "ours", moved / "ours")
    shutil.move(base, moved / "guard")
    again = MultifurcationRewardModel.from_pretrained(moved / "ours")
    assert torch.allclose(again.rewards([5, 9]), mrm.rewards([5, 9]), atol=1e-6)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match="nowhere"):
        MultifurcationRewardModel.from_pretrained(tmp_path / "nowhere")


def test_an_empty_directory_is_no_mrm(tmp_path, base):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError):
        MultifurcationRewardModel.from_pretrained(tmp_path / "empty", base=base)


def test_a_pickle_with_code_is_refused_and_not_run(published, base, tmp_path):
    import pickle

    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(flag), "w"))

    (published / "lm_head_bias.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelLoadError, match=r"lm_head_bias\.pt"):
        MultifurcationRewardModel.from_pretrained(published, base=base)
    assert not flag.exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "lm_head_bias.pt", "unseen_mask.pt"])
def test_a_truncated_file_is_named(published, base, name):
    path = published / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelLoadError, match=r"adapter|lm_head_bias|unseen_mask"):
        MultifurcationRewardModel.from_pretrained(published, base=base)


def test_a_truncated_base_is_named(published, base):
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ModelLoadError, match="base"):
        MultifurcationRewardModel.from_pretrained(published, base=base)


def test_weights_that_are_missing_are_not_made_up(published, base):
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="up_proj"):
        MultifurcationRewardModel.from_pretrained(published, base=base)


def test_a_bias_of_another_size_is_refused(published, base):
    torch.save(torch.zeros(VOCABULARY + 1), published / "lm_head_bias.pt")
    with pytest.raises(ModelLoadError, match="bias"):
        MultifurcationRewardModel.from_pretrained(published, base=base)


def test_an_adapter_of_another_base_is_refused(published, tmp_path):
    other = tmp_path / "other"
    random_model("llama", 1, hidden_size=64).save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(ModelLoadError, match="another base"):
        MultifurcationRewardModel.from_pretrained(published, base=other)


def test_an_adapter_that_cannot_be_merged_is_refused(published, base):
    config = json.loads((published / "adapter_config.json").read_text())
    (published / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(ModelLoadError, match="use_dora"):
        MultifurcationRewardModel.from_pretrained(published, base=base)


def test_a_base_that_is_not_named_is_asked_for(published):
    config = json.loads((published / "adapter_config.json").read_text())
    (published / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ModelLoadError, match="reward_base="):
        MultifurcationRewardModel.from_pretrained(published)


def test_another_vocabulary_is_refused_with_the_difference():
    other = random_reward_model()
    other.tokenizer = byte_level_tokenizer(vocab_size=VOCABULARY - 8, pattern=None)
    renamed = byte_level_tokenizer(vocab_size=290)
    other.tokenizer = renamed
    with pytest.raises(VocabularyMismatchError, match="ids differ"):
        random_engine("llama", other)


def test_a_smaller_reward_vocabulary_leaves_the_rest_unseen():
    mrm = random_reward_model(unseen=0)
    engine = random_engine("llama", mrm, vocab_size=VOCABULARY + 30)
    result = engine.generate([3, 4, 5], settings=engine.resolve(None, 3).model_copy(update={"max_tokens": 30}))
    assert all(token < VOCABULARY or token in engine.end_tokens for token in result.token_ids)
