"""One forward of one model for all requests that wait for it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from langchain_saffron.engine.request import REWARD, Request
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.runtime.devices import upload

# prompt tokens that a request may compute before another may compute any
PREFILL_CHUNK = 64
# of a prompt, beside each row of requests that are being answered: a tick of theirs becomes a few times as long at most
PREFILL_BESIDE = 4


@dataclass(frozen=True)
class SharedForward:
    """What was computed, for whom, and what it gave.

    Attributes:
        name: Which model, by the scheduler's name.
        decoder: The model.
        requests: Those that waited for it.
        spent: For each of them that took part, the slots computed for it and how many of its nodes were scored.
        damaged: bool scalar, on the device: whether any score is NaN or infinite.
    """

    name: str
    decoder: TrieDecoder
    requests: list[Request]
    spent: list[tuple[Request, list[int], int]]
    damaged: torch.Tensor
    _rows: list[int]
    _logits: torch.Tensor
    _tapped: torch.Tensor | None
    _ready: list[tuple[Request, list[int]]]

    @classmethod
    def run(cls, requests: list[Request], name: str, decoder: TrieDecoder, prefill_rows: int) -> "SharedForward | None":
        """Compute what the requests lack of their prompts, `prefill_rows` tokens at most, and score their frontiers.

        Where some are being answered, fewer: their text goes on while a long prompt is read.

        Returns:
            The forward, or `None` where nothing is to be computed. Nothing has been read from the device yet.
        """
        if not requests:
            return None
        missing = {request: request.caches[name].missing() for request in requests}
        room = _room([len(r.caches[name].frontier) for r in requests if not missing[r]], prefill_rows)
        claimed = _share_out(missing, {request: request.caches[name].read for request in requests}, room)
        known = {slot for slots in claimed.values() for slot in slots}
        index: dict[int, int] = {}
        spent: list[tuple[Request, list[int], int]] = []
        ready: list[Request] = []
        for request in requests:
            rows, scored = [slot for slot in claimed[request] if slot not in index], 0
            if all(slot in known for slot in missing[request]):
                frontier = request.caches[name].frontier
                # equal prefixes of one search, such as two samples, share their slots
                rows = list(dict.fromkeys([*rows, *(slot for slot in frontier if slot not in index)]))
                scored = len(frontier)
                ready.append(request)
            for slot in rows:
                index.setdefault(slot, len(index))
            spent.append((request, rows, scored))
        if not index:
            return None
        frontiers = [[index[slot] for slot in request.caches[name].frontier] for request in ready]
        places = list(dict.fromkeys(place for frontier in frontiers for place in frontier))
        where = {place: i for i, place in enumerate(places)}
        groups = [len(rows) for _, rows, _ in spent if rows]
        # an argument only where it is needed: what stands in for a decoder may know no states
        states = {"states": True} if decoder.unembedding is not None else {}
        logits = decoder.forward(list(index), places, groups, **states)
        for request, slots in claimed.items():
            request.caches[name].read += len(slots)
        return cls(
            name=name,
            decoder=decoder,
            requests=requests,
            spent=spent,
            damaged=~_sound(logits, name).all(),
            _rows=list(index),
            _logits=logits,
            _tapped=None if decoder.tap is None else decoder.tap.take((0, upload(places, torch.long, logits.device))),
            _ready=[(r, [where[place] for place in frontier]) for r, frontier in zip(ready, frontiers, strict=True)],
        )

    def scores(self) -> Iterator[tuple[Request, torch.Tensor, torch.Tensor | None]]:
        """Each request whose prompt is complete, with logits [frontier, vocabulary] or states of its nodes.

        Besides, what the model's tap gives of them, if it has one.
        """
        for request, places in self._ready:
            first, count = places[0], len(places)
            together = places == list(range(first, first + count))
            index = slice(first, first + count) if together else upload(places, torch.long, self._logits.device)
            yield request, self._logits[index], None if self._tapped is None else self._tapped[index]

    def forget(self) -> None:
        """Zero what was computed: what a masked slot holds is multiplied by zero, which NaN survives."""
        self.decoder.forget(self._rows)


def _room(answered: Sequence[int], most: int) -> int:
    """How many prompt tokens a forward computes beside requests that are being answered, given the rows of each."""
    return min(most, PREFILL_CHUNK + PREFILL_BESIDE * sum(answered)) if answered else most


def _share_out(
    missing: Mapping[Request, list[int]], read: Mapping[Request, int], room: int
) -> dict[Request, list[int]]:
    """Which slots of their prompts one forward computes for whom.

    The oldest comes first, then those for whom least has been computed: a short prompt does not wait for a long one.
    """
    first, *others = missing
    order = [first, *sorted(others, key=read.__getitem__)]
    taken: dict[int, None] = {}
    claimed: dict[Request, list[int]] = {request: [] for request in missing}
    for limit in (PREFILL_CHUNK, room):
        for request in order:
            left = min(limit, room - len(taken))
            slots = [slot for slot in missing[request] if slot not in taken][:left] if left > 0 else []
            claimed[request] += slots
            taken.update(dict.fromkeys(slots))
    return claimed


def _sound(logits: torch.Tensor, name: str) -> torch.Tensor:
    """Which scores, or rows of scores, can be used. Some policies forbid tokens by -inf; no reward may be infinite."""
    return (logits if name == REWARD else logits.amax(dim=-1)).isfinite()


def read_flags(forwards: Sequence[SharedForward]) -> list[bool]:
    """Which forwards are damaged, by one look at the device."""
    if not forwards:
        return []
    device = forwards[0].damaged.device
    flags: list[bool] = torch.stack([forward.damaged.to(device) for forward in forwards]).tolist()
    return flags
