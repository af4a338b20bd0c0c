"""A head on a policy: its rewards, what it costs, and which policies it refuses."""

import json

import numpy as np
import pytest
import torch

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.cli.info import reward_facts
from langchain_saffron.engine.said_nodes import SaidNodes
from langchain_saffron.errors import ModelLoadError, SettingsError
from langchain_saffron.evaluation.runner import as_langchain
from langchain_saffron.evaluation.target_scoring import TargetScorer
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.models.head_map import HeadMap
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.policy_identity import PolicyIdentity
from langchain_saffron.models.reward_head import RewardHead
from langchain_saffron.search.rewards import RewardTable
from unit_tests.builders import CHATML
from unit_tests.families import VOCABULARY
from unit_tests.tiny_models import PROMPTS, random_model, tiny_tokenizer

LAYER = 2


def random_head(family: str = "llama", seed: int = 0, layer: int = LAYER) -> RewardHead:
    """An untrained head, but not of zeros."""
    torch.manual_seed(5)
    map = HeadMap(32, 32, 8)
    torch.nn.init.normal_(map.outer.weight, std=0.3)
    identity = PolicyIdentity.of(random_model(family, seed), tiny_tokenizer(), layer, "a tiny policy")
    seen = torch.ones(VOCABULARY, dtype=torch.bool)
    seen[::9] = False
    return RewardHead(layer, map, torch.randn(VOCABULARY), seen, identity, 0.5)


def expected_rewards(head: RewardHead, family: str, tokens: list[int]) -> torch.Tensor:
    """By the definition: the hidden states that transformers gives, and every row of the unembedding."""
    model = random_model(family)
    with torch.inference_mode():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[head.layer][0, -1]
        vector, level = head.map(states)
        return model.get_output_embeddings().weight @ vector + level + head.bias


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen2-moe"])
def test_answers_carry_the_rewards_of_the_definition(family: str):
    engine = SaffronEngine(random_model(family), tiny_tokenizer(), random_head(family))
    assert torch.allclose(
        engine.reward_model.rewards(PROMPTS[2]), expected_rewards(engine.reward_model, family, PROMPTS[2]), atol=1e-4
    )
    handles = [
        engine.submit(prompt, settings=SearchSettings(width=width, max_tokens=6, min_tokens=6))
        for prompt, width in zip(PROMPTS[:3], (1, 3, 8), strict=True)
    ]
    for prompt, handle in zip(PROMPTS, handles, strict=False):
        result = handle.result()
        rewards = expected_rewards(engine.reward_model, family, [*prompt, *result.token_ids[:-1]])
        assert result.reward == pytest.approx(float(rewards[result.token_ids[-1]]), abs=1e-3)
    engine.close()


def test_it_costs_no_second_forward():
    engine = SaffronEngine(random_model("llama"), tiny_tokenizer(), random_head())
    settings = SearchSettings(width=4, max_tokens=6, min_tokens=6)
    stats = engine.generate(PROMPTS[0], settings=settings).stats
    assert engine.scheduler.forwards == {"policy": 6}
    assert stats.reward_calls == stats.policy_calls > 6
    assert stats.reward_tokens == 0
    head, policy = engine.reward_model, engine.policy.flops
    depths = np.arange(len(PROMPTS[0]) + stats.policy_tokens)
    most = stats.policy_calls * (head.map.flops + head.unembedding.product * VOCABULARY)
    rows = stats.policy_tokens * policy.row + stats.policy_calls * policy.head
    attention = stats.tflops * 1e12 - rows - stats.policy_calls * head.map.flops
    assert 0 < attention < policy.full * float((depths + 1).sum()) + most
    facts = reward_facts(engine)
    assert facts["architecture"] == "head on layer 2 of the policy"
    assert facts["cache_bytes"] == 0
    plain = engine.generate(PROMPTS[0], settings=SearchSettings(search="greedy", max_tokens=6)).stats
    assert plain.reward_calls == 0
    risk = engine.look_ahead(PROMPTS[0])
    assert risk.expected is not None
    engine.close()


def test_what_is_written_is_what_is_loaded(tmp_path):
    head = random_head()
    head.save_pretrained(tmp_path / "head", reward_source="nobody")
    again = RewardHead.from_pretrained(tmp_path / "head")
    engines = [SaffronEngine(random_model("llama"), tiny_tokenizer(), one) for one in (head, again)]
    one, other = (engine.reward_model.rewards(PROMPTS[1]) for engine in engines)
    assert torch.equal(one, other)
    assert (again.layer, again.safety_threshold, again.details["reward_source"]) == (LAYER, 0.5, "nobody")
    random_model("llama").save_pretrained(tmp_path / "policy")
    tiny_tokenizer().save_pretrained(tmp_path / "policy")
    loaded = SaffronEngine.from_pretrained(tmp_path / "policy", tmp_path / "head")
    assert torch.allclose(loaded.reward_model.rewards(PROMPTS[1]), one, atol=1e-5)
    for engine in (*engines, loaded):
        engine.close()
    with pytest.raises(ModelLoadError, match="pass it as reward_model= beside the policy"):
        MultifurcationRewardModel.from_pretrained(tmp_path / "head")
    with pytest.raises(SettingsError, match=r"engine\.reward_model"):
        again.rewards([5])


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3", {}, "architecture 'LlamaForCausalLM', here 'Qwen3ForCausalLM'"),
        ("llama", {"num_hidden_layers": 2}, "layers 3, here 2"),
        ("llama", {"seed": 7}, "differ from those that the head was trained on"),
    ],
)
def test_another_policy_is_refused_by_name(family: str, changes: dict[str, int], message: str):
    with pytest.raises(ModelLoadError, match=message):
        SaffronEngine(random_model(family, **changes), tiny_tokenizer(), random_head())


def test_another_layer_or_tokenizer_is_refused(tmp_path):
    head = random_head()
    head.save_pretrained(tmp_path / "head")
    file = tmp_path / "head" / "mrm_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "layer": 3}))
    with pytest.raises(ModelLoadError, match="states of the policy's layer 3 differ"):
        SaffronEngine(random_model("llama"), tiny_tokenizer(), RewardHead.from_pretrained(tmp_path / "head"))
    file.write_text(json.dumps({**config, "policy": {**config["policy"], "vocabulary_hash": "0"}}))
    with pytest.raises(ModelLoadError, match="vocabulary_hash '0', here"):
        SaffronEngine(random_model("llama"), tiny_tokenizer(), RewardHead.from_pretrained(tmp_path / "head"))
    file.write_text(json.dumps({**config, "policy": {}}))
    with pytest.raises(ModelLoadError, match="damaged"):
        RewardHead.from_pretrained(tmp_path / "head")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_its_policy_may_compute_in_a_narrower_type(dtype: torch.dtype):
    model = random_model("llama").to(dtype)
    engine = SaffronEngine(model, tiny_tokenizer(), random_head())
    expected = expected_rewards(engine.reward_model, "llama", PROMPTS[2])
    assert float((engine.reward_model.rewards(PROMPTS[2]) - expected).abs().mean()) < 0.1 * float(expected.std())
    engine.close()


def test_thoughts_are_judged_by_nobody_where_they_are_not_to_be_seen():
    said = SaidNodes.__new__(SaidNodes)
    # of three nodes the second is within a thought
    said._rows = [0, -1, 0]
    found = said.rewards_of_all(RewardTable(torch.arange(3.0)[:, None].repeat(1, 5)), 5).whole()
    assert found[:, 0].tolist() == [0.0, torch.inf, 2.0]


def test_an_adaptive_attack_reads_the_head():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    engine = SaffronEngine(random_model("llama"), tokenizer, random_head())
    asked, target = [{"role": "user", "content": "hi"}], [7, 30, 21]
    plain, adaptive = (TargetScorer(engine, both).score([asked], target)[0] for both in (False, True))
    read = PromptRenderer.for_engine(engine).render(as_langchain(asked)).policy_ids
    rewards = [engine.reward_model.rewards([*read, *target[:i]])[token] for i, token in enumerate(target)]
    assert adaptive - plain == pytest.approx(float(torch.stack(rewards).sigmoid().log().mean()), abs=1e-4)
    engine.close()
