"""Settings of annotation and of training."""

import pytest
from pydantic import ValidationError

from langchain_saffron.training.settings import AnnotateSettings, TrainSettings


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


@pytest.mark.parametrize("part", ["2/4", (2, 4), ["2", "4"]])
def test_a_part_is_written_as_a_fraction(part):
    assert AnnotateSettings(part=part).part == (2, 4)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2/3", (1,), None, "-1/2"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ValidationError, match="part"):
        AnnotateSettings(part=part)
