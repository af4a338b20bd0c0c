"""The script that compares rewards of what is there with forecasts; figures are another matter."""

import numpy as np
import pytest

from integration_tests.forecast_figures import at_the_same_places, row
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.sample import Sample


def sample(record, ids, rewards):
    return Sample(record, np.array(ids, dtype=np.int64), np.array(rewards, dtype=np.float32))


def test_rewards_are_kept_where_others_have_one_and_nowhere_else():
    nan = float("nan")
    plain = RewardData([sample(0, [5, 6, 7, 8], [nan, 1, 2, 3]), sample(1, [5, 9], [nan, 4])], {"counts": {}})
    # every second prefix of one conversation, and none of the other
    forecast = RewardData([sample(0, [5, 6, 7, 8], [nan, 0.5, nan, -0.5])], {})
    kept = at_the_same_places(plain, forecast)
    assert [one.record for one in kept.samples] == [0]
    assert kept.samples[0].rewards.tolist() == pytest.approx([nan, 1, nan, 3], nan_ok=True)
    assert kept.manifest == plain.manifest
    # nothing was changed in place
    assert plain.samples[0].rewards[2] == 2


def test_another_conversation_of_the_same_record_lends_no_places():
    plain = RewardData([sample(0, [5, 6], [np.nan, 1]), sample(0, [5, 7], [np.nan, 2])], {})
    forecast = RewardData([sample(0, [5, 7], [np.nan, 0])], {})
    assert [one.token_ids.tolist() for one in at_the_same_places(plain, forecast).samples] == [[5, 7]]


def test_a_row_tells_every_width():
    attacks = [{"unsafe": 0.5, "prompts": 10}, {"unsafe": 0.0, "prompts": 10}]
    line = row("forecasts", 1234, (0.9, 0.8), attacks, [{"on_topic": 1.0}, {"on_topic": 0.99}])
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["forecasts", "1,234", "0.900", "0.800"]
    assert cells[4] == "0.500 [0.237, 0.763]"
    assert cells[5] == "0.000 [0.000, 0.278]"
    assert cells[6] == "1.000 / 0.990"
