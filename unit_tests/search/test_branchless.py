"""Choosing by masks gives what `torch.where` gives, whatever the tables hold."""

import math

import pytest
import torch

from langchain_saffron.search.branchless import SMALLEST, column_any, or_never, or_nothing, row_any, unsound

SIZES = [(3, 5), (4, SMALLEST)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("odd", [[], [-math.inf], [math.inf], [math.nan], [-math.inf, math.inf, math.nan]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_choose_as_where_does(shape: tuple[int, int], odd: list[float], dtype: torch.dtype):
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(shape, generator=generator, dtype=dtype)
    mask = torch.rand(shape, generator=generator) < 0.5
    for row, value in enumerate(odd):
        values.flatten()[row * 2 : row * 2 + 2] = value
    mask.flatten()[: 2 * len(odd)] = torch.tensor([True, False] * len(odd))
    before = values.clone()
    assert torch.allclose(or_never(values, mask), torch.where(mask, values, -math.inf), 0, 0, equal_nan=True)
    assert torch.equal(
        or_nothing(values.exp().nan_to_num(posinf=0.0), mask), values.exp().nan_to_num(posinf=0.0) * mask
    )
    assert torch.allclose(values, before, 0, 0, equal_nan=True), "what is chosen from stays as it is"


def test_rows_and_columns_in_which_a_mask_holds():
    mask = torch.tensor([[False, True, False], [False, False, False]])
    assert row_any(mask).tolist() == [[True], [False]]
    assert column_any(mask).tolist() == [False, True, False]


def test_only_what_is_wanted_has_to_be_a_number():
    values = torch.tensor([1.0, math.nan, -math.inf, 2.0])
    assert not unsound(values, torch.tensor([True, False, False, True]))
    assert unsound(values, torch.tensor([True, True, False, True]))
    assert unsound(values, torch.tensor([False, False, True, False]))
