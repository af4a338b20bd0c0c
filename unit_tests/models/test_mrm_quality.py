"""Reward models that cannot work: what is said of them, and how often."""

import json
import warnings

import pytest

from langchain_saffron import MultifurcationRewardModel
from langchain_saffron.models.mrm_quality import RewardModelWarning, covers, usual_error, weaknesses
from unit_tests.tiny_models import VOCABULARY, random_reward_model

GOOD = {
    "pearson_r": 0.95, "seen_share": 0.999, "safety_threshold": 0.5, "lowest_rewards": -4.0, "highest_rewards": 4.0,
    "lowest_predictions": -3.0, "highest_predictions": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), [
    ({}, []),
    ({"pearson_r": 0.04}, ["held-out r 0.04"]),
    ({"seen_share": 0.85}, ["85.0% of the tokens of held-out answers"]),
    ({"safety_threshold": 4.5}, ["4.500 lies above all rewards"]),
    ({"safety_threshold": 3.5}, ["3.500 lies above all predictions"]),
    ({"safety_threshold": -5.0}, ["-5.000 lies below all rewards"]),
    ({"safety_threshold": None}, ["no safety threshold could be calibrated"]),
    ({"pearson_r": 0.0, "safety_threshold": 9.0}, ["held-out r 0.00", "above all"]),
    ({"pearson_r": "damaged", "seen_share": None, "highest_rewards": []}, []),
])  # fmt: skip
def test_each_weakness_is_named(changes: dict, told: list[str]):
    found = weaknesses(500, 1000, {**GOOD, **changes})
    assert len(found) == len(told)
    assert all(part in sentence for part, sentence in zip(told, found, strict=True))


def test_few_seen_tokens_are_a_weakness_whatever_was_held_out():
    assert weaknesses(500, 1000, {}) == []
    (told,) = weaknesses(35, 1000, {})
    assert "3.5% of the vocabulary)" in told
    # the published reward model's, and an English corpus under a vocabulary of many languages
    assert covers(36_243, 128_256, {})
    assert covers(30_000, 256_000, {})
    # enough for the soft mask is not enough for the strict one
    assert weaknesses(500, 1000, {"seen_share": 0.98}) == []
    assert not covers(500, 1000, {"seen_share": 0.98})
    assert not covers(1_700, 49_152, {"seen_share": 1.0})


def test_loading_warns_once_a_file(tmp_path):
    weak = {"held_out": {**GOOD, "pearson_r": 0.04}}
    random_reward_model(1).save_pretrained(tmp_path / "a", training=weak)
    with pytest.warns(RewardModelWarning, match=r"a may not work: .*held-out r 0\.04") as told:
        MultifurcationRewardModel.from_pretrained(tmp_path / "a")
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultifurcationRewardModel.from_pretrained(tmp_path / "a")
    # another file, and another training at the same place
    random_reward_model(1, unseen=VOCABULARY - 5).save_pretrained(tmp_path / "b")
    with pytest.warns(RewardModelWarning, match="few tokens"):
        MultifurcationRewardModel.from_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "a" / "mrm_config.json").read_text())
    config["training"]["held_out"]["pearson_r"] = 0.2
    (tmp_path / "a" / "mrm_config.json").write_text(json.dumps(config))
    with pytest.warns(RewardModelWarning, match=r"held-out r 0\.20"):
        MultifurcationRewardModel.from_pretrained(tmp_path / "a")


@pytest.mark.parametrize("training", [None, [], {"held_out": GOOD}, {"held_out": 3}])
def test_one_without_faults_or_records_loads_in_silence(tmp_path, training):
    random_reward_model(1).save_pretrained(tmp_path, training=training)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultifurcationRewardModel.from_pretrained(tmp_path)


def test_the_usual_error_is_what_training_recorded():
    assert usual_error({"training": {"held_out": {"mse": 2.25}}}) == 1.5
    for held_out in ({}, {"mse": None}, {"mse": float("nan")}, {"mse": -1.0}, {"mse": "1"}):
        assert usual_error({"training": {"held_out": held_out}}) is None
    assert usual_error({}) is None


def test_a_reward_model_tells_its_usual_error():
    assert random_reward_model(0).error is None
    assert MultifurcationRewardModel.from_pretrained("kitchen").error == pytest.approx(0.167, abs=1e-3)
