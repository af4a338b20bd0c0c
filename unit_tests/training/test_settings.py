"""Settings of annotation and of training."""

import pytest
from pydantic import ValidationError

from langchain_saffron.training.settings import AnnotateSettings, CandidateSettings, TrainSettings


def test_settings_are_checked():
    for wrong in (
        {"epochs": 0},
        {"learning_rate": -1},
        {"held_out_share": 1.0},
        {"mixed_precision": "int8"},
        {"lr": 1},
    ):
        with pytest.raises(ValidationError):
            TrainSettings(**wrong)
    spread = TrainSettings(micro_batch_size=3, checkpoint_every=9, device="cpu")
    assert spread.of_run() == TrainSettings().of_run()
    assert TrainSettings(seed=1).of_run() != TrainSettings().of_run()
    assert TrainSettings(bias_start="mean").of_run() != TrainSettings().of_run()
    # so that what was trained before there was this setting can go on
    assert "bias_start" not in TrainSettings().of_run()


@pytest.mark.parametrize(
    ("settings", "rewards", "size"),
    [
        # the token itself and four others
        ({"count": 4}, 5, 100),
        # and two behind each of the five, at every fourth place
        ({"count": 4, "after": 4}, 7.5, 67),
        ({"count": 4, "every": 2, "after": 5}, 4, 125),
        ({"count": 2000}, 2001, 1),
    ],
)
def test_shards_with_candidates_take_no_longer(settings, rewards, size):
    candidates = CandidateSettings(**settings)
    assert candidates.rewards == rewards
    assert AnnotateSettings(limit=9).in_shards_for(candidates) == AnnotateSettings(limit=9, shard_size=size)
    assert AnnotateSettings().in_shards_for(None).shard_size == 500
    assert AnnotateSettings(shard_size=500).in_shards_for(candidates).shard_size == 500


@pytest.mark.parametrize("part", ["2/4", (2, 4), ["2", "4"]])
def test_a_part_is_written_as_a_fraction(part):
    assert AnnotateSettings(part=part).part == (2, 4)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2/3", (1,), None, "-1/2"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ValidationError, match="part"):
        AnnotateSettings(part=part)
