"""Going back over real forwards: exact, in a full cache too, independent of other requests, and nothing is left."""

from itertools import pairwise

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.search import SearchInputs
from langchain_saffron.search.saffron import saffron_search
from unit_tests.engine.slots import slots_held
from unit_tests.tables import drive
from unit_tests.tiny_models import PROMPTS, plain_logits, random_model, random_reward_model, tiny_tokenizer

# rewards are random, and nearly all of them unsafe: the search goes back again and again
SETTINGS = SearchSettings(
    width=2,
    max_tokens=12,
    min_tokens=12,
    step_back=True,
    safety_threshold=4.0,
    top_p=0.3,
    mask="off",
)


def engine_of(slots: int = 4000) -> SaffronEngine:
    reward = random_reward_model()
    reward.decoder.forest.capacity = reward.decoder.pool.capacity = slots
    reward.decoder.forest.clear()
    return SaffronEngine(random_model("llama"), tiny_tokenizer(), reward, max_cache_tokens=slots)


@pytest.fixture(scope="module")
def engine():
    made = engine_of()
    yield made
    made.close()


def test_what_is_found_is_what_full_forwards_find(engine: SaffronEngine):
    went_back = 0
    for prompt in PROMPTS[:3]:
        settings = engine.resolve(SETTINGS, len(prompt))
        expected = drive(
            saffron_search(
                SearchInputs(
                    settings,
                    end_tokens=engine.end_tokens,
                )
            ),
            lambda tokens, p=prompt: plain_logits(engine.policy.model, [*p, *tokens]).tolist(),
            lambda tokens, p=prompt: engine.reward_model.rewards([*p, *tokens]).tolist(),
        )
        found = engine.generate(prompt, settings=SETTINGS)
        assert found.token_ids == list(expected.tokens)
        assert found.reward == pytest.approx(expected.reward, abs=1e-3)
        assert (found.stats.steps_back, found.stats.reopened) == (expected.steps_back, expected.reopened)
        # nothing is computed twice: each node that is scored is one token read, the prompt's end the first of them
        assert found.stats.policy_tokens == len(prompt) - 1 + found.stats.policy_calls
        assert found.stats.reward_tokens == len(prompt) - 1 + found.stats.reward_calls
        went_back += found.stats.steps_back
    assert went_back > 0
    assert slots_held(engine) == 0


@pytest.mark.parametrize("slots", [40, 150])
def test_neighbours_and_a_full_cache_change_nothing(engine: SaffronEngine, slots: int):
    asked = [(prompt, SETTINGS.model_copy(update={"step_back": i % 3 < 2})) for i, prompt in enumerate(PROMPTS[:6])]
    expected = [engine.generate(prompt, settings=settings) for prompt, settings in asked]
    assert sum(one.stats.steps_back > 0 for one in expected) >= 2
    small = engine_of(slots)
    handles = [small.submit(prompt, settings=settings) for prompt, settings in asked]
    found = [handle.result() for handle in handles]
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert [one.stats.reopened for one in found] == [one.stats.reopened for one in expected]
    assert [one.stats.reward_calls for one in found] == [one.stats.reward_calls for one in expected]
    assert slots_held(small) == 0
    small.close()


def test_the_beams_of_every_step_are_recorded_and_seeds_repeat(engine: SaffronEngine):
    went_back = 0
    for seed in range(5):
        settings = SETTINGS.model_copy(update={"temperature": 0.8, "seed": seed})
        first, second = (engine.generate(PROMPTS[2], settings=settings, record_beams=True) for _ in range(2))
        assert first.beams == second.beams
        assert first.beams is not None
        lengths = [len(step[0]) for step in first.beams if step]
        backwards = sum(after <= before for before, after in pairwise(lengths))
        assert backwards <= first.stats.steps_back
        went_back += backwards > 0
    assert went_back
