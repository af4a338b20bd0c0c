"""The forest of tries: sharing, freeing, reuse, the memory bound."""

import random
from collections import OrderedDict

import numpy as np
import pytest

from langchain_saffron.cache import TokenForest
from langchain_saffron.cache.free_slots import LEAST_SPREAD, SPREAD
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


def runs(slots: list[int]) -> list[int]:
    """The lengths of the runs of consecutive slots in a path."""
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    return [len(part) for part in np.split(np.array(slots), breaks)]


def fragment(forest: TokenForest) -> None:
    """Leave kept answers behind whose branches lay between them."""
    for search in range(6):
        prompt = forest.insert([1000 * search + i for i in range(10, 40)])
        tips = [prompt[-1]] * 8
        for step in range(30):
            grown = [forest.insert([50_000 + 8 * step + beam], parent=tip)[-1] for beam, tip in enumerate(tips)]
            for tip in tips if step else ():
                forest.release(tip)
            tips = grown
        assert len(runs(forest.path(tips[search]).tolist())) > 20
        forest.keep(tips[search])
        for tip in (*tips, prompt[-1]):
            forest.release(tip)


def test_after_many_searches_a_prompt_lies_in_one_run_and_its_beams_behind_it():
    forest = TokenForest(8000)
    fragment(forest)
    prompt = forest.insert(list(range(1000)), salt="new", room=200)
    assert runs(prompt) == [1000]
    grown = [prompt[-1]]
    for step in range(40):
        grown += [forest.insert([3 * step + i], parent=grown[-1])[-1] for i in range(3)]
    assert runs([*prompt, *grown[1:]]) == [1120]


def test_prompts_leave_room_for_the_beams_of_those_that_run_and_none_where_nobody_runs():
    forest = TokenForest(8000)
    first, second = (forest.insert([i] * 30, salt=str(i), room=100) for i in range(2))
    assert second[0] == first[-1] + 101
    for prompt in (first, second):
        forest.keep(prompt[-1])
        forest.release(prompt[-1])
    third = forest.insert([2] * 30, salt="2", room=100)
    assert third[0] == second[-1] + 1
    # in the hole between the first two, whose room nobody needs now
    assert forest.insert([3] * 30, salt="3", room=50)[0] == first[-1] + 1


def test_the_next_turn_lies_behind_the_last_and_a_second_question_behind_its_room():
    forest = TokenForest(8000)
    tokens = list(range(200))
    prompt = forest.insert(tokens, room=100)
    answer = forest.insert([300, 301, 302], parent=prompt[-1])
    # another question after the same beginning, while the first is being answered
    other = forest.insert([*tokens[:150], *range(400, 420)], room=100)
    assert other[:150] == prompt[:150]
    assert other[150] == answer[-1] + 101
    forest.keep(answer[-1])
    forest.release(prompt[-1])
    forest.release(answer[-1])
    turn = forest.insert([*tokens, 300, 301, 302, *range(500, 520)], room=50)
    assert runs(turn) == [len(turn)]


def test_two_requests_with_one_prompt_share_it_and_each_has_its_own_room():
    forest = TokenForest(8000)
    homes, prompt = [], list[int]()
    for _ in range(2):
        prompt = forest.insert(list(range(50)), room=100)
        homes.append(forest.home(prompt[-1]))
    assert forest.used == 50
    assert homes == [50, 150]
    beams = [forest.insert([100, i], parent=prompt[-1], home=home) for i, home in enumerate(homes)]
    # what they share lies in the room of the first
    assert beams == [[50, 51], [50, 150]]
    grown = [forest.insert([200 + i, 300], parent=prompt[-1], home=home) for i, home in enumerate(homes)]
    assert grown == [[52, 53], [151, 152]]
    last = [forest.insert([400 + i], parent=tip) for i, (_, tip) in enumerate(grown)]
    assert last == [[54], [153]]
    for node in (*prompt[-1:] * 2, *(nodes[-1] for nodes in (*beams, *grown, *last))):
        forest.release(node)
    assert forest.used == 0


def test_what_fails_for_want_of_slots_evicts_nobody():
    forest = TokenForest(10)
    kept = forest.insert([1, 2, 3])[-1]
    forest.keep(kept)
    forest.release(kept)
    forest.insert([4, 5])
    with pytest.raises(CacheFullError):
        forest.insert(list(range(10, 19)))
    assert len(forest.match([1, 2, 3])) == 3
    assert forest.used == 5


@pytest.mark.parametrize(("seed", "capacity", "actions"), [*((seed, 40, 300) for seed in range(6)), (6, 700, 100)])
def test_random_histories_with_kept_prompts_agree_with_a_dictionary(seed: int, capacity: int, actions: int):
    """Slots are given once, what is kept goes in its turn and only for want of slots, and all is counted."""
    rng = random.Random(seed)
    forest = TokenForest(capacity)
    scale = capacity // 40
    held: list[tuple[tuple[int, ...], int]] = []
    kept: OrderedDict[tuple[int, ...], int] = OrderedDict()
    refused = evicted = most = highest = 0

    def prefixes(paths: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
        return {path[:i] for path in set(paths) for i in range(1, len(path) + 1)}

    for _ in range(actions):
        action = rng.random()
        if held and action < 0.3:
            forest.release(held.pop(rng.randrange(len(held)))[1])
        elif held and action < 0.5:
            path, node = rng.choice(held)
            forest.keep(node)
            kept[path] = node
            kept.move_to_end(path)
        elif held and action < 0.55:
            held.append(rng.choice(held))
            forest.acquire(held[-1][1])
        else:
            base, parent = rng.choice(held) if held and rng.random() < 0.4 else ((), -1)
            path = (*base, *(rng.randrange(3) for _ in range(rng.randint(1, 6 * scale))))
            live = prefixes([*(p for p, _ in held), *kept])
            there = [path[:i] for i in range(1, len(path) + 1) if path[:i] in live]
            pinned = prefixes([*(p for p, _ in held), *there])
            lacking = len(path) - len(there)
            try:
                nodes = forest.insert(path[len(base) :], parent, room=rng.choice((0, 5 * scale)))
            except CacheFullError:
                assert lacking > capacity - len(pinned)
                refused += 1
            else:
                assert lacking <= capacity - len(pinned)
                held.append((path, nodes[-1]))
                while len(prefixes([*(p for p, _ in held), *kept])) > capacity:
                    kept.popitem(last=False)
                    evicted += 1
        live = prefixes([*(p for p, _ in held), *kept])
        most = max(most, len(live))
        assert forest.used == len(live)
        assert forest.available == capacity - len(prefixes([p for p, _ in held]))
        assert forest.kept == len(kept)
        # every live prefix has a slot, and no two have the same
        slots = {path[: i + 1]: slot for path, _ in (*held, *kept.items()) for i, slot in enumerate(forest.match(path))}
        assert slots.keys() == live
        highest = max(highest, *slots.values(), 0)
        assert len(set(slots.values())) == len(live)
        assert all(slots[path] == node for path, node in (*held, *kept.items()))
    assert min(evicted, refused) > 0
    assert highest < min(capacity, SPREAD * most + LEAST_SPREAD)
    for _, node in held:
        forest.release(node)
    forest.drop_kept()
    assert forest.used == 0
    everything = forest.insert(list(range(capacity)))
    assert everything == list(range(capacity))
