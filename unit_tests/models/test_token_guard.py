"""Guards that label every token: what a plain forward says there is the reward of the prefix."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LlamaForTokenClassification,
    Qwen3ForTokenClassification,
    Qwen3Model,
)

from langchain_saffron import ProcessRewardModel
from langchain_saffron.errors import ModelLoadError, UnsupportedModelError
from langchain_saffron.models.stream_guard import StreamGuard
from langchain_saffron.models.text_prm import TextRewardModel
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.guards import load_guard
from unit_tests.builders import byte_level_tokenizer
from unit_tests.families import FAMILIES
from unit_tests.models.scoring import awkward_pairs, forwards, tokens
from unit_tests.tiny_models import tiny_tokenizer

LEVELS = {0: "Safe", 1: "Unsafe", 2: "Controversial"}
KINDS = {"llama": LlamaForTokenClassification, "qwen3": Qwen3ForTokenClassification}


def labelled(family):
    torch.manual_seed(4)
    config = FAMILIES[family]()
    config.num_labels, config.id2label = 3, LEVELS
    config.label2id = {name: index for index, name in LEVELS.items()}
    model = KINDS[family](config).eval()
    torch.nn.init.normal_(model.score.bias)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A token classifier on the disk, and a checkpoint of the shape of Qwen3Guard-Stream's."""
    places = {}
    for family in KINDS:
        places[family] = tmp_path_factory.mktemp(family)
        labelled(family).save_pretrained(places[family])
    config = FAMILIES["qwen3"]()
    config.guard_inner_size, config.response_risk_level_map = 16, {str(index): name for index, name in LEVELS.items()}
    torch.manual_seed(6)
    place = places["stream"] = tmp_path_factory.mktemp("stream")
    StreamGuard(config).save_pretrained(place)
    told = json.loads((place / "config.json").read_text())
    code = {"AutoConfig": "configuration_guard.GuardConfig", "AutoModel": "modeling_guard.Qwen3ForGuardModel"}
    told |= {"architectures": ["Qwen3ForGuardModel"], "auto_map": code}
    del told["id2label"]
    (place / "config.json").write_text(json.dumps(told))
    weights = load_file(place / "model.safetensors")
    weights["risk_level_category_layernorm.weight"] += torch.randn(16)
    others = {"query_risk_level_head.weight": torch.randn(3, 16), "category_head.weight": torch.randn(8, 16)}
    save_file({**weights, **others}, place / "model.safetensors", {"format": "pt"})
    for place in places.values():
        tiny_tokenizer().save_pretrained(place)
    return places


def logits_of(saved, kind, ids):
    """Of every token, by one forward of transformers' own classes without a cache."""
    ids = torch.tensor([ids])
    with torch.inference_mode():
        if kind != "stream":
            return KINDS[kind].from_pretrained(saved[kind]).eval()(input_ids=ids, use_cache=False).logits[0]
        weights = load_file(saved[kind] / "model.safetensors")
        states = Qwen3Model.from_pretrained(saved[kind]).eval()(input_ids=ids, use_cache=False).last_hidden_state[0]
        inner = states @ weights["risk_level_category_pre.weight"].T
        inner = inner * torch.rsqrt(inner.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (inner * weights["risk_level_category_layernorm.weight"]) @ weights["risk_level_head.weight"].T


@pytest.mark.parametrize("kind", ["llama", "qwen3", "stream"])
def test_rewards_are_the_log_odds_at_every_token(saved, kind):
    prm = ProcessRewardModel.from_pretrained(saved[kind])
    assert prm.weights == {0: 1.0, 1: -1.0}
    assert "Safe - Unsafe" in prm.source
    pairs = awkward_pairs()
    for (prompt, answer), rewards in zip(pairs, prm.score(pairs), strict=True):
        own = logits_of(saved, kind, [*prompt, *answer])[len(prompt) :]
        torch.testing.assert_close(rewards, own[:, 0] - own[:, 1], atol=1e-5, rtol=1e-5)
    assert prm.score(pairs)[0].std() > 1e-3


def test_all_prefixes_cost_one_forward_of_each_token(saved):
    prm = ProcessRewardModel.from_pretrained(saved["stream"])
    with forwards(prm) as rows:
        prm.prefix_rewards(tokens(40), tokens(30, 1))
    assert rows == [40, 30]


def test_a_stream_guard_reads_conversations_as_qwen_writes_them(saved):
    prm = ProcessRewardModel.from_pretrained(saved["stream"])
    asked = prm.tokenizer.decode(prm.prompt_ids([("system", "Be brief."), ("user", "Hi")]))
    ended = "<|im_end|>\n<|im_start|>"
    assert asked == f"<|im_start|>system\nBe brief.{ended}user\nHi{ended}assistant\n"


def test_labels_may_be_chosen(saved):
    prm = ProcessRewardModel.from_pretrained(saved["qwen3"], unsafe="Controversial")
    prompt, answer = tokens(9), tokens(7, 1)
    own = logits_of(saved, "qwen3", [*prompt, *answer])[9:]
    torch.testing.assert_close(prm.prefix_rewards(prompt, answer), own[:, 0] - own[:, 2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen3", "stream"])
def test_it_annotates_for_a_policy_of_other_tokens(saved, kind):
    policy = byte_level_tokenizer(290)
    guard = load_guard(saved[kind], policy)
    assert guard.decoder is not None
    model = TextRewardModel(guard, policy)
    asked, response = model.prompt_ids([("user", "How is rice cooked?")]), safe_encoder(policy).encode("Wash the rice.")
    rewards = model.score([(asked, response)])[0]
    for end in range(1, len(response) + 1):
        text = safe_encoder(guard.tokenizer).encode(policy.decode(response[:end]))
        own = logits_of(saved, kind, [*asked, *text])[-1]
        assert float(rewards[end - 1]) == pytest.approx(float(own[0] - own[1]), abs=1e-4)


def test_a_body_that_reads_from_both_ends_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForTokenClassification(BertConfig(vocab_size=300, **sizes, id2label=LEVELS)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="BertForTokenClassification reads a text from both ends"):
        load_guard(tmp_path, tiny_tokenizer())
    both = labelled("qwen3")
    both.config.is_causal = False
    with pytest.raises(UnsupportedModelError, match="from both ends"):
        ProcessRewardModel.from_pretrained(both, tokenizer=tiny_tokenizer())


def test_a_checkpoint_without_its_head_is_refused(saved, tmp_path):
    for file in saved["stream"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["risk_level_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match="risk_level_head"):
        ProcessRewardModel.from_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    del told["guard_inner_size"]
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelLoadError, match="guard_inner_size"):
        ProcessRewardModel.from_pretrained(tmp_path)
