"""Small runs of training, some of them cut short, and their figures by hand."""

import numpy as np
import pytest

from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.settings import TrainSettings
from langchain_saffron.training.train import train
from unit_tests.tiny_models import random_model, tiny_tokenizer

# what peft warns of when it looks a model over
PEFT_WARNINGS = pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|fan_in_fan_out)")
NAN = float("nan")
TOKENIZER = tiny_tokenizer()
SETTINGS = TrainSettings(
    epochs=2,
    batch_size=4,
    learning_rate=5e-3,
    bias_learning_rate=0.4,
    held_out_share=0.2,
    precision=0.8,
    checkpoint_every=3,
    device="cpu",
)
STEPS = 10


def samples(count, seed=0, tokens=30, most=16):
    """Rewards that go by the token, so that a bias can learn them."""
    rng = np.random.default_rng(seed)
    made = []
    for record in range(count):
        ids = rng.integers(5, 5 + tokens, int(rng.integers(5, most)))
        rewards = np.where(ids % 2, 2.0, -2.0) + rng.normal(0, 0.5, len(ids))
        rewards[:3] = NAN
        made.append(Sample(record, ids, rewards.astype(np.float32)))
    return made


def data(count=24, seed=0):
    return RewardData(samples(count, seed), {})


def save_base(directory, family="llama", seed=3, **changes):
    random_model(family, seed, **changes).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


class Stop(Exception):
    """What ends a run in the middle."""


def stop_at(step):
    def progress(done, steps, loss):
        assert steps == STEPS
        if done >= step:
            raise Stop

    return progress


def cut_short(out, base, step=8, **changes):
    """A run that has checkpoints and no more."""
    settings = SETTINGS.model_copy(update=changes)
    with pytest.raises(Stop):
        train(data(), out, base=base, settings=settings, progress=stop_at(step))


def function_prm(tokenizer=TOKENIZER):
    return ProcessRewardModel.from_function(lambda prompt, answer: len(answer) % 5 - 2.5, tokenizer)


def one_by_one(mrm, held_out):
    """(rewards of the PRM, predictions) of every prefix, one forward each."""
    wanted = [sample.rewards[at] for sample in held_out.samples for at in np.flatnonzero(sample.known)]
    found = [
        float(mrm.rewards(sample.token_ids[:at])[sample.token_ids[at]])
        for sample in held_out.samples
        for at in np.flatnonzero(sample.known)
    ]
    return np.array(wanted, np.float64), np.array(found, np.float64)


def check_figures(figures, wanted, found, precision):
    error = found - wanted
    assert figures["rewards"] == len(wanted)
    assert figures["mse"] == pytest.approx((error**2).mean(), abs=1e-3)
    assert figures["within_1"] == pytest.approx((abs(error) <= 1).mean(), abs=1e-3)
    by_hand = ((wanted - wanted.mean()) * (found - found.mean())).mean() / wanted.std() / found.std()
    assert figures["pearson_r"] == pytest.approx(by_hand, abs=1e-3)
    threshold = lowest_threshold(wanted, found, precision)
    assert figures["safety_threshold"] == (None if threshold is None else pytest.approx(threshold, abs=1e-3))


def lowest_threshold(wanted, found, precision):
    """Every prediction tried as the threshold."""
    if all(w > 0 for w in wanted):
        return None
    for threshold in sorted(set(found)):
        passed = [w > 0 for w, f in zip(wanted, found, strict=True) if f >= threshold]
        if sum(passed) / len(passed) >= precision:
            return threshold
    return None
