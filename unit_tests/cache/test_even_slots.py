"""Numbers of slots that last for many steps, so that no product is compiled anew for each."""

import numpy as np
import pytest
import torch

from langchain_saffron.cache.attention_plan import EVEN_SLOTS, Batch, Group, even_slots
from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.families import VOCABULARY
from unit_tests.models.trees import history
from unit_tests.tiny_models import plain_logits, random_model


def test_few_numbers_are_read_and_few_slots_in_vain():
    counts = np.arange(1, 20_000)
    even = np.array([even_slots(int(count)) for count in counts])
    assert (even >= counts).all()
    assert (even - counts < np.maximum(EVEN_SLOTS, counts / 15)).all()
    assert len(set(even.tolist())) < 150


@pytest.mark.parametrize(
    ("prefix", "tail", "slots", "expected"),
    [
        ((0, 100), (100, 103), 300, [slice(0, 128)]),
        ((0, 0), (40, 50), 300, [slice(40, 104)]),
        # prefix and tail lie apart: what is read of the prefix changes seldom
        ((0, 100), (200, 203), 300, [slice(0, 100), slice(200, 264)]),
        # no further than the pool goes
        ((0, 100), (100, 103), 110, [slice(0, 110)]),
        ((0, 60), (60, 64), 300, [slice(0, 64)]),
    ],
)
def test_the_tail_goes_on_over_slots_that_nobody_sees(
    prefix: tuple[int, int], tail: tuple[int, int], slots: int, expected: list[slice]
):
    mask = torch.zeros(2, tail[1] - tail[0])
    mask[0, -1] = -torch.inf
    group = Group(slice(0, 2), prefix, tail, mask)
    even = group.even(slots)
    assert even.parts == expected
    assert torch.equal(even.mask[:, : mask.shape[1]], mask)
    assert (even.mask[:, mask.shape[1] :] == -torch.inf).all()
    assert even is group.even(slots)


def test_gathered_slots_stay_what_they_are():
    group = Group(slice(0, 1), (0, 10), torch.tensor([12, 17]), torch.zeros(1, 2), is_open=True)
    assert group.even(100) is group


@torch.inference_mode()
def test_the_steps_of_an_answer_multiply_alike(monkeypatch: pytest.MonkeyPatch):
    """And give what they give without: slots that are read in vain hold others' keys."""
    model = random_model("llama", 3)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=1000)
    decoder.pool.hold_in(torch.float32, upright=True)
    forest, bmm, shapes = decoder.forest, torch.bmm, set()

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        shapes.add((left.shape, right.shape))
        return bmm(left, right)

    others = forest.insert([(3 * j) % VOCABULARY for j in range(700)])
    decoder.forward(others, [])
    forest.release(others[-1])
    path = forest.insert([(7 * j) % VOCABULARY for j in range(300)])
    decoder.forward(path, [])
    monkeypatch.setattr(torch, "bmm", product)
    tip = path[-1]
    for step in range(60):
        (tip,) = forest.insert([step], parent=tip)
        logits = decoder.forward([tip], [0])
    # scores and values, of one number of slots or two
    assert len(shapes) <= 4
    expected = plain_logits(model, history(decoder, tip))
    assert torch.allclose(logits[0], expected, atol=1e-4)


@torch.inference_mode()
def test_requests_that_attend_together_read_an_even_number_too():
    decoder = TrieDecoder(random_model("llama", 3), "policy", max_cache_tokens=1000)
    decoder.pool.hold_in(torch.bfloat16, upright=True)
    paths = [decoder.forest.insert([(k + 7 * j) % VOCABULARY for j in range(70 + k)]) for k in range(3)]
    decoder.forward([slot for path in paths for slot in path[:-1]], [], [len(path) - 1 for path in paths])
    plan = decoder.forward_context(np.array([path[-1] for path in paths]), [1, 1, 1]).plan
    assert plan is not None
    (batch,) = plan.groups["full_attention"]
    assert isinstance(batch, Batch)
    assert batch.mask.shape == (3, 1, 128)
    assert (batch.mask[:, :, 72:] == -torch.inf).all()
