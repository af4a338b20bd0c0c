"""Candidates: the policy's likeliest others, their rewards against the guard's own, and what is learnt from them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from langchain_saffron import MultifurcationRewardModel, SaffronEngine
from langchain_saffron.errors import ContextOverflowError, CorpusError, SettingsError, VocabularyMismatchError
from langchain_saffron.models import packing
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.text_prm import TextRewardModel
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training import candidates
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.candidates import Candidates
from langchain_saffron.training.choice_loss import squared_errors
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.policy_prompts import PolicyPrompts
from langchain_saffron.training.rollouts import Rollouts
from langchain_saffron.training.settings import AnnotateSettings, CandidateSettings, HeadSettings
from langchain_saffron.training.sibling_states import SiblingStates
from langchain_saffron.training.train import train
from langchain_saffron.training.train_head import train_head
from unit_tests.builders import byte_level_tokenizer
from unit_tests.disks import content
from unit_tests.tiny_models import plain_logits, random_model
from unit_tests.training.annotations import TOKENIZER, Rule, chat, ids, rows, rule, write
from unit_tests.training.runs import NAN, PEFT_WARNINGS, SETTINGS, samples, save_base

PROMPT, ANSWER = [TOKENIZER.bos_token_id, *ids("How long does rice boil?")], ids("Boil it, then serve.")
KEPT = {"record", "token_ids", "response_start", "response_end", "rewards"}
QUIET = pytest.mark.filterwarnings("ignore::langchain_saffron.models.mrm_quality.RewardModelWarning")


@pytest.fixture(scope="module")
def policy():
    return random_model("qwen3", 7)


def named(policy, prm, **settings):
    return Candidates(policy, TOKENIZER, prm, CandidateSettings(**settings))


# all in one forward, and some in each
@pytest.mark.parametrize("together", [128, 3, 1])
def test_the_likeliest_tokens_but_the_one_that_was_said(policy, prm, together, monkeypatch):
    monkeypatch.setattr(candidates, "_TOGETHER", together)
    found = named(policy, prm, count=5, every=2).of(PROMPT, ANSWER)
    never = {*end_token_ids(policy, TOKENIZER), *TOKENIZER.all_special_ids}
    said_was_likely = 0
    for place, (said, tokens) in enumerate(zip(ANSWER, found, strict=True)):
        if place % 2:
            assert tokens == []
            continue
        order = plain_logits(policy, [*PROMPT, *ANSWER[:place]])[: len(TOKENIZER)].argsort(descending=True).tolist()
        wanted = [token for token in order if token not in never and token != said][:5]
        assert tokens == wanted
        said_was_likely += said in order[:6]
    # the likeliest token said in its place is left out
    first = found[0][0]
    assert first not in named(policy, prm, count=5).of(PROMPT, [first, *ANSWER])[0]
    assert named(policy, prm).of(PROMPT, []) == []


@pytest.mark.parametrize("kind", ["model", "function", "text"])
def test_rewards_are_those_of_the_prefix_with_the_candidate(policy, prm, kind, tmp_path):
    guard = {"model": prm, "function": rule()[0], "text": TextRewardModel(prm, TOKENIZER)}[kind]
    corpus = write(tmp_path / "c.jsonl", [chat(i) for i in range(4)])
    settings = AnnotateSettings(max_tokens=64, batch_size=3)
    manifest = annotate(corpus, guard, tmp_path / "out", settings, candidates=named(policy, guard, count=2, every=3))
    annotate(corpus, guard, tmp_path / "said", settings)
    beside = rows(tmp_path / "out")
    # of what was said everything is as without
    kept = [{key: value for key, value in row.items() if key in KEPT} for row in beside]
    for row, alone in zip(kept, rows(tmp_path / "said"), strict=True):
        assert np.allclose(row.pop("rewards"), alone.pop("rewards"), atol=1e-5, equal_nan=True)
        assert row == alone
    scored = 0
    for row in beside:
        start = row["response_start"]
        prompt, response = row["token_ids"][:start], row["token_ids"][start:]
        for place, (tokens, rewards) in enumerate(zip(row["candidates"], row["candidate_rewards"], strict=True)):
            assert len(tokens) == len(rewards) == (0 if place % 3 else 2)
            for token, reward in zip(tokens, rewards, strict=True):
                said = [*response[:place], token]
                if kind == "text" and TOKENIZER.decode(said).endswith("\ufffd"):
                    assert math.isnan(reward)
                    continue
                asked = prompt if kind == "function" else _asked(guard, row, corpus)
                # a text's reward is that of the guard's own tokens of it
                assert reward == pytest.approx(float(guard.whole_rewards([(asked, said)])[0]), abs=1e-4)
                scored += 1
    assert scored == manifest["counts"]["candidates"] > 20


def _asked(guard, row, corpus):
    """The guard's prompt of a row."""
    return guard.prompt_ids(_turns(guard, row, corpus))


def _turns(guard, row, corpus):
    """What a row answers, found by the MRM's prompt."""
    template = guard.template
    for record in corpus.read(row["record"], row["record"] + 1):
        messages = record.data["messages"]
        for end in range(len(messages)):
            turns = [(turn["role"], turn["content"]) for turn in messages[:end]]
            if turns and template.prompt_ids(TOKENIZER, turns) == row["token_ids"][: row["response_start"]]:
                return turns
    raise AssertionError("no such prompt")


def test_an_annotation_goes_on_with_the_same_candidates_only(policy, tmp_path):
    corpus = write(tmp_path / "c.jsonl", [chat(i) for i in range(6)])
    settings = AnnotateSettings(shard_size=2, max_tokens=64)
    guard, asked = rule()

    def run(out, prm, **changes):
        return annotate(corpus, prm, tmp_path / out, settings, candidates=named(policy, prm, **{"count": 2, **changes}))

    manifest = run("whole", guard)
    assert manifest["settings"]["candidates"]["count"] == 2
    broken = Rule(fails_at=len(asked.asked) * 2 // 3)
    with pytest.raises(KeyboardInterrupt):
        run("cut", ProcessRewardModel.from_function(broken, TOKENIZER, guard.name))
    assert len(list((tmp_path / "cut").glob("*.parquet"))) in (1, 2)
    run("cut", guard)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    for other in ({"count": 3}, {"every": 2}):
        with pytest.raises(CorpusError, match="other candidates"):
            run("whole", guard, **other)
    with pytest.raises(CorpusError, match="other candidates"):
        annotate(corpus, guard, tmp_path / "whole", settings)
    # as training reads them
    data = RewardData.load(tmp_path / "whole")
    assert data.candidates == manifest["counts"]["candidates"]
    assert data.rewards == manifest["counts"]["rewards"]
    for sample, row in zip(data.samples, rows(tmp_path / "whole"), strict=True):
        said = len(row["rewards"])
        at, tokens, rewards = sample.targets()
        assert tokens[:said].tolist() == row["token_ids"][row["response_start"] :]
        assert tokens[said:].tolist() == [token for some in row["candidates"] for token in some]
        assert rewards[said:].tolist() == [reward for some in row["candidate_rewards"] for reward in some]
        assert at[said:].tolist() == [
            row["response_start"] + i for i, some in enumerate(row["candidates"]) for _ in some
        ]
    seen = data.seen(len(TOKENIZER))
    assert all(seen[token] for row in rows(tmp_path / "whole") for some in row["candidates"] for token in some)


def test_what_follows_candidates_is_scored_and_told_to_a_head(policy, prm, tmp_path, monkeypatch):
    corpus = write(tmp_path / "c.jsonl", [chat(i) for i in range(6)])
    settings = AnnotateSettings(max_tokens=64, shard_size=3)
    monkeypatch.setattr(candidates, "_TOGETHER", 4)
    manifest = annotate(
        corpus, prm, tmp_path / "out", settings, candidates=named(policy, prm, count=2, every=2, after=2)
    )
    data, known = RewardData.load(tmp_path / "out"), rows(tmp_path / "out")
    never = [*end_token_ids(policy, TOKENIZER), *TOKENIZER.all_special_ids]
    scored = 0
    for sample, row in zip(data.samples, known, strict=True):
        start = row["response_start"]
        response = row["token_ids"][start:]
        assert sorted({place for place, _, _ in row["after"]}) == list(range(0, len(response), 4))
        asked = _asked(prm, row, corpus)
        for (place, one, two), reward in zip(row["after"], row["after_rewards"], strict=True):
            assert one in (response[place], *row["candidates"][place])
            said = [*response[:place], one, two]
            assert reward == pytest.approx(float(prm.whole_rewards([(asked, said)])[0]), abs=1e-4)
            scored += 1
        assert (sample.after - [start, 0, 0]).tolist() == row["after"]
        # by the policy's own words for what comes next: its prompt is the row's own where it has no template
        prompt = named(policy, prm).prompt_ids(_turns(prm, row, corpus))
        place, one, two = row["after"][0]
        order = plain_logits(policy, [*prompt, *response[:place], one])[: len(TOKENIZER)].argsort(descending=True)
        assert two == next(token for token in order.tolist() if token not in never)
    assert scored == manifest["counts"]["after"] > 20
    # the states are those of plain forwards, layer by layer
    states = SiblingStates.of(policy, data.samples, [1, 2])
    # of large models a copy runs
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    packed = SiblingStates.of(policy, data.samples, [1, 2])
    assert torch.allclose(packed.states[2].float(), states.states[2].float(), atol=5e-3)
    pairs = [(sample, *pair) for sample in data.samples for pair in sample.after.tolist()]
    assert states.following.tolist() == [two for *_, two in pairs]
    for index in range(0, len(pairs), 7):
        sample, at, one, _ = pairs[index]
        inputs = torch.tensor([[*sample.token_ids[:at].tolist(), one]])
        hidden = policy.model(input_ids=inputs, output_hidden_states=True, use_cache=False).hidden_states
        assert torch.allclose(states.states[1][index].float(), hidden[1][0, -1], atol=5e-3)
    (few,) = [states.of_places([1, 0])]
    assert few.following.tolist() == [
        *states.following[states.place == 1].tolist(), *states.following[states.place == 0].tolist(),
    ]  # fmt: skip
    assert few.place.tolist() == [0] * int((states.place == 1).sum()) + [1] * int((states.place == 0).sum())
    assert SiblingStates.of(policy, samples(3), [1]) is None


def test_what_cannot_be_is_told(policy, prm, tmp_path):
    with pytest.raises(VocabularyMismatchError):
        Candidates(policy, byte_level_tokenizer(vocab_size=300), prm)
    with pytest.raises(SettingsError, match="no 100000 other tokens"):
        named(policy, prm, count=100_000)
    with pytest.raises(ContextOverflowError, match="the policy's context"):
        named(policy, prm).check_length(PROMPT, [3] * policy.config.max_position_embeddings)
    corpus = write(tmp_path / "c.jsonl", [chat(0)])
    with pytest.raises(SettingsError, match="rollouts"):
        annotate(
            corpus, prm, tmp_path / "out",
            rollouts=Rollouts(policy, TOKENIZER, prm), candidates=named(policy, prm),
        )  # fmt: skip


def test_the_loss_by_hand():
    error, prefix = torch.tensor([1.0, 3.0, -2.0, 0.5]), torch.tensor([0, 0, 1, 0])
    mean = 1.5
    apart = (1 - mean) ** 2 + (3 - mean) ** 2 + (0.5 - mean) ** 2
    assert float(squared_errors(error, prefix, 4.0)) == pytest.approx(1 + 9 + 4 + 0.25 + 4 * apart)
    # as it was where nothing but what was said is known
    assert float(squared_errors(error, torch.arange(4))) == float(error.pow(2).sum())


def with_candidates(count, seed=0):
    """What was said tells of the prefix, and candidates of tokens: rewards of 2 or -2 by whether those are odd."""
    rng = np.random.default_rng(seed)
    made = []
    for sample in samples(count, seed):
        shape = len(sample.token_ids), 3
        tokens = rng.integers(40, 48, shape)
        rewards = np.where(tokens % 2, 2.0, -2.0).astype(np.float32)
        rewards[:3] = NAN
        rewards[rng.random(shape) < 0.2] = NAN
        made.append(replace(sample, candidates=tokens, candidate_rewards=rewards))
    return RewardData(made, {})


def by_hand(reward_model, held_out):
    """(choices, r among candidates), one prefix at a time."""
    known, predicted, choices = [], [], 0
    for sample in held_out.samples:
        at, tokens, rewards = sample.targets()
        for place in sorted(set(at.tolist())):
            here = at == place
            if here.sum() < 2:
                continue
            said = reward_model.rewards(sample.token_ids[:place])[torch.from_numpy(tokens[here])].double().numpy()
            known.append(rewards[here] - rewards[here].mean(dtype=np.float64))
            predicted.append(said - said.mean())
            choices += 1
    return choices, float(np.corrcoef(np.concatenate(known), np.concatenate(predicted))[0, 1])


@QUIET
@PEFT_WARNINGS
@pytest.mark.parametrize("kind", ["adapter", "head"])
def test_a_reward_model_learns_the_choice_among_candidates(kind, tmp_path):
    base = save_base(tmp_path / "base", num_hidden_layers=2)
    data = with_candidates(24)
    learnt, held_out = data.split(0.2, 0)

    def fitted(data, out):
        if kind == "head":
            settings = HeadSettings(epochs=20, batch_size=32, learning_rate=5e-3, rank=8, layer=1, device="cpu")
            return train_head(data, tmp_path / out, policy=base, held_out=held_out, settings=settings)
        settings = SETTINGS.model_copy(update={"epochs": 4})
        return train(data, tmp_path / out, base=base, held_out=held_out, settings=settings)

    figures = fitted(learnt, "learnt")
    assert figures["choice_r"] > 0.7
    if kind == "head":
        said = [replace(sample, candidates=None, candidate_rewards=None) for sample in learnt.samples]
        assert fitted(RewardData(said, {}), "said")["choice_r"] < 0.6
    if kind == "head":
        engine = SaffronEngine.from_pretrained(base, tmp_path / "learnt")
        reward_model = engine.reward_model
    else:
        reward_model = MultifurcationRewardModel.from_pretrained(tmp_path / "learnt")
    choices, r = by_hand(reward_model, held_out)
    assert (figures["choices"], figures["choice_r"]) == (choices, pytest.approx(r, abs=2e-3))
    # what was shown as a candidate was seen
    assert reward_model.seen[40:48].all()
    details = reward_model.details["training"]
    assert (details["rewards"], details["candidates"]) == (learnt.rewards, learnt.candidates)
    if kind == "head":
        engine.close()


@QUIET
def test_a_head_learns_to_tell_what_follows_candidates_apart(tmp_path):
    """Rewards behind a candidate go by that candidate alone, which nothing but `after` tells."""
    base = save_base(tmp_path / "base", num_hidden_layers=2)
    rng = np.random.default_rng(2)
    made = []
    for sample in with_candidates(30).samples:
        places = np.arange(3, len(sample.token_ids), 2)
        after = np.array([[at, one, two] for at in places for one in range(40, 48) for two in rng.integers(50, 54, 2)])
        after = after.reshape(-1, 3)
        rewards = np.where(after[:, 1] % 4 < 2, 2.0, -2.0).astype(np.float32)
        made.append(replace(sample, after=after, after_rewards=rewards))
    learnt, held_out = RewardData(made, {}).split(0.2, 0)
    settings = HeadSettings(epochs=60, batch_size=32, learning_rate=1e-2, rank=16, layer=1, device="cpu")

    def r(name, data):
        train_head(data, tmp_path / name, policy=base, held_out=held_out, settings=settings)
        engine = SaffronEngine.from_pretrained(base, tmp_path / name)
        known, predicted = [], []
        for sample in held_out.samples:
            for (at, one, two), reward in list(zip(sample.after, sample.after_rewards, strict=True))[:16]:
                known.append(reward)
                predicted.append(float(engine.reward_model.rewards([*sample.token_ids[:at], one])[two]))
        assert name == "without" or engine.reward_model.seen[50:54].all()
        engine.close()
        return float(np.corrcoef(known, predicted)[0, 1])

    without = [replace(sample, after=None, after_rewards=None) for sample in learnt.samples]
    assert r("with", learnt) > 0.5 > 0.25 > r("without", RewardData(without, {}))


def test_the_policys_prompt_moves_candidates_along():
    template = RewardTemplate.for_tokenizer(TOKENIZER)
    prompt = template.prompt_ids(TOKENIZER, [("user", "rice?")])
    answer = ids("Boil it.")
    shape = len(prompt) + len(answer), 2
    tokens = np.arange(shape[0] * 2).reshape(shape)
    rewards = np.full(shape, NAN, np.float32)
    rewards[len(prompt) :] = 1.5
    sample = replace(
        samples(1)[0],
        token_ids=np.array([*prompt, *answer]),
        rewards=np.array([NAN] * len(prompt) + [1.0] * len(answer), np.float32),
        candidates=tokens,
        candidate_rewards=rewards,
    )
    (moved,) = PolicyPrompts(TOKENIZER, template).rewrite(RewardData([sample], {})).samples
    shift = len(moved.token_ids) - len(sample.token_ids)
    for found, wanted in zip(moved.targets(), sample.targets(), strict=True):
        assert len(found) == 3 * len(answer)
        assert found.tolist() in (wanted.tolist(), (wanted + shift).tolist())
    assert moved.targets()[0].tolist() == (sample.targets()[0] + shift).tolist()
    assert moved.targets()[1].tolist() == sample.targets()[1].tolist()
