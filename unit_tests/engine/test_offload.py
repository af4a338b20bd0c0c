"""Models that do not fit: layers on the disk, which accelerate fetches one by one."""

from pathlib import Path

import pytest

from langchain_saffron import SaffronEngine, SearchSettings
from unit_tests.tiny_models import random_model, random_reward_model, tiny_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large")
    random_model("llama", 0, num_hidden_layers=4).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def places(*disk: int) -> dict[str, str]:
    ends = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")
    return {**ends, **{f"model.layers.{i}": "disk" if i in disk else "cpu" for i in range(4)}}


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("disk", [(3,), (0, 1, 2, 3)], ids=str)
def test_layers_on_the_disk_change_nothing(checkpoint: Path, disk: tuple[int, ...], width: int):
    rewards = random_reward_model()
    plain = SaffronEngine.from_pretrained(checkpoint, reward_model=rewards)
    spread = SaffronEngine.from_pretrained(checkpoint, reward_model=rewards, device_map=places(*disk))
    layers = spread.policy.model.model.layers
    assert [all(one.is_meta for one in layer.parameters()) for layer in layers] == [i in disk for i in range(4)]
    settings = SearchSettings(width=width, max_tokens=12, min_tokens=12)
    # the second time the prompt's layers are in the cache
    for prompt in ([3, 5, 7, 11], [3, 5, 7, 11, 13]):
        expected, found = (engine.generate(prompt, prompt, settings) for engine in (plain, spread))
        assert found.token_ids == expected.token_ids
        assert found.reward == pytest.approx(expected.reward, rel=1e-5)
    plain.close()
    spread.close()
