"""The script that sets reward models side by side, on a few prompts; figures are another matter."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from integration_tests.head_figures import main, measure, table
from integration_tests.head_training import annotated
from integration_tests.reward_agreement import predicted
from integration_tests.scaling_figures import WORLDS
from langchain_saffron.engine import SaffronEngine
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.models.loading import load_tokenizer
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.settings import HeadSettings
from langchain_saffron.training.train_head import train_head

pytestmark = pytest.mark.slow

WORLD = replace(WORLDS["hard-kitchen"], max_tokens=24)


@pytest.fixture(scope="module")
def data():
    tokenizer = load_tokenizer(WORLD.policy, "policy")
    template = RewardTemplate.for_tokenizer(tokenizer)
    rng, samples = np.random.default_rng(0), []
    told = [one for one in conversations("held_out", 60, 0) if all(turn["role"] != "tool" for turn in one.messages)]
    long = [one for one in told if len(tokenizer.encode(one.messages[-1]["content"])) >= 12]
    for number, item in enumerate(long[:12]):
        turns = [(turn["role"], turn["content"]) for turn in item.messages[:-1]]
        prompt = template.prompt_ids(tokenizer, turns)
        ids = np.array([*prompt, *tokenizer.encode(item.messages[-1]["content"])[:12]], dtype=np.int64)
        rewards = rng.normal(size=len(ids)).astype(np.float32)
        rewards[: len(prompt)] = np.nan
        # one that the guard did not give
        rewards[len(prompt) + 1] = np.nan
        candidates = rng.integers(20, 200, (len(ids), 2))
        beside = rng.normal(size=candidates.shape).astype(np.float32)
        beside[: len(prompt) + 4] = np.nan
        samples.append(Sample(number, ids, rewards, candidates, beside))
    return RewardData(samples, {})


@pytest.fixture(scope="module")
def head(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures") / "head"
    with warnings.catch_warnings():
        # it has learnt next to nothing
        warnings.simplefilter("ignore")
        train_head(data, out, policy=WORLD.policy, settings=HeadSettings(layer=2, rank=4, epochs=1, device="cpu"))
    return out


@pytest.mark.filterwarnings("ignore::langchain_saffron.models.mrm_quality.RewardModelWarning")
@pytest.mark.parametrize("kind", ["separate", "head"])
def test_predictions_are_what_the_reward_model_gives_prefix_by_prefix(kind, data, head):
    path = WEIGHTS / "mrm" if kind == "separate" else head
    made = predicted(path, WORLD.policy, data)
    engine = SaffronEngine.from_pretrained(WORLD.policy, str(path), device="cpu")
    expected, among = (
        [
            float(engine.reward_model.rewards(sample.token_ids[:at].tolist())[token])
            for sample in data.samples[:2]
            for at, token in list(zip(*sample.targets()[:2], strict=True))[: None if more else sample.known.sum()]
        ]
        for more in (False, True)
    )
    engine.close()
    assert len(made.rewards) == len(made.predictions) == data.rewards
    assert made.rewards.tolist() == np.concatenate([one.rewards[one.known] for one in data.samples]).tolist()
    assert made.predictions[: len(expected)] == pytest.approx(expected, abs=1e-3)
    assert len(made.choices.rewards) == data.rewards + data.candidates
    assert made.choices.predictions[: len(among)] == pytest.approx(among, abs=1e-3)


@pytest.mark.filterwarnings("ignore::langchain_saffron.models.mrm_quality.RewardModelWarning")
def test_reward_models_are_measured_side_by_side(head, tmp_path):
    methods = ("greedy", "saffron:1")
    cells = {
        kind: measure(WORLD, path, methods, tmp_path / kind, 2, 1)
        for kind, path in (("separate", WEIGHTS / "mrm"), ("head", head))
    }
    # both defend the same policy, and a head reads what it computes anyway
    assert cells["separate"]["greedy"].tflop == cells["head"]["greedy"].tflop
    assert cells["head"]["saffron:1"].tflop < cells["separate"]["saffron:1"].tflop
    for cell in cells["head"].values():
        assert cell.low <= cell.broken <= cell.high
        assert cell.seconds > 0
    lines = table(cells, {"separate": (0.9, 0.8), "head": (0.7, 0.6)}).splitlines()
    assert len(lines) == 2 + 4
    assert lines[2].startswith("| separate | 0.900 | 0.800 | greedy |")
    assert lines[2].endswith("| 1.00 |")


def test_candidates_and_what_follows_them_are_annotated(tmp_path):
    place = annotated("hard-kitchen", tmp_path, 2, None, 1, 8, held_out=2)
    for part in ("mrm", "held_out"):
        manifest = json.loads((place / part / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["settings"]["candidates"] | {"policy": ""} == {"count": 1, "every": 1, "after": 8, "policy": ""}
        for sample in RewardData.load(place / part).samples:
            # behind the token that was said and the candidate two tokens each, at every eighth place
            assert len(sample.after) == 4 * -(-sample.known.sum() // 8)


def test_what_follows_candidates_needs_candidates(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["head_figures", "--candidates-after", "4"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "--candidates K" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::langchain_saffron.models.mrm_quality.RewardModelWarning")
def test_ready_made_reward_models_are_measured_by_name_without_data(head, tmp_path, monkeypatch, capsys):
    options = "--cases 1 --timed 1 --tokens 8 --widths 1 2 --commit-lag none 4 --model shipped=kitchen"
    monkeypatch.setattr(
        "sys.argv", ["head_figures", "--work", str(tmp_path), *options.split(), "--model", f"mine={head}"]
    )
    main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| shipped") or "| mine" in line]
    # one beam holds nothing back under any bound
    methods = ["greedy", "saffron:1", "saffron:2", "saffron-lag-4:2"]
    assert [line.split(" | ")[0] + " " + line.split(" | ")[3] for line in lines] == [
        f"| {name} {method}" for name in ("shipped", "mine") for method in methods
    ]
    monkeypatch.setattr("sys.argv", ["head_figures", "--model", "nothing"])
    with pytest.raises(SystemExit):
        main()
    assert "NAME=DIR" in capsys.readouterr().err
