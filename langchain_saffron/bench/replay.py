"""The forwards of a search once more, with nothing around them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from langchain_saffron.cache.attention import activate
from langchain_saffron.cache.plan import Plan
from langchain_saffron.models.decoder import TrieDecoder


class Replay:
    """Records what a search asks of its models, and asks the same again.

    Inputs, slots and plans are those of the recording, so that only the forwards are left: no search, no
    scheduler, no tries, no masks to be made.
    """

    def __init__(self, decoders: list[TrieDecoder]) -> None:
        self._decoders = decoders
        self._steps: list[tuple[TrieDecoder, np.ndarray, Plan, dict[str, torch.Tensor]]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context, forwards are recorded."""
        for decoder in self._decoders:
            self._record(decoder)
        try:
            yield
        finally:
            for decoder in self._decoders:
                del decoder.forward, decoder.plan

    def _record(self, decoder: TrieDecoder) -> None:
        forward, plan = decoder.forward, decoder.plan
        plans: list[Plan] = []

        def record_plan(*arguments: Any) -> Plan:
            plans.append(plan(*arguments))
            return plans[-1]

        def record_forward(rows: list[int], scored: list[int], groups: list[int] | None = None) -> torch.Tensor:
            logits = forward(rows, scored, groups)
            slots = np.asarray(rows)
            inputs = {
                "input_ids": torch.tensor([[decoder.forest.token(slot) for slot in rows]], device=decoder.device),
                "position_ids": torch.from_numpy(decoder.forest.depth[slots])[None].to(decoder.device),
                "logits_to_keep": torch.tensor(scored, dtype=torch.long, device=decoder.device),
            }
            self._steps.append((decoder, slots, plans[-1], inputs))
            return logits

        decoder.forward, decoder.plan = record_forward, record_plan  # type: ignore[method-assign,assignment]

    @torch.inference_mode()
    def run(self) -> None:
        """All recorded forwards, one after the other."""
        for decoder, slots, plan, inputs in self._steps:
            decoder.pool.aim(slots)
            with activate(plan):
                decoder.model(**inputs, **decoder.cache_arguments)
