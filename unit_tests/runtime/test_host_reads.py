"""What makes the host wait for a device is seen before it happens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from langchain_saffron.errors import UnsupportedModelError
from langchain_saffron.runtime.host_reads import NoHostReads

ROW = torch.arange(6.0)
SOME = ROW > 2
ELSEWHERE = torch.empty(6, device="meta")

WAITS: dict[str, Callable[[], Any]] = {
    "item": lambda: ROW[0].item(),
    "bool": lambda: bool(SOME.any()),
    "int": lambda: int(ROW[0]),
    "in": lambda: 3.0 in ROW,
    "equal": lambda: torch.equal(ROW, ROW),
    "nonzero": lambda: SOME.nonzero(),
    "where": lambda: torch.where(SOME),
    "masked_select": lambda: ROW.masked_select(SOME),
    "mask as index": lambda: ROW[SOME],
    "mask as place": lambda: ROW.clone().__setitem__(SOME, torch.zeros(3)),
    "unique": lambda: ROW.unique(),
    "bincount": lambda: ROW.long().bincount(),
    "repeats": lambda: ROW.repeat_interleave(torch.ones(6, dtype=torch.long)),
    "to the host": lambda: ELSEWHERE.to("cpu"),
    "from the host": lambda: ROW.to("meta"),
    "copy": lambda: ELSEWHERE.copy_(ROW),
}
DOES_NOT: dict[str, Callable[[], Any]] = {
    "index": lambda: ROW[torch.tensor([1, 2])],
    "select": lambda: ROW.index_select(0, torch.tensor([1])),
    "where": lambda: torch.where(SOME, ROW, 0.0),
    "fill": lambda: ROW.masked_fill(~SOME, 0.0),
    "repeats": lambda: ROW.repeat_interleave(2),
    "topk": lambda: ROW.topk(2),
    "dtype": lambda: ROW.to(torch.float64),
    "same device": lambda: ROW.to("cpu", torch.float64),
    "copy": lambda: torch.empty(6).copy_(ROW),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", WAITS)
def test_it_is_an_error(name: str, inference: bool):
    with torch.inference_mode(inference), NoHostReads(), pytest.raises(UnsupportedModelError, match="reads from"):
        WAITS[name]()


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", DOES_NOT)
def test_everything_else_is_none(name: str, inference: bool):
    with torch.inference_mode(inference), NoHostReads():
        DOES_NOT[name]()
