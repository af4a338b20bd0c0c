"""GGUF files as models: the weights as they were written, plain, with their tokenizer; guards and bases too."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from langchain_saffron import ChatSaffron, MultifurcationRewardModel, ProcessRewardModel, SaffronEngine, SaffronLLM
from langchain_saffron.errors import ExtraRequiredError, ModelLoadError, ModelNotFoundError, PromptError
from langchain_saffron.models import gguf, packing
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.lora import merge_adapter
from langchain_saffron.models.mrm_quality import RewardModelWarning
from langchain_saffron.settings import SearchSettings
from langchain_saffron.templates.guard_prompt import PRESETS
from langchain_saffron.training.train import train
from unit_tests.builders import byte_level_tokenizer
from unit_tests.gguf_files import TEMPLATE, gguf_tokenizer, write_gguf
from unit_tests.models.test_mrm import write_adapter
from unit_tests.tiny_models import GUARD, PROMPTS, VOCABULARY, generate, plain_logits, random_model
from unit_tests.training.runs import PEFT_WARNINGS, SETTINGS, data

TEXTS = ["Hello, world!", "In 2024 it rained.\n\n  It's <|endoftext|> wet", "Grüße, 世界 🌍", " a  b\tc"]


@pytest.fixture
def file(tmp_path):
    """A tiny llama in Q8_0."""
    path = tmp_path / "tiny.Q8_0.gguf"
    write_gguf(path, quantization="Q8_0")
    return path


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_are_those_that_were_written(tmp_path, quantization, tied):
    path = tmp_path / "tiny.gguf"
    plain = write_gguf(path, random_model(tie_word_embeddings=tied), quantization=quantization)
    loaded = load_causal_lm(path, "policy")
    assert loaded.dtype == torch.float32
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    for prompt in PROMPTS[:3]:
        assert torch.equal(plain_logits(loaded, prompt), plain_logits(plain, prompt))


@pytest.mark.parametrize(
    ("quantization", "dtype", "found"),
    [
        ("Q8_0", "bfloat16", torch.bfloat16),
        ("F32", "float16", torch.float16),
        ("Q8_0", "auto", torch.bfloat16),
        ("F16", "auto", torch.float16),
        ("F32", "auto", torch.float32),
    ],
)
def test_the_dtype_is_the_one_asked_for(tmp_path, quantization, dtype, found):
    path = tmp_path / "tiny.gguf"
    plain = write_gguf(path, quantization=quantization)
    loaded = load_causal_lm(path, "policy", dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {found}
    assert torch.equal(loaded.lm_head.weight, plain.lm_head.weight.to(found))


def test_what_was_loaded_can_be_saved_and_loaded_again(file, tmp_path):
    loaded, tokenizer = load_causal_lm(file, "policy"), load_tokenizer(file, "policy")
    loaded.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(plain_logits(again, PROMPTS[0]), plain_logits(loaded, PROMPTS[0]))
    written = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [written.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert written.chat_template == TEMPLATE
    for config in (tmp_path / "saved").glob("*.json"):
        assert "gguf" not in config.read_text(encoding="utf-8"), config


def test_the_tokenizer_is_the_one_that_was_written(file):
    tokenizer, written = load_tokenizer(file, "policy"), gguf_tokenizer()
    assert tokenizer.is_fast
    assert tokenizer.name_or_path == str(file)
    assert tokenizer.eos_token_id == written.eos_token_id
    for text in TEXTS:
        assert tokenizer.encode(text) == written.encode(text, add_special_tokens=False)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_lies_beside_the_file_is_not_read(file):
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"):
        (file.parent / name).write_text("no JSON")
    (file.parent / "chat_template.jinja").write_text("another model's")
    engine = SaffronEngine.from_pretrained(file)
    assert engine.tokenizer.chat_template == TEMPLATE


@pytest.mark.parametrize("name", [str, lambda path: path, lambda path: path.rename(path.with_name("sha256-of-a-blob"))])
def test_an_engine_answers_from_it_as_generate_does(file, name):
    engine = SaffronEngine.from_pretrained(name(file))
    plain = write_gguf(file.with_name("again"), quantization="Q8_0")
    for prompt in PROMPTS[:3]:
        found = engine.generate(prompt, settings=SearchSettings(search="greedy", max_tokens=30))
        assert list(found.token_ids) == generate(plain, prompt, eos_token_id=gguf_tokenizer().eos_token_id)


def test_its_large_layers_are_packed(file, monkeypatch):
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    engine = SaffronEngine.from_pretrained(file)
    assert any(isinstance(module, packing.PackedLinear) for module in engine.policy.model.modules())


def test_both_langchain_classes_take_it(file):
    chat = ChatSaffron(model=str(file), effort="off", max_tokens=8)
    pieces = [chunk.text for chunk in chat.stream("Hello!")]
    assert "".join(pieces) == chat.invoke("Hello!").text
    llm = SaffronLLM(model=str(file), effort="off", max_tokens=8)
    assert "".join(llm.stream("Hello!")) == llm.invoke("Hello!")


def test_the_same_file_has_the_same_fingerprint(file, tmp_path):
    write_gguf(tmp_path / "other.gguf", random_model(seed=5), quantization="Q8_0")
    one, same, other = (load_causal_lm(path, "policy") for path in (file, file, tmp_path / "other.gguf"))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


def test_a_guard_scores_as_the_plain_one_does(file):
    plain = write_gguf(file.with_name("again"), quantization="Q8_0")
    guard = ProcessRewardModel.from_pretrained(file, GUARD)
    wanted = ProcessRewardModel.from_pretrained(plain, GUARD, tokenizer=gguf_tokenizer())
    assert torch.equal(guard.prefix_rewards(PROMPTS[0], PROMPTS[1]), wanted.prefix_rewards(PROMPTS[0], PROMPTS[1]))


def test_how_a_guard_is_asked_goes_by_the_files_name(tmp_path):
    path = tmp_path / "Llama-Guard-3-1B.Q4_K_M.gguf"
    words = byte_level_tokenizer(vocab_size=290, words=("safe", "unsafe"))
    write_gguf(path, tokenizer=words)
    assert ProcessRewardModel.from_pretrained(path).prompt == PRESETS["llama-guard-3"]


@pytest.mark.parametrize("how", ["named beside", "named by its path", "given"])
def test_a_reward_model_stands_on_it(file, tmp_path, how):
    directory = tmp_path / "mrm"
    plain = write_gguf(tmp_path / "again", quantization="Q8_0")
    named = {"named beside": f"../{file.name}", "named by its path": str(file), "given": "some-org/other"}[how]
    write_adapter(directory, plain, named)
    bias, seen = torch.randn(VOCABULARY), torch.ones(VOCABULARY, dtype=torch.bool)
    save_file({"bias": bias, "seen": seen}, directory / "mrm.safetensors")
    merge_adapter(plain, directory / "adapter_config.json", directory / "adapter_model.safetensors")
    mrm = MultifurcationRewardModel.from_pretrained(directory, str(file) if how == "given" else None)
    assert torch.equal(mrm.rewards(PROMPTS[0]), plain_logits(plain, PROMPTS[0]) + bias)
    mrm.save_pretrained(tmp_path / "merged")
    again = MultifurcationRewardModel.from_pretrained(tmp_path / "merged")
    assert torch.equal(again.rewards(PROMPTS[0]), mrm.rewards(PROMPTS[0]))


@PEFT_WARNINGS
def test_a_reward_model_is_trained_on_it(file, tmp_path):
    out = tmp_path / "mrm"
    with pytest.warns(RewardModelWarning):
        train(data(), out, base=str(file), settings=SETTINGS.model_copy(update={"epochs": 1}))
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == f"../{file.name}"
    with pytest.warns(RewardModelWarning):
        mrm = MultifurcationRewardModel.from_pretrained(out)
    assert mrm.rewards(PROMPTS[0]).isfinite().all()


def test_all_of_its_end_tokens_end_a_turn(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, entries={"tokenizer.ggml.eot_token_id": 7})
    model, tokenizer = load_causal_lm(path, "policy"), load_tokenizer(path, "policy")
    assert end_token_ids(model, tokenizer) == (tokenizer.eos_token_id, 7)


def test_without_a_chat_template_chats_say_so_and_text_is_completed(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, template=None)
    with pytest.raises(PromptError, match="the tokenizer has no chat template: pass chat_template="):
        ChatSaffron(model=str(path), effort="off").invoke("Hello!")
    assert SaffronLLM(model=str(path), effort="off", max_tokens=4).invoke("Hello!") is not None


def test_without_a_tokenizer_one_is_asked_for(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tokenizer=False)
    with pytest.raises(ModelLoadError, match=r"policy '.*tiny.gguf' holds no tokenizer: pass tokenizer="):
        SaffronEngine.from_pretrained(path)
    assert SaffronEngine.from_pretrained(path, tokenizer=gguf_tokenizer()).policy.vocabulary == VOCABULARY


def test_without_the_package_the_extra_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for load in (load_tokenizer, load_causal_lm):
        with pytest.raises(ExtraRequiredError, match=r"pip install 'langchain-saffron\[gguf\]'"):
            load(file, "policy")


@pytest.mark.parametrize("source", ["nowhere.gguf", "./nowhere.gguf", "/no/such/file.GGUF", Path("nowhere.gguf")])
def test_a_file_that_is_nowhere_is_not_found(source):
    for load in (load_tokenizer, load_causal_lm):
        with pytest.raises(ModelNotFoundError, match=r"nowhere|file"):
            load(source, "policy")


def test_a_file_of_a_repository_on_the_hub_is_found_in_its_cache(file, tmp_path, monkeypatch):
    # the cache's layout is the hub's own; nothing is asked of the network
    repository = tmp_path / "hub" / "models--org--tiny-GGUF"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    file.rename(snapshot / file.name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert SaffronEngine.from_pretrained(f"org/tiny-GGUF:{file.name}").policy.vocabulary == VOCABULARY
    with pytest.raises(ModelNotFoundError, match=r"'org/tiny-GGUF:other\.gguf' was not found"):
        SaffronEngine.from_pretrained("org/tiny-GGUF:other.gguf")


def test_it_cannot_be_the_reward_model_itself_nor_be_quantised_again(file):
    with pytest.raises(ModelLoadError, match="is a file, and has to be a directory"):
        SaffronEngine.from_pretrained(file, reward_model=str(file))
    with pytest.raises(ModelLoadError, match="takes no quantization_config"):
        SaffronEngine.from_pretrained(file, quantization_config={"load_in_8bit": True})


def test_a_file_without_room_for_a_copy_is_read_where_it_lies(file, monkeypatch):
    monkeypatch.setattr(gguf, "_WORTH_COPYING", 0)
    loaded = load_causal_lm(file, "policy")
    assert torch.equal(loaded.lm_head.weight, write_gguf(file.with_name("again"), quantization="Q8_0").lm_head.weight)
