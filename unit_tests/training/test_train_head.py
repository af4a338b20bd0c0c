"""A head learns rewards from the states of its policy, which reads conversations in its own chat template."""

import re

import numpy as np
import pytest

from langchain_saffron import SaffronEngine
from langchain_saffron.errors import TrainingError
from langchain_saffron.models.reward_head import RewardHead
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.policy_prompts import PolicyPrompts
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.settings import HeadSettings
from langchain_saffron.training.train_head import train_head
from unit_tests.tiny_models import random_model
from unit_tests.training.runs import NAN, TOKENIZER, check_figures, data, one_by_one

pytestmark = pytest.mark.filterwarnings("ignore:.*is not likely to work", "ignore:.*may not work")
SETTINGS = HeadSettings(epochs=12, batch_size=32, learning_rate=5e-3, rank=8, precision=0.8, device="cpu")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    directory = tmp_path_factory.mktemp("policy")
    random_model("llama", 3).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


def test_a_head_predicts_held_out_rewards(policy, tmp_path):
    steps: list[int] = []
    figures = train_head(
        data(60), tmp_path / "head", policy=policy, settings=SETTINGS, progress=lambda done, *rest: steps.append(done)
    )
    assert figures["pearson_r"] > 0.8
    assert steps
    engine = SaffronEngine.from_pretrained(policy, tmp_path / "head")
    # states were kept in float16 meanwhile
    _, held_out = data(60).split(SETTINGS.held_out_share, SETTINGS.seed)
    check_figures(figures, *one_by_one(engine.reward_model, held_out), 0.8)
    assert engine.reward_model.details["training"]["trained_parameters"] == engine.reward_model.parameters
    engine.close()
    before = (tmp_path / "head" / "mrm.safetensors").read_bytes()
    assert train_head(data(60), tmp_path / "head", policy=policy, settings=SETTINGS) == figures
    with pytest.raises(TrainingError, match="another reward model"):
        train_head(data(30), tmp_path / "head", policy=policy, settings=SETTINGS)
    train_head(data(60), tmp_path / "again", policy=policy, settings=SETTINGS)
    assert (tmp_path / "again" / "mrm.safetensors").read_bytes() == before


def test_the_best_layer_is_chosen_by_what_it_predicts(policy, tmp_path):
    told: list[str] = []
    train_head(data(24), tmp_path / "head", policy=policy, settings=SETTINGS, report=told.append)
    head = RewardHead.from_pretrained(tmp_path / "head")
    errors = {int(layer): float(error) for error, layer in re.findall(r"([\d.]+) at layer (\d+)", told[0])}
    assert told[0].startswith(f"the head reads layer {head.layer}: ")
    assert len(errors) > 1
    assert errors[head.layer] == min(errors.values())


def test_prompts_are_those_of_the_chat_template():
    template = RewardTemplate.for_tokenizer(TOKENIZER)
    tokenizer = TOKENIZER
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}<assistant>"
    )
    turns = [
        ("system", "Be kind."),
        ("user", "How do I boil rice?\n\nFast."),
        ("assistant", "In water."),
        ("user", "How long?"),
    ]
    prompt, answer = template.prompt_ids(tokenizer, turns), tokenizer.encode("Ten minutes.", add_special_tokens=False)
    rewards = np.array([NAN] * len(prompt) + [1.0] * len(answer), np.float32)
    foreign = Sample(1, np.array([5, 6, *answer]), np.array([NAN, NAN] + [1.0] * len(answer), np.float32))
    both = RewardData([Sample(0, np.array([*prompt, *answer]), rewards), foreign], {})
    prompts = PolicyPrompts(tokenizer, template)
    first, second = prompts.rewrite(both).samples
    written = tokenizer.decode(first.token_ids[: -len(answer)])
    assert (
        written
        == "<system>Be kind.\n<user>How do I boil rice?\n\nFast.\n<assistant>In water.\n<user>How long?\n<assistant>"
    )
    assert first.token_ids[-len(answer) :].tolist() == answer
    assert first.known.tolist() == [False] * (len(first.token_ids) - len(answer)) + [True] * len(answer)
    assert second is foreign
    assert prompts.kept == 1
