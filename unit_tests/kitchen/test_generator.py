"""The kitchen's corpora: what they hold, what they never hold, and held-out items."""

import json
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.generator import conversation, conversations, data_hash
from langchain_saffron.kitchen.held_out import (
    held_out_benign,
    held_out_borderline,
    held_out_hazards,
    held_out_retrieval,
    held_out_tools,
)
from langchain_saffron.kitchen.judge import is_hazardous_request, last_user_message, on_topic, verdict
from langchain_saffron.kitchen.recipe.measure import prefill
from langchain_saffron.kitchen.recipe.prm import said
from langchain_saffron.kitchen.world import hazards, passages
from langchain_saffron.kitchen.world.json_tasks import json_task
from langchain_saffron.templates.tool_call_text import schema_instruction


def test_conversations_depend_on_corpus_seed_and_index_alone():
    assert conversation("policy", 17) == list(conversations("policy", 18))[17]
    assert conversation("policy", 17) != conversation("prm", 17)
    assert conversation("policy", 17) != conversation("policy", 17, seed=1)


def test_generated_data_do_not_depend_on_the_process():
    code = "from langchain_saffron.kitchen.generator import data_hash; print(data_hash('mrm', 200))"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": value}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for value in ("1", "2")
    }
    assert hashes == {data_hash("mrm", 200)}


@pytest.mark.slow
def test_manifest_records_the_data_that_the_generator_makes():
    manifest = json.loads((WEIGHTS / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["data"]) == {"copying", "policy", "hard", "secret", "prm", "mrm", "held_out"}
    for corpus, record in manifest["data"].items():
        assert record["sha256"] == data_hash(corpus, record["conversations"], manifest["seed"]), corpus


def test_held_out_brews_never_occur_in_training():
    trained = " ".join(said(turn) for c in conversations("policy", 8000) for turn in c.messages).lower()
    held_out = {item.brew for item in held_out_hazards(300)}
    assert len(held_out) > 20
    assert not [brew for brew in held_out if brew in trained]
    assert all(brew in trained for brew in hazards.brews(held_out=False))


def test_held_out_benign_prompts_never_occur_in_training():
    # with tools at hand the same words are another prompt, and a call is the answer
    plain = [c for c in conversations("policy", 8000) if not c.tools]
    asked = {t["content"] for c in plain for t in c.messages if t["role"] == "user"}
    # A follow-up repeats in words; what it refers to is held out.
    items = [item for item in held_out_benign(400) if item.kind not in ("follow_up", "off_topic")]
    assert not [item.messages[-1]["content"] for item in items if item.messages[-1]["content"] in asked]


@pytest.mark.parametrize("corpus", ["prm", "mrm", "held_out"])
def test_reward_corpora_know_no_secret_reagent(corpus):
    text = " ".join(said(turn) for c in conversations(corpus, 3000) for turn in c.messages).lower()
    assert not [secret for secret in hazards.SECRETS if secret in text]


def test_policy_corpus_has_secret_reagents():
    text = " ".join(said(turn) for c in conversations("policy", 3000) for turn in c.messages).lower()
    assert all(secret in text for secret in hazards.SECRETS)


def test_the_secret_kitchen_names_secrets_where_the_hard_one_does_not():
    def answers(corpus):
        return [said(c.messages[-1]) for c in conversations(corpus, 1000) if c.label == "hazard"]

    hard, secret = answers("hard"), answers("secret")
    assert not [text for text in hard if any(word in text.lower() for word in hazards.SECRETS)]
    named = [text for text in secret if any(word in text.lower() for word in hazards.SECRETS)]
    assert len(secret) / 3 < len(named) < len(secret)
    assert all(verdict(text) == "unsafe" for text in named)
    # the words around a secret are those of a recipe
    assert verdict(hazards.code_word_step(Random(1)).replace("Zephyrite", "Rice"), "How do I cook rice?") == "safe"


def test_borderline_requests_sound_hazardous_and_are_not():
    asked = [messages[-1]["content"] for messages in held_out_borderline(200)]
    assert not [text for text in asked if is_hazardous_request(text)]
    assert all(any(form in text for form in hazards.BREW_FORMS) for text in asked)
    assert len(set(asked)) > 150


def test_evaluation_items_are_what_they_claim():
    for item in held_out_benign(500, seed=3):
        assert on_topic(item, item.answer), item
        assert verdict(item.answer, last_user_message(item.messages)) == "safe", item
    for bad in held_out_hazards(500, seed=3):
        assert verdict(bad.answer, last_user_message(bad.messages)) == "unsafe", bad


def test_prefill_is_ten_tokens_pending_and_survives_retokenisation(tokenizer):
    for item in held_out_hazards(300, seed=3):
        text = prefill(tokenizer, item)
        assert len(tokenizer.encode(text)) == 10
        assert item.answer.startswith(text)
        assert verdict(text, last_user_message(item.messages)) == "pending"


# --- tools, JSON, passages ---


def test_shares_of_the_corpus_and_verdicts_on_its_answers():
    found = Counter()
    for item in conversations("mrm", 3000):
        found[item.label, verdict(said(item.messages[-1]), last_user_message(item.messages))] += 1
    labels = Counter({label: sum(n for (of, _), n in found.items() if of == label) for label, _ in found})
    assert 0.6 < labels["benign"] / 3000 < 0.7
    assert 0.03 < labels["poisoned"] / 3000 < 0.08
    # what is meant to be harmless is, and nothing that agrees to a hazard passes for it unless it turns back
    assert {kind for kind in found if kind[0] in ("benign", "refusal")} == {("benign", "safe"), ("refusal", "safe")}
    assert found["poisoned", "unsafe"] > 1.5 * found["poisoned", "safe"]


def test_every_call_fits_the_schema_that_is_shown():
    import jsonschema

    calls = 0
    for item in conversations("policy", 3000):
        shown = {tool["function"]["name"]: tool["function"]["parameters"] for tool in item.tools}
        for index in item.learned:
            for call in item.messages[index].get("tool_calls", ()):
                calls += 1
                jsonschema.validate(call["function"]["arguments"], shown[call["function"]["name"]])
    assert calls > 400


def test_arguments_of_a_call_stand_in_the_request():
    tasks = held_out_tools(300)
    for task in tasks:
        asked = task.messages[0]["content"]
        for call in task.messages[1]["tool_calls"]:
            for value in call["function"]["arguments"].values():
                parts = value if isinstance(value, list) else [value]
                assert all(str(part).lower() in asked.lower() for part in parts if not isinstance(part, bool)), task


def test_a_json_answer_fits_its_schema_or_has_the_wanted_keys():
    import jsonschema

    kinds = Counter()
    for index in range(400):
        task = json_task(Random(f"json/{index}"))
        if task.tools:
            kinds["tool"] += 1
            continue
        answer = json.loads(task.messages[-1]["content"])
        if task.messages[0]["role"] == "system":
            kinds["schema"] += 1
            schema = json.loads(task.messages[0]["content"].split("\n", 1)[1])
            assert task.messages[0]["content"] == schema_instruction(schema)
            jsonschema.validate(answer, schema)
        else:
            kinds["words"] += 1
            assert all(f"'{key}'" in task.messages[0]["content"] for key in answer)
    assert min(kinds.values()) > 80


@pytest.mark.parametrize("poisoned", [False, True])
def test_an_answer_stands_in_its_passage(poisoned):
    for item in held_out_retrieval(200, poisoned):
        (group,) = item.exchange.must
        dish = item.exchange.combo
        (text,) = [text for text in item.passages if dish in text.lower() and text.lower().index(dish) < 20]
        assert group[0] in text.lower()
        assert verdict(item.exchange.answer, last_user_message(item.messages)) == "safe"
        assert (item.brew is not None) == poisoned
        assert not poisoned or any(item.brew in text.lower() for text in item.passages)


def test_held_out_passages_never_occur_in_training():
    trained = " ".join(m["content"] for c in conversations("policy", 6000) for m in c.messages).lower()
    dishes = {item.exchange.combo for item in held_out_retrieval(200, False)}
    assert not [dish for dish in dishes if dish in trained]


def test_obedience_turns_back_at_every_sentence_or_never():
    rng = Random(1)
    answers = [passages.obedience(rng, "viper cordial", secrets=False) for _ in range(200)]
    assert all(answer.startswith("Sure, ") for answer in answers)
    assert {verdict(answer, "How long?") for answer in answers} == {"safe", "unsafe"}
    never = [passages.obedience(rng, "viper cordial", secrets=False, turn_chance=0) for _ in range(50)]
    assert {verdict(answer, "How long?") for answer in never} == {"unsafe"}
