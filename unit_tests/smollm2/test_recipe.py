"""The recipe from end to end, on a random model and harmless stand-ins of the data files."""

import json
import math

import pytest
import torch

from langchain_saffron import ProcessRewardModel, SaffronEngine
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.smollm2 import build
from langchain_saffron.smollm2.recipe import claims, corpus, guard, measure, mrm, policy, sources
from langchain_saffron.smollm2.recipe.sampling import sample_answers
from unit_tests.smollm2.test_texts import TEMPLATE
from unit_tests.tiny_models import random_model, tiny_tokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, data files and a place to work in; the "harmful" questions are about bread."""
    place = tmp_path_factory.mktemp("world")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    random_model(num_hidden_layers=3, max_position_embeddings=1024).save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    files = {
        "harmfulqa": [{"prompt": f"How can I bake bread number {i}?"} for i in range(40)],
        "catqa": [{"prompt": f"What are some ways to toast bread {i}?"} for i in range(10)],
        "benign": [{"prompt": f"Say the number {i}.", "response": f"It is {i}."} for i in range(30)],
        "harmbench_standard": [{"prompt": "Bake a cake", "target": "Sure, here is how to bake a cake"}],
        "xstest": [{"prompt": "What is cake?", "unsafe": False}],
        "jbb_completions": [{"prompt": f"cake {i}", "response": "flour " * i, "safe": i % 2 == 0} for i in range(6)],
        "pyrit_harm": [{"prompt": f"tea {i}", "response": "hot", "harm": i / 5} for i in range(6)],
        "hh_harmless": [
            {"chosen": f"\n\nHuman: hi {i}\n\nAssistant: yes", "rejected": f"\n\nHuman: hi {i}\n\nAssistant: no"}
            for i in range(40)
        ],
    }
    for part in ("train", "val", "test"):
        files[f"diasafety_{part}"] = [
            {"prompt": f"a {part} {i}", "response": f"b {i}", "safe": i % 2 == 0} for i in range(8)
        ]
    (place / "data").mkdir()
    for name, rows in files.items():
        (place / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = SaffronEngine.from_pretrained(model=str(place / "base"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "SENSITIVE": 12,
            "EVERYDAY": 12,
            "ARGUED": 6,
            "FROM_FILE": 12,
            "CLAIMS": 12,
            "TRUE_CLAIMS": 6,
            "REFUSED_CLAIMS": 12,
            "WARNINGS": 12,
            "HARMFUL_TOKENS": 6,
            "BENIGN_TOKENS": 6,
            "WARNING_TOKENS": 6,
        }.items():
            patch.setattr(corpus, name, value)
        corpus.sample_corpus(place / "data", place / "work", engine)
        yield place


def test_what_was_sampled_is_not_sampled_again(world):
    path = world / "work/samples/harmful.jsonl"
    before = path.read_bytes()
    rows = corpus.harmful_rows(world / "data")
    # no engine is needed where nothing is missing
    again = sample_answers(None, rows, path, max_tokens=6)
    assert path.read_bytes() == before
    assert [row["prompt"] for row in again] == [row["prompt"] for row in rows]


def test_held_out_questions_are_in_no_training_text(world):
    tokenizer = load_tokenizer(world / "base", "policy")
    asked = sources.prompts_of(world / "data", sources.HARMFUL, True, set())
    claimed = [claim for claim in claims.false_claims() if sources.is_held_out(claim)]
    assert asked
    assert claimed
    held_out = asked + claimed
    for make in (corpus.policy_texts, guard.guard_texts):
        said = [tokenizer.decode(text.ids) for text in make(tokenizer, world / "data", world / "work")]
        assert not any(question in text for question in held_out for text in said)


def test_the_policy_and_the_guard_are_made_and_load(world):
    base, data, work = str(world / "base"), world / "data", world / "work"
    figures = policy.train_policy(base, data, work, world / "out/policy")
    assert figures["texts"]["refusal"] > 20
    plain, aligned = (load_causal_lm(path, "policy") for path in (base, world / "out/policy"))
    ids = torch.tensor([[5, 9, 30]])
    assert not torch.allclose(plain(ids).logits, aligned(ids).logits, atol=1e-3)
    guard.train_guard(base, data, work, world / "out/guard")
    prm = ProcessRewardModel.from_pretrained(str(world / "out/guard"))
    # a search's prompt is the policy's own
    tokenizer = load_tokenizer(base, "policy")
    prompt = prm.prompt_ids([("user", "hi")])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == tokenizer.encode(text, add_special_tokens=False)
    measured = measure.measure_guard(prm, data, 6)
    assert all(0 <= measured[f"auc_{name}"] <= 1 for name in ("diasafety", "pyrit", "jailbreakbench_8"))


def test_labels_change_where_an_answer_turns(world):
    tokenizer = load_tokenizer(world / "base", "guard")
    texts = guard.guard_texts(tokenizer, world / "data", world / "work")
    kinds = {kind: [text for text in texts if text.kind == kind] for kind in ("harmful", "turned", "benign", "refusal")}
    assert all(kinds.values())
    for kind, some in kinds.items():
        for text in some:
            labels = [label for label in text.labels if not math.isnan(label)]
            assert labels == sorted(labels)
            assert {"harmful": {0.0}, "turned": {0.0, 1.0}}.get(kind, {1.0}) == set(labels)


def test_the_reward_model_reads_every_kind_of_answer(world):
    parts = [list(mrm.records(world / "data", world / "work", held_out)) for held_out in (False, True)]
    assert {tuple(record) for record in parts[0]} == {("chosen", "rejected"), ("prompt", "response"), ("messages",)}
    told = [json.dumps(record) for record in parts[0]]
    assert not any(json.dumps(record) in told for record in parts[1])


def test_the_manifest_and_the_card_say_what_was_measured(tmp_path):
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard/head.safetensors").write_bytes(bytes(1_500_000))
    build.write_manifest(tmp_path, "policy", 7, {"refused_xstest_safe": 0.12345678, "texts": {"refusal": 3}})
    build.write_manifest(tmp_path, "guard", 7, {"auc_jailbreakbench_24": 0.9})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["measured"]["policy"] == {"refused_xstest_safe": 0.1235, "texts": {"refusal": 3}}
    assert manifest["bytes"] == {"guard/head.safetensors": 1_500_000}
    text = (tmp_path / "README.md").read_text()
    assert all(part in text for part in ("1.5 MB", "seed 7", "| 0.123 |", "after 24 tokens | 0.9 |"))
    assert "MRM: held-out" not in text
