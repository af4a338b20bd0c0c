"""A full cache: what is kept makes way for a prompt, moves with what it holds, and goes in its turn only."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.cache import TokenForest
from langchain_saffron.cache.attention_plan import Batch, Group
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.cache.placement import Path, make_way
from langchain_saffron.cache.prefix_forest import ROOMS_PART
from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.cache.test_one_span import groups, prompt_of  # noqa: F401
from unit_tests.models.trees import history
from unit_tests.tiny_models import plain_logits, random_model, random_reward_model, tiny_tokenizer

ROOM = 6


def slots_of(capacity: int, *spans: tuple[int, int]) -> np.ndarray:
    found = np.zeros(capacity, dtype=bool)
    for low, high in spans:
        found[low:high] = True
    return found


@pytest.mark.parametrize(
    ("path", "shared", "start", "moved"),
    [
        # two strangers at 56 and 57; at 40 somebody grows, who has his room
        pytest.param([], 0, 52, {56: 0, 57: 1}, id="nothing is there"),
        pytest.param([20, 21, 22], 0, 52, {56: 0, 57: 1}, id="its beginning lies in one run, which stays"),
        pytest.param([20, 21, 8, 9], 0, 50, {50: 0, 51: 1, 56: 2, 57: 3, 8: 50, 9: 51}, id="a tail comes along"),
        pytest.param([20, 21, 50, 51], 0, 50, {56: 0, 57: 1}, id="or is where it should be"),
        pytest.param([20, 21, 8, 9], 4, 52, {56: 0, 57: 1}, id="but not where others work with it"),
    ],
)
def test_the_cheapest_way_is_made(path: list[int], shared: int, start: int, moved: dict[int, int]):
    free, busy = slots_of(62, (0, 4), (52, 56), (58, 62)), slots_of(62, (36, 41))
    found = make_way(free, busy, Path.of(path, shared), 4, ROOM)
    assert found is not None
    assert found.start == start
    assert dict(zip(found.sources.tolist(), found.targets.tolist(), strict=True)) == moved


def test_where_others_work_everywhere_there_is_no_way():
    free = slots_of(40, *((low, low + 1) for low in range(0, 40, 4)))
    assert make_way(free, slots_of(40, *((low, low + 1) for low in range(2, 40, 4))), Path.of([], 0), 5, 0) is None


class Shadow:
    """What slots hold, as a pool would move it: the prefix of the node that was computed there."""

    def __init__(self, capacity: int) -> None:
        self.held: list[tuple[int, ...] | None] = [None] * capacity

    def move(self, sources: np.ndarray, targets: np.ndarray) -> None:
        values = [self.held[slot] for slot in sources.tolist()]
        for slot in sources.tolist():
            self.held[slot] = None
        for slot, value in zip(targets.tolist(), values, strict=True):
            self.held[slot] = value


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_in_a_full_cache(seed: int):
    """What is held never moves, what is found holds what it held, and no more is dropped than makes room."""
    rng = random.Random(seed)
    capacity = 900
    shadow = Shadow(capacity)
    forest = TokenForest(capacity, shadow.move)
    held: list[tuple[str, tuple[int, ...], list[int], int]] = []
    texts = [("", tuple(rng.randrange(5) for _ in range(40)))]
    order: list[tuple[str, tuple[int, ...]]] = []

    def check() -> None:
        for salt, path, nodes, _ in held:
            assert forest.match(path, salt) == nodes
            assert forest.path(nodes[-1]).tolist() == nodes
        for salt, path in order:
            nodes = forest.match(path, salt)
            assert [shadow.held[node] for node in nodes] == [path[: i + 1] for i in range(len(nodes))]
            assert forest.filled[nodes].all()
            assert forest.depth[nodes].tolist() == list(range(len(nodes)))
        alive = {(salt, path[: i + 1]) for salt, path, _, _ in held for i in range(len(path))}
        alive |= {(salt, path[: i + 1]) for salt, path in order for i in range(len(forest.match(path, salt)))}
        assert forest.used == len(alive)
        assert forest.available == capacity - len({(s, p[: i + 1]) for s, p, _, _ in held for i in range(len(p))})

    for _ in range(160):
        if len(held) > 3 or (held and rng.random() < 0.35):
            salt, path, nodes, _ = held.pop(rng.randrange(len(held)))
            forest.keep(nodes[-1])
            forest.release(nodes[-1])
            order = [one for one in order if one != (salt, path)] + [(salt, path)]
            texts.append((salt, path))
        elif held and rng.random() < 0.6:
            salt, path, nodes, home = held.pop(rng.randrange(len(held)))
            more = tuple(rng.randrange(5) for _ in range(rng.randint(1, 8)))
            grown = forest.insert(more, parent=nodes[-1])
            forest.release(nodes[-1])
            held.append((salt, path + more, nodes + grown, home))
        else:
            salt, before = rng.choice(texts)
            salt = salt if rng.random() < 0.8 else rng.choice("ab")
            cut = rng.choice((0, len(before) // 2, len(before)))
            path = (before[:cut] + tuple(rng.randrange(5) for _ in range(rng.randint(1, 90))))[:250]
            free, evicted = capacity - forest.used, forest.evictions
            rest = len(path) - len(forest.match(path, salt))
            nodes = forest.insert(path, salt=salt, room=ROOM)
            held.append((salt, path, nodes, 0))
            most = rest + ROOM + capacity // ROOMS_PART
            if free >= most:
                assert forest.evictions == evicted
            # without the last that was dropped, a path of 250 at most, too little was free
            assert capacity - forest.used + rest < max(free + 1, most + 250)
        for salt, path, nodes, _ in held[-1:]:
            for i, node in enumerate(nodes):
                shadow.held[node] = path[: i + 1]
            forest.filled[nodes] = True
            order.append((salt, path)) if (salt, path) not in order else None
        check()
    assert min(forest.evictions, forest.moved) > 20
    for *_, nodes, _ in held:
        forest.release(nodes[-1])
    forest.drop_kept()
    assert forest.used == 0


def test_who_is_kept_goes_in_its_turn_though_it_moved():
    forest = TokenForest(300, lambda sources, targets: None)
    for i in range(10):
        node = forest.insert([i] * 28, salt=str(i), room=5)[-1]
        forest.keep(node)
        forest.release(node)
    forest.keep(forest.match([0] * 28, "0")[-1])
    forest.insert([99] * 50, room=8)
    assert forest.moved > 0
    there = [i for i in range(10) if forest.match([i] * 28, str(i))]
    assert there == [0, *range(10 - len(there) + 1, 10)]
    # two make room for the rest, a third for what will grow: as many as it takes
    assert forest.evictions == 10 - len(there) == 2


@pytest.mark.parametrize("upright", [False, True])
def test_what_moves_is_copied_in_every_order(upright: bool):
    pool = KeyValuePool(64, 32)
    pool.hold_in(torch.float32, upright)
    pool.aim(np.arange(32), (0, 32))
    with torch.inference_mode():
        pool.update(torch.rand(1, 2, 32, 4), torch.rand(1, 2, 32, 4), 0)
    before = pool.layer(0)
    keys, values = before.keys.clone(), before.values.clone()
    sources, targets = np.array([3, 4, 5, 20]), np.array([4, 5, 6, 60])
    pool.move(sources, targets)
    after = pool.layer(0)
    assert torch.equal(after.keys[:, targets], keys[:, sources])
    assert torch.equal(after.values[:, targets], values[:, sources])
    assert torch.equal(after.keys[:, 10:20], keys[:, 10:20])
    assert torch.equal(after.transposed_keys(slice(0, 61)), after.keys[:, :61].transpose(1, 2))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_conversation_that_moved_is_answered_as_if_it_had_not(family: str):
    model = random_model(family, 7)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=700)
    forest = decoder.forest
    talk = prompt_of(40, 1)
    for turn in range(9):
        prompt = forest.insert(talk, room=20)
        decoder.forward([node for node in prompt if not forest.filled[node]] or prompt[-1:], [])
        tips = [forest.insert([token], parent=prompt[-1])[0] for token in (3, 4, 5)]
        for tip, row in zip(tips, decoder.forward(tips, [0, 1, 2]), strict=True):
            assert torch.allclose(row, plain_logits(model, history(decoder, tip)), atol=1e-4)
        forest.keep(tips[1])
        for node in (*tips, prompt[-1]):
            forest.release(node)
        talk = [*talk, 4, *prompt_of(9, turn + 2)]
        for stranger in range(3):
            other = forest.insert(prompt_of(50 + 20 * stranger, 40 + 3 * turn + stranger), room=20)
            decoder.forward([node for node in other if not forest.filled[node]], [])
            forest.keep(other[-1])
            forest.release(other[-1])
    assert min(forest.moved, forest.evictions) > 0


def test_in_a_full_cache_steps_read_one_span_or_two(groups: list[Group | Batch]):  # noqa: F811
    engine = SaffronEngine(
        random_model("llama", max_position_embeddings=1024),
        tiny_tokenizer(),
        random_reward_model(shift=2.0, max_position_embeddings=1024),
        max_cache_tokens=1600,
    )
    head = prompt_of(60, 1)
    prompts: list[Callable[[int], list[int]]] = [
        lambda seed: prompt_of(150 + 13 * seed, 100 + seed),
        lambda seed: [*head, *prompt_of(200 + 9 * seed, 200 + seed)],
    ]
    for seed in range(16):
        if seed == 6:
            groups.clear()
        for width in (1, 4):
            prompt = prompts[width == 4](seed)
            engine.generate(prompt, settings=SearchSettings(width=width, max_tokens=8, min_tokens=8))
    alone = [group for group in groups if isinstance(group, Group)]
    assert len(alone) > 200
    scattered = [group for group in alone if not all(isinstance(part, slice) for part in group.parts)]
    assert len(scattered) <= len(alone) / 50
    metrics = engine.metrics()
    assert metrics.kv_cache_moves > 100
    # as many as came to be kept, but for those that still are
    assert 15 < metrics.kv_cache_evictions <= 32
    assert metrics.prefix_cache_hits >= 15 * 60
    engine.close()
