"""The forwards of a search once more, with nothing around them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from langchain_saffron.cache.forward_context import ForwardContext
from langchain_saffron.models.decoder import TrieDecoder

# tokens, positions, the rows that are scored, whether states are wanted
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]


class Replay:
    """Records what a search asks of its models, and asks the same again.

    Inputs, slots and masks are those of the recording, so that only the forwards are left: no search, no
    scheduler, no tries.
    """

    def __init__(self, decoders: list[TrieDecoder]) -> None:
        self._decoders = decoders
        self._steps: list[tuple[TrieDecoder, ForwardContext, Inputs]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context, forwards are recorded."""
        for decoder in self._decoders:
            self._record(decoder)
        try:
            yield
        finally:
            for decoder in self._decoders:
                del decoder.forward, decoder.forward_context

    def _record(self, decoder: TrieDecoder) -> None:
        forward, context = decoder.forward, decoder.forward_context
        seen: list[ForwardContext] = []

        def record_context(*arguments: Any) -> ForwardContext:
            seen.append(context(*arguments))
            return seen[-1]

        def record_forward(
            rows: list[int], scored: list[int], groups: list[int] | None = None, states: bool = False
        ) -> torch.Tensor:
            outputs = forward(rows, scored, groups, states)
            slots = np.asarray(rows)
            tokens = torch.tensor([[decoder.forest.token(slot) for slot in rows]], device=decoder.device)
            positions = torch.from_numpy(decoder.forest.depth[slots])[None].to(decoder.device)
            keep = torch.tensor(scored, dtype=torch.long, device=decoder.device)
            self._steps.append((decoder, seen[-1], (tokens, positions, keep, states)))
            return outputs

        decoder.forward, decoder.forward_context = record_forward, record_context  # type: ignore[method-assign,assignment]

    @torch.inference_mode()
    def run(self) -> None:
        """All recorded forwards, one after the other."""
        for decoder, context, inputs in self._steps:
            with context.over(decoder.pool) as masks:
                decoder.compute(*inputs, masks)
