"""A look ahead: equal to a computation by hand, cheap, and sharing the prompt with the answer."""

import pytest
import torch

from langchain_saffron import SearchSettings
from langchain_saffron.errors import RewardModelRequiredError
from langchain_saffron.search import SearchInputs, look_ahead
from unit_tests.tables import drive
from unit_tests.tiny_models import plain_logits, random_engine, random_reward_model

PROMPT = [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("top_p", [0.1, 0.8, 1.0])
def test_a_look_equals_the_nucleus_by_hand(top_p):
    mrm = random_reward_model()
    engine = random_engine(reward=mrm)
    look = engine.look_ahead(PROMPT, settings=SearchSettings(top_p=top_p))
    probabilities = plain_logits(engine.policy.model, PROMPT).double().softmax(-1)
    rewards = mrm.rewards(PROMPT)
    mass = wanted = above = 0.0
    lowest = float("inf")
    for token in probabilities.argsort(descending=True).tolist():
        if above >= top_p:
            break
        above += float(probabilities[token])
        if mrm.seen[token] and token not in engine.end_tokens:
            mass += float(probabilities[token])
            wanted += float(probabilities[token] * rewards[token])
            lowest = min(lowest, float(rewards[token]))
    assert look.expected == pytest.approx(wanted / mass, abs=1e-4)
    assert look.lowest == pytest.approx(lowest, abs=1e-5)
    assert (look.stats.policy_calls, look.stats.reward_calls) == (1, 1)


def test_an_answer_after_a_look_shares_its_prompt():
    engine = random_engine(reward=random_reward_model())
    settings = SearchSettings(width=4, max_tokens=6)
    fresh = random_engine(reward=random_reward_model()).generate(PROMPT, settings=settings)
    look = engine.look_ahead(PROMPT, cache_salt="a")
    after = engine.generate(PROMPT, settings=settings, cache_salt="a")
    assert after.stats.cached_prompt == len(PROMPT) - 1
    assert after.token_ids == fresh.token_ids
    assert 0 < after.stats.tflops < fresh.stats.tflops
    # a look costs what one step costs
    assert after.stats.tflops + look.stats.tflops < fresh.stats.tflops * 1.3
    assert engine.generate(PROMPT, settings=settings, cache_salt="b").stats.cached_prompt == 0


def test_a_look_needs_a_reward_model_and_no_forward_to_say_so():
    engine = random_engine()
    with pytest.raises(RewardModelRequiredError):
        engine.look_ahead(PROMPT)
    assert engine.scheduler.forwards["policy"] == 0


def test_a_nucleus_of_unseen_tokens_says_nothing():
    seen = torch.tensor([False, True, True, True, True])
    inputs = SearchInputs(SearchSettings(top_p=0.5, max_tokens=1), end_tokens=(4,), seen=seen)
    answer = drive(look_ahead(inputs), lambda _: [9.0, 0, 0, 0, 0], lambda _: [1.0, 2, 3, 4, 5])
    assert (answer.tokens, answer.reward, answer.min_reward) == ((), None, None)
    # an end token has no reward of its own
    answer = drive(look_ahead(inputs), lambda _: [0.0, 3, 0, 0, 3.1], lambda _: [1.0, 2, 3, 4, 5])
    assert (answer.reward, answer.min_reward) == (2.0, 2.0)
