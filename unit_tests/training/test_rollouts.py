"""Forecasts: continuations against plain decoding, their mean against the guard's own rewards, and runs with them."""

import math

import pytest
import torch

from langchain_saffron.errors import ContextOverflowError, CorpusError, VocabularyMismatchError
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.text_prm import TextRewardModel
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.rollouts import Rollouts
from langchain_saffron.training.settings import AnnotateSettings, RolloutSettings
from unit_tests.builders import byte_level_tokenizer
from unit_tests.disks import content
from unit_tests.tiny_models import generate, plain_logits, random_model
from unit_tests.training.annotations import TOKENIZER, Rule, chat, ids, rows, rule, write

PROMPT, ANSWER = [TOKENIZER.bos_token_id, *ids("How long does rice boil?")], ids("Boil it, then serve.")
ASKED = ids("Task: U:rice\nA:")


@pytest.fixture(scope="module")
def policy():
    return random_model("qwen3", 7)


def rollouts(policy, prm, **settings):
    return Rollouts(policy, TOKENIZER, prm, RolloutSettings(**settings))


@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_the_likeliest_continuation_is_generates(prm, family):
    model = random_model(family, 7)
    drawn = rollouts(model, prm, count=2, tokens=6, top_p=1e-6).continuations(PROMPT, ANSWER, range(len(ANSWER)))
    ends = end_token_ids(model, TOKENIZER)
    for place, continued in enumerate(drawn):
        wanted = generate(
            model, [*PROMPT, *ANSWER[: place + 1]], max_new_tokens=6, do_sample=False, eos_token_id=list(ends)
        )
        wanted = wanted[:-1] if wanted[-1] in ends else wanted
        assert continued == [wanted, wanted]


def test_continuations_are_drawn_from_the_policy(policy, prm):
    count, temperature = 4000, 0.7
    made = rollouts(policy, prm, count=count, tokens=1, temperature=temperature, top_p=1.0)
    (drawn,) = made.continuations(PROMPT, ANSWER, [2])
    wanted = (plain_logits(policy, [*PROMPT, *ANSWER[:3]]) / temperature).softmax(-1)
    found = torch.zeros(len(wanted))
    for tokens in drawn:
        found[tokens[0] if tokens else TOKENIZER.eos_token_id] += 1 / count
    # half the sum of differences is as large as that where 4,000 draws of this distribution are as usual
    usual = float((2 / math.pi * wanted * (1 - wanted) / count).sqrt().sum() / 2)
    assert float((found - wanted).abs().sum() / 2) < 1.3 * usual
    assert len({tuple(tokens) for tokens in drawn}) > 20


@pytest.mark.parametrize("kind", ["model", "function", "text"])
def test_a_forecast_is_the_mean_of_the_rewards_of_continuations(policy, prm, kind):
    # a function reads the text of ids
    guard = {"model": prm, "function": rule()[0], "text": TextRewardModel(prm, TOKENIZER)}[kind]
    made = rollouts(policy, guard, count=3, tokens=5)
    asked = guard.prompt_ids([("user", "rice")])
    rewards = made.rewards(asked, PROMPT, ANSWER)
    drawn = rollouts(policy, guard, count=3, tokens=5).continuations(PROMPT, ANSWER, range(len(ANSWER)))
    for place, continued in enumerate(drawn):
        texts = [[*ANSWER[: place + 1], *more] for more in continued]
        if kind == "text":
            # as text, without the half of a character that a continuation may end with
            texts = [safe_encoder(TOKENIZER).encode(TOKENIZER.decode(text).rstrip("\ufffd")) for text in texts]
        reads = prm if kind == "text" else guard
        wanted = [float(reads.prefix_rewards(asked, text)[-1]) for text in texts]
        assert float(rewards[place]) == pytest.approx(sum(wanted) / 3, abs=1e-4)
    assert made.drawn == 3 * len(ANSWER)


def test_the_same_is_drawn_whatever_was_before_and_nothing_is_held(policy, prm):
    made, other = rollouts(policy, prm), rollouts(policy, prm)
    made.rewards(ASKED, PROMPT, ids("Something else."))
    first = made.continuations(PROMPT, ANSWER, [0, 3])
    assert first == other.continuations(PROMPT, ANSWER, [0, 3])
    assert first != rollouts(policy, prm, seed=1).continuations(PROMPT, ANSWER, [0, 3])
    assert made._decoder.forest.used == other._decoder.forest.used == 0


def test_some_prefixes_only(policy, prm):
    rewards = rollouts(policy, prm, count=1, tokens=2, every=4).rewards(ASKED, PROMPT, ANSWER[:10])
    assert [i for i, reward in enumerate(rewards.tolist()) if not math.isnan(reward)] == [3, 7, 9]


def test_an_annotation_goes_on_with_the_same_forecasts_only(policy, tmp_path):
    corpus = write(tmp_path / "c.jsonl", [chat(i) for i in range(6)])
    settings = AnnotateSettings(shard_size=2, max_tokens=64)
    guard, broken = rule()[0], Rule(fails_at=40)

    def run(out, prm, **drawn):
        forecasts = rollouts(policy, prm, **{"count": 2, "tokens": 4, "every": 2, **drawn})
        return annotate(corpus, prm, tmp_path / out, settings, rollouts=forecasts)

    manifest = run("whole", guard)
    assert manifest["settings"]["rollouts"]["count"] == 2
    counts = manifest["counts"]
    rewards = [reward for row in rows(tmp_path / "whole") for reward in row["rewards"]]
    assert counts["rewards"] == sum(reward is not None and not math.isnan(reward) for reward in rewards)
    assert counts["unknown"] == len(rewards) - counts["rewards"] > 0
    interrupted = ProcessRewardModel.from_function(broken, TOKENIZER, guard.name)
    with pytest.raises(KeyboardInterrupt):
        run("cut", interrupted)
    run("cut", guard)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    for other in ({"count": 3}, {"seed": 1}):
        with pytest.raises(CorpusError, match="other rollouts"):
            run("whole", guard, **other)
    with pytest.raises(CorpusError, match="other rollouts"):
        annotate(corpus, guard, tmp_path / "whole", settings)


def test_more_than_the_cache_holds_is_drawn_in_lots(policy, prm):
    made = rollouts(policy, prm, count=1500, tokens=8, temperature=2.0)
    places = [0, 3, 5]
    assert len(places) * 1500 * 8 > made._decoder.capacity
    drawn = made.continuations(PROMPT, ANSWER, places)
    assert [len(continued) for continued in drawn] == [1500] * len(places)
    assert made._decoder.forest.used == 0


def test_what_cannot_be_is_told(policy, prm):
    with pytest.raises(VocabularyMismatchError):
        Rollouts(policy, byte_level_tokenizer(vocab_size=300), prm)
    made = rollouts(policy, prm, tokens=40)
    with pytest.raises(ContextOverflowError, match="fewer or shorter"):
        rollouts(policy, prm, count=1000, tokens=40).check_length(ASKED, PROMPT, ANSWER)
    with pytest.raises(ContextOverflowError, match="its continuation"):
        made.check_length(ASKED, PROMPT, [3] * made._decoder.context)
