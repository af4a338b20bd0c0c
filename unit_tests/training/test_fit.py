"""From a policy and a guard to a reward model in use, for guards of every kind, and runs that are killed anywhere."""

import json
import math
from functools import cache

import pytest
import torch
from transformers import Qwen3ForTokenClassification

from langchain_saffron import MultifurcationRewardModel, SaffronEngine, SearchSettings
from langchain_saffron.errors import (
    CorpusError,
    GuardFailedError,
    ModelLoadError,
    SettingsError,
    TrainingError,
    VocabularyMismatchError,
)
from langchain_saffron.models.guard_function import conversation_guard
from langchain_saffron.models.guard_retries import Retries
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.vocabulary import vocabulary_hash
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.corpus.formats import conversations_of
from langchain_saffron.training.fit import CORPUS, REWARDS, fit
from langchain_saffron.training.own_answers import read_prompts
from langchain_saffron.training.settings import AnnotateSettings, AnswerSettings, HeadSettings, TrainSettings
from unit_tests.builders import byte_level_tokenizer
from unit_tests.disks import content
from unit_tests.families import FAMILIES
from unit_tests.tiny_models import random_model, tiny_tokenizer
from unit_tests.training.annotations import QUESTION, rows, save_guard, short

pytestmark = pytest.mark.filterwarnings("ignore::langchain_saffron.models.mrm_quality.RewardModelWarning")

PUBLISHED = RewardTemplate.for_tokenizer(tiny_tokenizer())
QUICK = {
    "answers": AnswerSettings(max_tokens=8, prefills=("Sure, rice",), shard_size=2, batch_size=3),
    "annotation": AnnotateSettings(max_tokens=60, shard_size=3, batch_size=4),
    "training": TrainSettings(batch_size=2, checkpoint_every=1, rank=2, device="cpu", held_out_share=0.3),
    "device": "cpu",
}


@conversation_guard
def rule(conversations):
    """Longer is worse."""
    return [5.0 - len(messages[-1]["content"]) / 4 for messages in conversations]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_guard(tmp_path_factory.mktemp("models") / "policy", seed=7)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("boil rice\n\nadd salt\nstir\n", encoding="utf-8")
    return path


@cache
def other_guard():
    """A random guard of another vocabulary."""
    tokenizer = byte_level_tokenizer(340)
    return ProcessRewardModel.from_pretrained(
        random_model("llama", 3, vocab_size=len(tokenizer) + 8, num_hidden_layers=2), QUESTION, tokenizer=tokenizer
    )


class Killed(BaseException):
    """As Ctrl-C, wherever it comes."""


def killing(phase=None, at=0):
    """A progress that ends the run at one of the times that it is called in a phase."""
    told = []

    def progress(*said):
        told.append(said)
        if said[0] == phase and [one for one, *_ in told].count(phase) == at + 1:
            raise Killed

    return progress, told


def test_a_run_that_is_killed_anywhere_ends_with_the_same_files(policy, prompts, tmp_path):
    progress, told = killing()
    whole = fit(policy, rule, tmp_path / "whole" / "mrm", prompts=prompts, progress=progress, **QUICK)
    assert {phase for phase, *_ in told} == {"writing answers", "annotating", "training"}
    wanted = content(tmp_path / "whole" / "mrm", "logs")
    assert {name.split("/")[0] for name in wanted} >= {CORPUS, REWARDS, "mrm.safetensors", "mrm_config.json"}
    out = tmp_path / "killed" / "mrm"
    for at in (("writing answers", 0), ("annotating", 1), ("training", 0)):
        with pytest.raises(Killed):
            fit(policy, rule, out, prompts=prompts, progress=killing(*at)[0], **QUICK)
        assert not (out / "mrm_config.json").exists()
    assert fit(policy, rule, out, prompts=prompts, **QUICK) == whole
    assert content(out, "logs") == wanted


def test_a_head_is_fitted_to_a_guard_of_another_vocabulary_and_goes_on_where_it_was_killed(policy, prompts, tmp_path):
    quick = {**QUICK, "training": HeadSettings(rank=2, epochs=2, device="cpu", held_out_share=0.3)}
    out = tmp_path / "mrm"
    with pytest.raises(Killed):
        fit(policy, other_guard(), out, prompts=prompts, on="head", progress=killing("training", 0)[0], **quick)
    assert not (out / "mrm_config.json").exists()
    figures = fit(policy, other_guard(), out, prompts=prompts, on="head", **quick)
    assert (figures["on"], figures["annotation"]["rows"]) == ("head", 6)
    before = content(out)
    # finished, it is left alone
    assert fit(policy, other_guard(), out, prompts=prompts, on="head", **quick) == figures
    assert content(out) == before
    engine = SaffronEngine.from_pretrained(policy, out)
    result = engine.generate([3, 5, 7], [3, 5, 7], SearchSettings(width=2, max_tokens=4))
    assert result.stats.reward_calls > 0
    assert result.reward is not None
    engine.close()
    with pytest.raises(TrainingError, match="another reward model"):
        fit(policy, other_guard(), out, prompts=prompts, on="head", **{**quick, "training": HeadSettings(rank=3)})


def test_the_reward_model_of_a_guard_of_another_vocabulary_is_the_policys(policy, tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in short(8)), encoding="utf-8")
    figures = fit(policy, other_guard(), tmp_path / "mrm", corpus=corpus, **QUICK)
    assert figures["on"] == "policy"
    assert figures["annotation"]["rows"] == 8
    config = json.loads((tmp_path / "mrm" / "adapter_config.json").read_text())
    # what was not given is as a body that predicts tokens needs it
    assert (config["r"], config["lora_alpha"]) == (2, 32.0)
    assert any(name.endswith("down_proj") for name in config["target_modules"])
    assert not (tmp_path / "mrm" / CORPUS).exists()
    mrm = MultifurcationRewardModel.from_pretrained(tmp_path / "mrm")
    assert vocabulary_hash(mrm.tokenizer) == vocabulary_hash(tiny_tokenizer())
    assert "on the text of prefixes" in mrm.details["reward_source"]
    with pytest.raises(SettingsError, match=r"on: no adapter can be put on the guard: .* do not share a vocabulary"):
        fit(policy, other_guard(), tmp_path / "no", corpus=corpus, on="guard", **QUICK)


def test_a_guard_that_labels_every_token_is_fitted_on_the_policy(policy, prompts, tmp_path):
    torch.manual_seed(4)
    config = FAMILIES["qwen3"]()
    config.num_labels, config.id2label = 3, {0: "Safe", 1: "Unsafe", 2: "Controversial"}
    guard = Qwen3ForTokenClassification(config)
    guard.save_pretrained(tmp_path / "guard")
    tiny_tokenizer().save_pretrained(tmp_path / "guard")
    figures = fit(policy, tmp_path / "guard", tmp_path / "mrm", prompts=prompts, **QUICK)
    # it shares the policy's vocabulary, but its body predicts no tokens
    assert (figures["on"], figures["annotation"]["rows"]) == ("policy", 6)
    assert "Safe - Unsafe" in json.loads((tmp_path / "mrm" / "mrm_config.json").read_text())["reward_source"]
    told = [reward for row in rows(tmp_path / "mrm" / REWARDS) for reward in row["rewards"]]
    assert len(set(told)) > 1
    engine = SaffronEngine.from_pretrained(policy, tmp_path / "mrm")
    result = engine.generate([3, 5, 7], [3, 5, 7], SearchSettings(width=2, max_tokens=4))
    engine.close()
    assert result.stats.reward_calls > 0
    with pytest.raises(SettingsError, match="a classifier, whose body predicts no tokens"):
        fit(policy, tmp_path / "guard", tmp_path / "no", prompts=prompts, on="guard", **QUICK)


def test_a_guard_of_the_policys_vocabulary_has_the_adapter(policy, tmp_path):
    guard = save_guard(tmp_path / "guard", seed=9)
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in short(6)), encoding="utf-8")
    figures = fit(policy, guard, tmp_path / "mrm", corpus=corpus, guard_prompt=QUESTION, **QUICK)
    assert figures["on"] == "guard"
    config = json.loads((tmp_path / "mrm" / "mrm_config.json").read_text())
    assert config["base_model"] == "../guard"
    assert config["training"]["run"]["settings"]["target_modules"] is None


def test_a_guard_of_the_policys_vocabulary_reads_its_ids(policy, tmp_path):
    guard = save_guard(tmp_path / "guard", seed=9)
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in short(6)), encoding="utf-8")
    quick = {**QUICK, "training": HeadSettings(rank=2, epochs=1, device="cpu", held_out_share=0.3)}
    fit(policy, guard, tmp_path / "mrm", corpus=corpus, on="head", guard_prompt=QUESTION, **quick)
    config = json.loads((tmp_path / "mrm" / "mrm_config.json").read_text())
    assert "on the text" not in config["reward_source"]
    prm = ProcessRewardModel.from_pretrained(guard, QUESTION)
    for row in rows(tmp_path / "mrm" / REWARDS):
        (conversation,) = conversations_of(short(6)[row["record"]])
        turns = [(turn["role"], turn["content"]) for turn in conversation[:-1]]
        said = row["token_ids"][row["response_start"] :]
        # for the model to be trained the conversation is written as with any other guard
        assert row["token_ids"][: row["response_start"]] == PUBLISHED.prompt_ids(tiny_tokenizer(), turns)
        (rewards,) = prm.score([(prm.prompt_ids(turns), said)])
        assert row["rewards"] == pytest.approx(rewards.tolist(), abs=1e-5)


def test_the_corpus_is_the_policys_answers_plain_and_behind_prefills(policy, prompts, tmp_path):
    fit(policy, rule, tmp_path / "mrm", prompts=prompts, **QUICK)
    files = sorted((tmp_path / "mrm" / CORPUS / "answers").iterdir())
    assert len(files) == 2
    talks = [json.loads(line)["messages"] for file in files for line in file.read_text("utf-8").splitlines()]
    asked = [turns[0]["content"] for turns in talks]
    assert asked == ["boil rice"] * 2 + ["add salt"] * 2 + ["stir"] * 2
    begun = [turns[1]["content"].startswith("Sure, rice") for turns in talks]
    assert begun == [False, True] * 3
    with pytest.raises(CorpusError, match=r"answers of another run .*settings"):
        fit(policy, rule, tmp_path / "mrm", prompts=prompts, **{**QUICK, "answers": AnswerSettings(seed=1)})


def test_a_guard_that_fails_gives_no_rewards(policy, tmp_path):
    @conversation_guard
    def failing(conversations):
        return [math.nan if "3" in messages[-1]["content"] else 1.0 for messages in conversations]

    corpus = tmp_path / "c.jsonl"
    corpus.write_text("".join(json.dumps(one) + "\n" for one in short(6)), encoding="utf-8")
    with pytest.raises(GuardFailedError, match="gave no reward"):
        fit(policy, failing, tmp_path / "stops", corpus=corpus, retries=Retries(2, wait=0), **QUICK)
    retries = Retries(2, wait=0, skip=True)
    figures = fit(policy, failing, tmp_path / "skips", corpus=corpus, retries=retries, **QUICK)
    assert figures["annotation"]["skipped"] == 1
    assert figures["annotation"]["rows"] == 5
    assert retries.counts["skipped"] > 0
    assert all(not math.isnan(reward) for row in rows(tmp_path / "skips" / REWARDS) for reward in row["rewards"])


def test_what_cannot_be_is_told_before_anything_is_loaded(policy, prompts, tmp_path):
    for given in ({}, {"corpus": prompts, "prompts": prompts}):
        with pytest.raises(SettingsError, match="one of the two"):
            fit("no/such", rule, tmp_path / "mrm", **given)
    other = tmp_path / "other"
    random_model("llama", 1, num_hidden_layers=1).save_pretrained(other)
    byte_level_tokenizer(340).save_pretrained(other)
    with pytest.raises(VocabularyMismatchError):
        fit(policy, rule, tmp_path / "mrm", prompts=prompts, base=other)
    with pytest.raises(ModelLoadError):
        fit(tmp_path / "nothing", rule, tmp_path / "mrm", prompts=prompts)
    with pytest.raises(SettingsError, match="'body' is none of"):
        fit("no/such", rule, tmp_path / "mrm", prompts=prompts, on="body")
    with pytest.raises(SettingsError, match="HeadSettings go with"):
        fit("no/such", rule, tmp_path / "mrm", prompts=prompts, on="head", **QUICK)
    with pytest.raises(SettingsError, match="a head reads the policy itself"):
        fit("no/such", rule, tmp_path / "mrm", prompts=prompts, on="head", base=policy)


def test_prompts_of_every_form(tmp_path):
    path = tmp_path / "p.jsonl"
    records = [
        {"prompt": "a"},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "no"}]},
        {"nothing": 1},
        {"chosen": "\n\nHuman: c\n\nAssistant: x", "rejected": "\n\nHuman: c\n\nAssistant: y"},
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    assert [turns[-1]["content"] for turns in read_prompts(path)] == ["a", "b", "c"]
