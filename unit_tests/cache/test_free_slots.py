"""Which slots are taken: runs for prompts, the lowest behind a prompt for beams, holes before more memory."""

from collections.abc import Callable

import pytest

from langchain_saffron.cache.free_slots import LEAST_SPREAD, ROOM_PART, SPREAD, FreeSlots

CAPACITY = 20 * ROOM_PART


def nothing_grows(slot: int) -> bool:
    return False


def slots_with(*free: tuple[int, int]) -> FreeSlots:
    """Slots of which some spans are free, and no others."""
    slots = FreeSlots(CAPACITY)
    slots.take_run(CAPACITY, 0, 0, nothing_grows)
    for low, high in free:
        for slot in range(low, high):
            slots.give_back(slot)
    return slots


@pytest.mark.parametrize(
    ("count", "home", "room", "grows", "expected"),
    [
        pytest.param(5, 0, 0, nothing_grows, 10, id="the first that holds it"),
        pytest.param(5, 12, 0, nothing_grows, 12, id="from home on"),
        pytest.param(5, 18, 0, nothing_grows, 60, id="behind it, as home is too short"),
        pytest.param(5, 200, 0, nothing_grows, 10, id="before it, as nothing is behind"),
        pytest.param(5, 0, 20, nothing_grows, 60, id="the first with room behind"),
        pytest.param(5, 0, 12, lambda slot: slot == 59, 72, id="and before, where somebody grows"),
        pytest.param(32, 0, 16, nothing_grows, 60, id="less room where there is not so much"),
        pytest.param(32, 0, 16, lambda slot: slot == 59, 64, id="a quarter of it on either side"),
        pytest.param(40, 0, 20, lambda slot: slot == 59, 60, id="none where slots are short"),
    ],
)
def test_a_run_begins_where(count: int, home: int, room: int, grows: Callable[[int], bool], expected: int):
    slots = slots_with((10, 20), (60, 100))
    assert slots.take_run(count, home, room, grows).tolist() == list(range(expected, expected + count))
    assert slots.count == 50 - count


def test_without_a_run_the_longest_pieces_are_taken():
    slots = slots_with((10, 13), (20, 28), (40, 41), (60, 65))
    assert slots.take_run(10, 0, 4, nothing_grows).tolist() == [*range(20, 28), 60, 61]
    assert slots.take_run(7, 0, 0, nothing_grows).tolist() == [10, 11, 12, 40, 62, 63, 64]
    assert slots.count == 0


def test_single_slots_are_the_lowest_from_home_on_or_the_lowest_of_all():
    slots = slots_with((10, 12), (60, 62))
    assert [slots.take(11) for _ in range(4)] == [11, 60, 61, 10]


def test_what_is_handed_out_spreads_no_further_than_a_multiple_of_what_is_in_use():
    slots = FreeSlots(1 << 20)
    # each asks for far more room than there may be, behind one that grows
    most = 0
    for count in [40] * 60 + [700] * 5 + [3] * 100:
        run = slots.take_run(count, 0, 10_000, lambda slot: True)
        most += count
        assert int(run[-1]) - int(run[0]) == count - 1
        assert slots.reached <= SPREAD * most + LEAST_SPREAD
    # a beam whose home is there stays where the memory is
    for _ in range(2000):
        slots.take(slots.reached - 1)
        most += 1
        assert slots.reached <= SPREAD * most + LEAST_SPREAD
