"""The forest of tries: sharing, freeing, reuse, the memory bound."""

import random

import numpy as np
import pytest

from langchain_saffron.cache import TokenForest
from langchain_saffron.errors import CacheFullError


def test_shared_prefixes_share_slots():
    forest = TokenForest(16)
    first = forest.insert([1, 2, 3])
    second = forest.insert([1, 2, 4])
    assert first[:2] == second[:2]
    assert first[2] != second[2]
    assert forest.used == 4
    assert [int(forest.depth[n]) for n in second] == [0, 1, 2]
    assert forest.path(second[-1]).tolist() == second


def test_salts_share_nothing():
    forest = TokenForest(16)
    first = forest.insert([1, 2, 3], salt="a")
    assert forest.match([1, 2, 3], salt="b") == []
    second = forest.insert([1, 2, 3], salt="b")
    assert not set(first) & set(second)


def test_released_branches_give_their_slots_back_at_once():
    forest = TokenForest(16)
    prompt = forest.insert([1, 2, 3])
    branch = forest.insert([7, 8], parent=prompt[-1])
    assert forest.used == 5
    forest.release(branch[-1])
    assert forest.used == 3
    forest.release(prompt[-1])
    assert forest.used == 0
    assert forest.match([1]) == []


def test_a_held_leaf_keeps_its_ancestors():
    forest = TokenForest(16)
    prompt = forest.insert([1, 2])
    leaf = forest.insert([3], parent=prompt[-1])[-1]
    forest.release(prompt[-1])
    assert forest.used == 3
    forest.release(leaf)
    assert forest.used == 0


def test_the_least_recently_used_prompt_is_evicted_first():
    forest = TokenForest(6)
    for tokens in ([1, 2], [3, 4], [5, 6]):
        node = forest.insert(tokens)[-1]
        forest.keep(node)
        forest.release(node)
    again = forest.insert([1, 2])[-1]
    forest.keep(again)
    forest.release(again)
    forest.insert([7, 8])
    assert len(forest.match([1, 2])) == 2
    assert forest.match([3, 4]) == []
    assert len(forest.match([5, 6])) == 2


def test_full_is_an_error_that_leaves_nothing_behind():
    forest = TokenForest(4)
    held = forest.insert([1, 2, 3])
    with pytest.raises(CacheFullError, match="max_cache_tokens"):
        forest.insert([1, 2, 9, 9, 9])
    assert forest.used == 3
    assert forest.match([1, 2, 9]) == held[:2]


def test_what_is_kept_briefly_goes_first():
    forest = TokenForest(6)
    for tokens, briefly in (([1, 2], False), ([3, 4], True), ([5, 6], True)):
        node = forest.insert(tokens)[-1]
        forest.keep(node, briefly=briefly)
        forest.release(node)
    forest.insert([7, 8])
    assert [len(forest.match(tokens)) for tokens in ([1, 2], [3, 4], [5, 6])] == [2, 2, 0]


def test_kept_prompts_make_room_and_cannot_be_released():
    forest = TokenForest(6)
    nodes = forest.insert([1, 2, 3])
    held = forest.insert([9], parent=nodes[0])[-1]
    forest.keep(nodes[-1])
    forest.release(nodes[-1])
    # the first token is held by the other branch
    assert (forest.used, forest.available) == (4, 4)
    assert forest.missing([1, 2, 3]) == 2
    with pytest.raises(ValueError, match="not held"):
        forest.release(nodes[-1])
    forest.insert([4, 5, 6, 7])
    assert (forest.used, forest.available) == (6, 0)
    with pytest.raises(CacheFullError):
        forest.insert([8])
    forest.release(held)
    assert forest.available == 2


def test_a_remembered_path_dies_with_its_node():
    forest = TokenForest(8)
    a = forest.insert([1, 2, 3])
    forest.remember_leaves(np.array(a))
    forest.release(a[-1])
    b = forest.insert([5, 6, 7, 8])
    assert forest.path(b[-1]).tolist() == b


def test_release_of_what_is_not_held_is_refused():
    forest = TokenForest(4)
    node = forest.insert([1])[-1]
    forest.release(node)
    with pytest.raises(ValueError, match="not held"):
        forest.release(node)


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_agree_with_plain_prefix_sets(seed: int):
    """What is alive is exactly the set of prefixes of what is held or kept."""
    rng = random.Random(seed)
    forest = TokenForest(60)
    held: list[tuple[tuple[int, ...], int]] = []
    for _ in range(300):
        if held and rng.random() < 0.45:
            _, node = held.pop(rng.randrange(len(held)))
            forest.release(node)
        else:
            base, parent = rng.choice(held) if held and rng.random() < 0.5 else ((), -1)
            tail = [rng.randrange(3) for _ in range(rng.randint(1, 5))]
            try:
                nodes = forest.insert(tail, parent=parent)
            except CacheFullError:
                continue
            held.append(((*base, *tail), nodes[-1]))
        prefixes = {tokens[:i] for tokens, _ in held for i in range(1, len(tokens) + 1)}
        assert forest.used == len(prefixes)
        assert forest.live_nodes(node for _, node in held) == len(prefixes)
        assert forest.available == forest.capacity - len(prefixes)
        for tokens, node in held:
            path = forest.path(node)
            assert [forest.token(int(n)) for n in path] == list(tokens)
            assert np.array_equal(forest.depth[path], np.arange(len(tokens)))
    for _, node in held:
        forest.release(node)
    assert forest.used == 0
