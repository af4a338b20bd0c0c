"""One forward of one model for all requests that wait for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from langchain_saffron.engine.request import Request
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.runtime.devices import upload


@dataclass(frozen=True)
class SharedForward:
    """What was computed, for whom, and what it gave.

    Attributes:
        name: Which model, by the scheduler's name.
        decoder: The model.
        requests: Those that waited for it.
        spent: For each of them that took part, the slots computed for it and how many of its nodes were scored.
        damaged: bool scalar, on the device: whether any score is NaN.
    """

    name: str
    decoder: TrieDecoder
    requests: list[Request]
    spent: list[tuple[Request, list[int], int]]
    damaged: torch.Tensor
    _rows: list[int]
    _logits: torch.Tensor
    _ready: list[tuple[Request, list[int]]]

    @classmethod
    def run(cls, requests: list[Request], name: str, decoder: TrieDecoder, prefill_rows: int) -> "SharedForward | None":
        """Compute what the requests lack of their prompts, `prefill_rows` tokens at most, and score their frontiers.

        Returns:
            The forward, or `None` where nothing is to be computed. Nothing has been read from the device yet.
        """
        index: dict[int, int] = {}
        spent: list[tuple[Request, list[int], int]] = []
        ready: list[Request] = []
        room = prefill_rows
        for request in requests:
            cache = request.caches[name]
            missing = [slot for slot in cache.missing_prompt() if slot not in index]
            rows = missing[:room]
            room -= len(rows)
            scored = 0
            if len(rows) == len(missing):
                # equal prefixes of one search, such as two samples, share their slots
                rows = list(dict.fromkeys([*rows, *(slot for slot in cache.frontier if slot not in index)]))
                scored = len(cache.frontier)
                ready.append(request)
            for slot in rows:
                index.setdefault(slot, len(index))
            spent.append((request, rows, scored))
        if not index:
            return None
        frontiers = [[index[slot] for slot in request.caches[name].frontier] for request in ready]
        places = list(dict.fromkeys(place for frontier in frontiers for place in frontier))
        where = {place: i for i, place in enumerate(places)}
        logits = decoder.forward(list(index), places, [len(rows) for _, rows, _ in spent if rows])
        return cls(
            name=name,
            decoder=decoder,
            requests=requests,
            spent=spent,
            damaged=logits.isnan().any(),
            _rows=list(index),
            _logits=logits,
            _ready=[(r, [where[place] for place in frontier]) for r, frontier in zip(ready, frontiers, strict=True)],
        )

    def scores(self) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request whose prompt is complete, with the logits [frontier, vocabulary] of its nodes."""
        for request, places in self._ready:
            first, count = places[0], len(places)
            together = places == list(range(first, first + count))
            index = slice(first, first + count) if together else upload(places, torch.long, self._logits.device)
            yield request, self._logits[index]

    def forget(self) -> None:
        """Zero what was computed: what a masked slot holds is multiplied by zero, which NaN survives."""
        self.decoder.forget(self._rows)


def read_flags(forwards: Sequence[SharedForward]) -> list[bool]:
    """Which forwards are damaged, by one look at the device."""
    if not forwards:
        return []
    device = forwards[0].damaged.device
    flags: list[bool] = torch.stack([forward.damaged.to(device) for forward in forwards]).tolist()
    return flags
