"""The same exactness on a CUDA device, where the pieces lie, and how often the CPU waits for it.

Run with `pytest -m gpu`; skipped, with a reason, where there is no such device.
"""

import json
import subprocess
import sys
import warnings

import pytest
import torch

from langchain_saffron import MultifurcationRewardModel, SaffronEngine, SearchSettings
from langchain_saffron.grammar import Grammar
from langchain_saffron.kitchen.recipe.mrm import write_corpus
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.prefix_scoring import PrefixScorer
from langchain_saffron.training.dataset import RewardData
from unit_tests.families import CORE, FALLBACKS, FAMILIES
from unit_tests.models.test_static_step import SHAPES
from unit_tests.models.trees import grow_and_check
from unit_tests.tiny_models import (
    PROMPTS,
    generate,
    plain_logits,
    random_engine,
    random_model,
    random_reward_model,
    tiny_tokenizer,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(autouse=True)
def full_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def on_gpu(reward: MultifurcationRewardModel) -> MultifurcationRewardModel:
    return MultifurcationRewardModel(reward.decoder.model.cuda(), reward.tokenizer, reward.bias, reward.seen)


@pytest.mark.parametrize("family", {**FAMILIES, **FALLBACKS})
def test_random_trees_equal_full_forwards(family: str):
    model = random_model(family).cuda()
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert grow_and_check(decoder, model, 0, 1e-4) > 40


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt-oss"])
def test_in_double_precision_they_are_equal_to_1e_9(family: str):
    model = random_model(family, 5, dtype=torch.float64).cuda()
    model.config._experts_implementation = "eager"
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert grow_and_check(decoder, model, 5, 1e-9) > 40


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "gpt2"])
def test_greedy_equals_generate(family: str):
    model = random_model(family).cuda()
    engine = SaffronEngine(model, tiny_tokenizer())
    for prompt in PROMPTS[:4]:
        found = engine.generate(prompt, settings=SearchSettings(search="greedy", max_tokens=30)).token_ids
        assert found == generate(model, prompt)


def test_the_search_gives_what_it_gives_on_the_cpu():
    reward = random_reward_model(shift=1.0)
    settings = SearchSettings(width=4, max_tokens=20)
    expected = [random_engine("qwen3", reward).generate(p, settings=settings).token_ids for p in PROMPTS[:8]]
    engine = SaffronEngine(random_model("qwen3").cuda(), tiny_tokenizer(), on_gpu(random_reward_model(shift=1.0)))
    handles = [engine.submit(p, settings=settings) for p in PROMPTS[:8]]
    assert [handle.result().token_ids for handle in handles] == expected


def test_everything_lies_on_the_device_that_was_asked_for(tmp_path):
    random_model("llama").save_pretrained(tmp_path / "policy")
    tiny_tokenizer().save_pretrained(tmp_path / "policy")
    random_reward_model().save_pretrained(tmp_path / "mrm")
    engine = SaffronEngine.from_pretrained(tmp_path / "policy", tmp_path / "mrm", device="cuda")
    engine.generate(PROMPTS[0], settings=SearchSettings(width=2, max_tokens=4))
    reward = engine.reward_model
    for decoder in (engine.policy, reward.decoder):
        assert {p.device.type for p in decoder.model.parameters()} == {"cuda"}
        assert {tensor.device.type for tensor in decoder.pool.layer(0)[:2]} == {"cuda"}
    assert {reward.bias.device.type, reward.seen.device.type} == {"cuda"}
    assert reward.rewards(PROMPTS[0]).device.type == "cuda"


def test_answers_in_a_grammar_are_those_of_the_cpu():
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 6}}, "required": ["a"]}
    grammar = Grammar.json_schema({**schema, "additionalProperties": False})
    settings = SearchSettings(width=4, max_tokens=90)
    ends = {"eos_token_id": 313}
    engine = random_engine("qwen3", random_reward_model(shift=1.0), **ends)
    expected = [engine.generate(p, settings=settings, grammar=grammar).text for p in PROMPTS[:8]]
    engine = SaffronEngine(
        random_model("qwen3", **ends).cuda(), tiny_tokenizer(), on_gpu(random_reward_model(shift=1.0))
    )
    handles = [engine.submit(p, settings=settings, grammar=grammar) for p in PROMPTS[:8]]
    assert [handle.result().text for handle in handles] == expected
    assert all(len(json.loads(text)["a"]) <= 6 for text in expected)


@pytest.mark.parametrize("width", [1, 4])
def test_the_cpu_waits_twice_a_step(width: int):
    """Once to see that no score is NaN, which decides whose fault it is, and once for the candidates."""
    engine = SaffronEngine(random_model("llama").cuda(), tiny_tokenizer(), on_gpu(random_reward_model(shift=2.0)))
    waits = []
    for tokens in (10, 50):
        settings = SearchSettings(width=width, max_tokens=tokens, min_tokens=tokens)
        engine.generate(PROMPTS[3], settings=settings, cache_salt=f"warm {tokens}")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                engine.generate(PROMPTS[3], settings=settings, cache_salt=f"counted {tokens}")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing" in str(warning.message) for warning in caught))
    assert (waits[1] - waits[0]) / 40 <= 2


@pytest.mark.parametrize("family", sorted({*CORE, *SHAPES}))
def test_captured_steps_equal_full_forwards(family: str):
    """What cannot be captured falls back, and is right; only of experts is it left open whether they can."""
    model = random_model(family).cuda()
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.capture_steps() is None
    assert grow_and_check(decoder, model, 0, 1e-4) > 40
    graphs = decoder.graphs
    assert graphs is not None
    if family != "gpt-oss" or graphs.failure is None:
        assert graphs.failure is None
        assert graphs.counts.replayed >= 3
        assert graphs.counts.captured >= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_replayed_by_graphs_and_answers_are_the_same(dtype: torch.dtype):
    settings = SearchSettings(width=4, max_tokens=40, min_tokens=40)
    answers = []
    for eager in (True, False):
        model, reward = random_model("qwen3", dtype=dtype).cuda(), on_gpu(random_reward_model(shift=1.0))
        engine = SaffronEngine(model, tiny_tokenizer(), reward, enforce_eager=eager)
        handles = [engine.submit(p, settings=settings) for p in PROMPTS[:4]]
        answers.append([handle.result().token_ids for handle in handles])
        answers.append([engine.generate(p, settings=settings).token_ids for p in PROMPTS[:2]])
        for decoder in (engine.policy, reward.decoder):
            assert (decoder.graphs is None) == eager
            if decoder.graphs is not None:
                assert decoder.graphs.failure is None
                assert decoder.graphs.counts.replayed > 80
                assert decoder.graphs.graphs == decoder.graphs.counts.captured > 0
        engine.close()
    if dtype == torch.float32:
        assert answers[:2] == answers[2:]


def test_a_replayed_step_makes_the_cpu_wait_for_nothing():
    """Nothing of a replayed step itself reads from the device: not even under torch's own watch."""
    model = random_model("llama").cuda()
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    assert decoder.capture_steps() is None
    prompt = decoder.forest.insert(PROMPTS[0])
    decoder.forward(prompt, [])
    node = prompt[-1]
    for i in range(12):
        node = decoder.forest.insert([20 + i], parent=node)[-1]
        torch.cuda.set_sync_debug_mode("error" if i else "default")
        try:
            decoder.forward([node], [0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert decoder.graphs is not None
    assert decoder.graphs.counts.replayed == 11


def test_bfloat16_answers_without_nan():
    model = random_model("llama", dtype=torch.bfloat16).cuda()
    engine = SaffronEngine(model, tiny_tokenizer(), on_gpu(random_reward_model(shift=1.0)))
    assert engine.generate(PROMPTS[0], settings=SearchSettings(width=8, max_tokens=20, min_tokens=20)).stats.width == 8


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt-oss", "mistral"])
def test_rewards_of_prefixes_equal_full_forwards(family: str):
    model = random_model(family).cuda()
    scorer = PrefixScorer(TrieDecoder(model, "process reward model", max_cache_tokens=2000), [5, 6, 7])
    prompt, answer = PROMPTS[0], list(range(20, 60))
    (found,) = scorer.outputs([(prompt, answer)])
    for length in range(1, len(answer) + 1):
        expected = plain_logits(model, [*prompt, *answer[:length], 5, 6, 7])
        assert float((found[length - 1] - expected).abs().max()) < 1e-3


def test_annotation_and_training_run_there(tmp_path):
    write_corpus(tmp_path / "corpus.jsonl", "mrm", 60, seed=3)
    saffron = [sys.executable, "-m", "langchain_saffron"]
    for device in ("cpu", "cuda"):
        command = [*saffron, "annotate", "corpus.jsonl", "--out", device, "--device", device, "--dtype", "float32"]
        subprocess.run(command, cwd=tmp_path, check=True)
    cpu, cuda = (RewardData.load(tmp_path / device).samples for device in ("cpu", "cuda"))
    for a, b in zip(cpu, cuda, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert abs(a.rewards[a.known] - b.rewards[b.known]).max() < 1e-3
    command = [*saffron, "train", "cuda", "--out", "mrm", "--epochs", "4", "--learning-rate", "3e-3"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert MultifurcationRewardModel.from_pretrained(tmp_path / "mrm", device="cuda").rewards([5]).isfinite().all()
