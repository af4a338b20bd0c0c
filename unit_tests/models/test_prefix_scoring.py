"""Rewards of all prefixes over a trie equal one plain forward a prefix."""

import threading
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_saffron import ProcessRewardModel
from langchain_saffron.errors import CacheFullError, ContextOverflowError, NumericalError, SettingsError
from langchain_saffron.models import packing
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.prefix_scoring import PrefixScorer
from unit_tests.families import FALLBACKS, FAMILIES, VOCABULARY, mostly_slow
from unit_tests.models.scoring import (
    ONE,
    SAFE,
    SMALL,
    SUFFIX,
    UNEVEN,
    UNSAFE,
    USUAL,
    awkward_pairs,
    check,
    forwards,
    guard_prm,
    plain_rewards,
    sizes,
    tokens,
)
from unit_tests.tiny_models import plain_logits, random_model, tiny_tokenizer


@pytest.mark.parametrize("family", mostly_slow([*FAMILIES, *FALLBACKS]))
def test_rewards_are_those_of_one_forward_a_prefix(family, monkeypatch):
    model = random_model(family, 3)
    pairs = awkward_pairs()
    expected = [plain_rewards(model, *pair) for pair in pairs]
    # a family that hardly moves its logits would pass with anything
    assert expected[0].std() > 100 * 1e-4
    prm = guard_prm(model)
    for constants in (USUAL, SMALL):
        sizes(monkeypatch, *constants)
        check(prm, pairs, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_attention_that_a_user_names_scores_the_same(family, attention, monkeypatch):
    model = random_model(family, 4)
    pairs = awkward_pairs()
    expected = [plain_rewards(model, *pair) for pair in pairs]
    prm = guard_prm(model, attn_implementation=attention)
    for constants in (USUAL, UNEVEN):
        sizes(monkeypatch, *constants)
        check(prm, pairs, expected)


def test_packed_layers_score_the_same(monkeypatch):
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    model = random_model("qwen3", 5)
    expected = [plain_rewards(model, *pair) for pair in awkward_pairs()]
    prm = guard_prm(model)
    assert any(isinstance(module, packing.PackedLinear) for module in prm.decoder.model.modules())
    check(prm, awkward_pairs(), expected)


@cache
def shared(family):
    model = random_model(family, 11)
    return model, TrieDecoder(model, "process reward model", 2000)


@cache
def shared_logits(family, ids):
    return plain_logits(shared(family)[0], list(ids))


FEW = st.lists(st.integers(7, 9), min_size=1, max_size=9)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(["llama", "mistral", "gpt-oss"]),
    pairs=st.lists(st.tuples(FEW, FEW), min_size=1, max_size=5),
    suffix=st.lists(st.integers(7, 9), max_size=5),
    constants=st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(1, 60)),
)
def test_any_answers_in_any_split_equal_plain_forwards(family, pairs, suffix, constants):
    """Of three tokens, so that prompts, answers and questions run into each other all the time."""
    decoder = shared(family)[1]
    with pytest.MonkeyPatch.context() as patch:
        sizes(patch, *constants)
        found = PrefixScorer(decoder, suffix).outputs(pairs)
    assert decoder.forest.used == 0
    for (prompt, answer), outputs in zip(pairs, found, strict=True):
        assert outputs.shape == (len(answer), VOCABULARY)
        for i, row in enumerate(outputs):
            expected = shared_logits(family, (*prompt, *answer[: i + 1], *suffix))
            assert torch.allclose(row, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("constants", [(3, 1024, 4096), (3, 4, 4096), ONE])
def test_a_question_longer_than_a_group_or_a_forward(constants, monkeypatch):
    sizes(monkeypatch, *constants)
    assert len(SUFFIX) > constants[0]
    model = random_model("mistral", 6)
    pairs = awkward_pairs()[:4]
    check(guard_prm(model), pairs, [plain_rewards(model, *pair) for pair in pairs])


def test_a_long_answer_takes_several_forwards_and_computes_nothing_twice(monkeypatch):
    sizes(monkeypatch, 12, 40, 4096)
    model = random_model("gemma3", 7)
    prm = guard_prm(model)
    prompt, answer = tokens(50, 1), tokens(60, 2)
    with forwards(prm) as rows:
        rewards = prm.prefix_rewards(prompt, answer)
    assert sum(rows) == len(prompt) + len(answer) * (1 + len(SUFFIX))
    assert max(rows) <= 40
    assert len(rows) >= 3 + 8
    assert torch.allclose(rewards, plain_rewards(model, prompt, answer), atol=1e-4, rtol=0)


def test_a_usual_answer_takes_two_forwards():
    prm = guard_prm(random_model())
    with forwards(prm) as rows:
        prm.prefix_rewards(tokens(20), tokens(50))
    assert rows == [70, 50 * len(SUFFIX)]


def test_an_answer_that_quotes_the_question_computes_it_once():
    prm = guard_prm(random_model())
    prompt, answer = tokens(6), [*SUFFIX, *SUFFIX, 30, *SUFFIX[:3]]
    trunk = [*prompt, *answer]
    prefixes = [trunk[:end] for end in range(len(prompt) + 1, len(trunk) + 1)]
    nodes = {tuple(trunk[:end]) for end in range(1, len(trunk) + 1)}
    asked = {(*prefix, *SUFFIX[:end]) for prefix in prefixes for end in range(1, len(SUFFIX) + 1)}
    # the end of a question that is part of the answer is computed once more, to be read
    read = nodes & {(*prefix, *SUFFIX) for prefix in prefixes}
    with forwards(prm) as rows:
        prm.prefix_rewards(prompt, answer)
    assert len(read) >= 1
    assert rows == [len(nodes), len(asked - nodes) + len(read)]


def test_a_shared_prompt_is_computed_once():
    prm = guard_prm(random_model())
    prompt = tokens(60)
    answers = [tokens(8, seed) for seed in range(1, 6)]
    assert len({answer[0] for answer in answers}) == 5
    with forwards(prm) as rows:
        prm.score([(prompt, answer) for answer in answers])
    assert sum(rows) == 60 + 5 * 8 * (1 + len(SUFFIX))


def test_many_together_are_each_alone(monkeypatch):
    sizes(monkeypatch, 16, 64, 150)
    prm = guard_prm(random_model("qwen3", 8))
    pairs = [(tokens(5 + k % 7, k % 4), tokens(1 + 3 * k, k + 50)) for k in range(14)]
    pairs.insert(3, (tokens(4), []))
    together = prm.score(pairs)
    assert [len(rewards) for rewards in together] == [len(answer) for _, answer in pairs]
    for pair, rewards in zip(pairs, together, strict=True):
        assert torch.allclose(prm.prefix_rewards(*pair), rewards, atol=1e-4, rtol=0)
    assert prm.score([]) == []


def test_no_answer_no_reward():
    prm = guard_prm()
    with forwards(prm) as rows:
        rewards = prm.prefix_rewards([1, 2], [])
        assert prm.score([([1], []), ([1, 2], [])])[1].shape == (0,)
    assert rows == []
    assert rewards.shape == (0,)
    assert rewards.dtype == torch.float32


def test_a_prompt_has_to_be_there():
    prm = guard_prm()
    function = ProcessRewardModel.from_function(lambda prompt, answer: 0.0, tiny_tokenizer())
    for model in (prm, function):
        for pairs in ([([], [1, 2])], [([], [])], [([1], [2]), ([], [1])]):
            with pytest.raises(SettingsError, match="prompt_ids"):
                model.score(pairs)
    assert prm.decoder.forest.used == 0


def test_what_is_too_long_is_refused_before_any_forward():
    prm = guard_prm()
    assert prm.decoder.context == 256
    fitting = 256 - 10 - len(SUFFIX)
    prm.check_length(tokens(10), tokens(fitting))
    with forwards(prm) as rows:
        for call in (
            lambda: prm.prefix_rewards(tokens(10), tokens(fitting + 1)),
            lambda: prm.score([(tokens(3), tokens(3)), (tokens(fitting + 10), tokens(1))]),
            lambda: prm.check_length(tokens(10), tokens(fitting + 1)),
        ):
            with pytest.raises(ContextOverflowError, match=r"257 tokens.*question.*context of 256"):
                call()
    assert rows == []
    assert prm.decoder.forest.used == 0


def test_the_longest_that_fits_is_scored_to_its_end():
    model = random_model(max_position_embeddings=64)
    prm = guard_prm(model)
    answer = tokens(64 - 10 - len(SUFFIX), 1)
    found = prm.prefix_rewards(tokens(10), answer)
    assert torch.allclose(found, plain_rewards(model, tokens(10), answer), atol=1e-4, rtol=0)


def test_a_small_cache_takes_the_answers_one_after_another():
    model = random_model("llama", 9)
    prm = guard_prm(model, max_cache_tokens=60)
    pairs = [(tokens(10, seed), tokens(25, seed + 10)) for seed in range(5)]
    check(prm, pairs, [plain_rewards(model, *pair) for pair in pairs])
    with pytest.raises(CacheFullError, match=r"60 slots.*max_cache_tokens"):
        prm.prefix_rewards(tokens(10), tokens(51))
    assert prm.decoder.forest.used == 0
    check(prm, pairs[:1], [plain_rewards(model, *pairs[0])])


def test_nan_is_an_error_and_leaves_nothing_behind(monkeypatch):
    model = random_model("llama", 10)
    prm = guard_prm(model)
    pairs = awkward_pairs()
    expected = [plain_rewards(model, *pair) for pair in pairs]
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        kept = embeddings[310].clone()
        embeddings[310] = float("nan")
    for constants in (USUAL, SMALL):
        sizes(monkeypatch, *constants)
        for prompt, answer in ((tokens(30), [*tokens(9), 310, *tokens(40)]), ([310, *tokens(30)], tokens(60))):
            with pytest.raises(NumericalError, match="process reward model returned NaN"):
                prm.prefix_rewards(prompt, answer)
            assert prm.decoder.forest.used == 0
            check(prm, pairs, expected)
    with torch.no_grad():
        embeddings[310] = kept
    check(prm, pairs, expected)


@pytest.mark.parametrize("verdicts", [[SAFE], [SAFE, UNSAFE]])
def test_an_infinite_reward_is_an_error(verdicts):
    """What is too large for the dtype: infinite, or NaN where both words are."""
    model = random_model("llama", 16)
    prm = guard_prm(model)
    with torch.no_grad():
        for word in verdicts:
            model.lm_head.weight[word] = 0
            model.lm_head.weight[word, 3] = 3e38
        model.lm_head.weight[:, 3] *= 10
    with pytest.raises(NumericalError, match="infinite"):
        prm.prefix_rewards(tokens(9), tokens(30))
    assert prm.decoder.forest.used == 0


def test_damaged_weights_are_refused_at_load():
    model = random_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NumericalError, match="process reward model"):
        guard_prm(model)


def test_a_forward_that_fails_gives_its_slots_back(monkeypatch):
    sizes(monkeypatch, *SMALL)
    model = random_model("llama", 12)
    prm = guard_prm(model)
    pairs = awkward_pairs()
    for failing in range(1, 7):
        calls = 0

        def fail(module, args, failing=failing):
            nonlocal calls
            calls += 1
            if calls == failing:
                raise RuntimeError("the device fell off")

        handle = prm.decoder.model.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="fell off"):
            prm.score(pairs)
        handle.remove()
        assert prm.decoder.forest.used == 0
    check(prm, pairs, [plain_rewards(model, *pair) for pair in pairs])


def test_threads_take_turns():
    model = random_model("llama", 13)
    prm = guard_prm(model)
    pairs = [(tokens(10, seed), tokens(12, seed + 20)) for seed in range(6)]
    expected = [plain_rewards(model, *pair) for pair in pairs]
    wrong = []

    def work(first):
        try:
            for k in range(2 * len(pairs)):
                i = (first + k) % len(pairs)
                difference = (prm.prefix_rewards(*pairs[i]) - expected[i]).abs().max()
                if not difference < 1e-4:
                    wrong.append(float(difference))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert prm.decoder.forest.used == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_rewards_are_float32_whatever_the_weights_are(dtype):
    model = random_model("llama", 14, dtype=dtype)
    prompt, answer = tokens(9), tokens(20, 1)
    rewards = guard_prm(model).prefix_rewards(prompt, answer)
    assert rewards.dtype == torch.float32
    assert rewards.device.type == "cpu"
    assert not rewards.is_inference()
    expected = plain_rewards(model, prompt, answer)
    assert torch.allclose(rewards, expected, atol=0.5 if dtype == torch.bfloat16 else 1e-6, rtol=0)
    assert expected.std() > 1


def test_a_loaded_model_stays_as_it_was():
    model, untouched = random_model("llama", 15), random_model("llama", 15)
    guard_prm(model).prefix_rewards(tokens(9), tokens(9))
    assert torch.equal(plain_logits(model, tokens(20)), plain_logits(untouched, tokens(20)))


@pytest.mark.parametrize("constants", [USUAL, SMALL, ONE])
@pytest.mark.parametrize("suffix", [SUFFIX, []])
def test_branches_are_those_of_plain_forwards(constants, suffix, monkeypatch):
    sizes(monkeypatch, *constants)
    model = random_model("gemma3", 8)
    decoder = TrieDecoder(model, "process reward model", 2000)
    pairs = awkward_pairs()[:4]
    # one of them is what another answer goes on with, one the question's first token, one hangs off the prompt
    branches = [
        [(2, (33,)), (2, (pairs[3][1][2],)), (0, (34, 35))],
        [],
        [(3, (SUFFIX[0],)), (5, (21, 22)), (5, (21, 23))],
        [(1, (33,))],
    ]
    scorer = PrefixScorer(decoder, suffix)
    prefixes, beside = scorer.branched_outputs(pairs, branches)
    assert decoder.forest.used == 0
    for found, wanted in zip(prefixes, scorer.outputs(pairs), strict=True):
        assert torch.allclose(found, wanted, atol=1e-4, rtol=0)
    for (prompt, answer), some, outputs in zip(pairs, branches, beside, strict=True):
        assert len(outputs) == len(some)
        for (count, more), row in zip(some, outputs, strict=True):
            expected = plain_logits(model, [*prompt, *answer[:count], *more, *suffix])
            assert torch.allclose(row, expected, atol=1e-4, rtol=0)


def test_a_branch_costs_its_token_and_the_question():
    prm = guard_prm(random_model())
    with forwards(prm) as rows:
        prm.score_branches([(tokens(20), tokens(50))], [[(10, (301,)), (10, (302,)), (49, (303,))]])
    assert rows == [70, 50 * len(SUFFIX), 3 * (1 + len(SUFFIX))]
