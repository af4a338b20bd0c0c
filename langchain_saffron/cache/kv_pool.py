"""The slots themselves: keys and values of every layer, preallocated, indexed by slot."""

import numpy as np
import torch
from transformers.cache_utils import Cache

from langchain_saffron.runtime.devices import upload


class KeyValuePool(Cache):
    """Keys and values of one model, `[kv heads, slots, head size]` a layer, written in place.

    It speaks the transformers `Cache` protocol for one forward at a time: `aim` says where the new rows
    go and what is read, then every layer calls `update`. It is built without the model's config: given
    one, transformers would truncate sliding layers, whose window the mask takes care of here.

    Attributes:
        gathers: How often a layer's visible slots had to be copied together because they lay scattered.
        generation: Rises whenever keys or values move to other memory.
    """

    def __init__(self, capacity: int, initial: int = 256) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.gathers = 0
        self.generation = 0
        self._initial = self._slots = min(capacity, initial)
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._write: torch.Tensor | slice = slice(0, 0)
        self._span: tuple[int, int] | None = (0, 0)
        self._read: torch.Tensor | None = torch.empty(0, dtype=torch.long)
        self._copies: dict[tuple[int, torch.device], torch.Tensor] = {}

    def clear(self) -> None:
        """Give all memory back."""
        self.generation += 1
        self._slots = self._initial
        self._keys.clear()
        self._values.clear()
        self._copies.clear()

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the pool's tensors take now."""
        tensors = [*self._keys.values(), *self._values.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of keys and values that one node takes over all layers (0 before the first forward)."""
        return self.allocated_bytes // self._slots if self._keys else 0

    def aim(self, write: np.ndarray, read: np.ndarray | tuple[int, int] | None = None) -> None:
        """Set the next forward's slots.

        Args:
            write: int array [rows]: the slot of every new row.
            read: Either `(low, high)`, a span of slots to be read in place, or an int array of slots that are
                copied together, or `None` where the attention function reads the pool itself.
        """
        self._copies.clear()
        highest = read[1] if isinstance(read, tuple) else 0 if read is None else int(read.max()) + 1
        self._grow(max(int(write.max()) + 1, highest))
        low, high = int(write[0]), int(write[-1]) + 1
        together = high - low == len(write) and bool((np.diff(write) == 1).all())
        self._write = slice(low, high) if together else torch.from_numpy(np.ascontiguousarray(write))
        self._span = read if isinstance(read, tuple) else None
        self._read = torch.from_numpy(np.ascontiguousarray(read)) if isinstance(read, np.ndarray) else None

    @property
    def scratch(self) -> int:
        """A slot that no node ever has, behind all others; there once `reserve` was called."""
        return self.capacity

    @property
    def lacking_bytes(self) -> int:
        """Bytes that `reserve` would take."""
        return max(0, self.capacity + 1 - self._slots) * self.bytes_per_slot

    def reserve(self) -> None:
        """Take the memory of all slots at once, and of the scratch slot, so that it stays where it is."""
        self._lengthen(self.capacity + 1)

    def aim_static(self, write: torch.Tensor) -> None:
        """Set the next forward's slots without looking at them: the attention function reads the pool itself.

        Args:
            write: int64 tensor [rows], on the device: the slot of every new row; several may go to the scratch slot.
        """
        self._copies.clear()
        self._write, self._span, self._read = write, None, None

    def layer(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, [kv heads, slots, size]."""
        return self._keys[index], self._values[index]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new rows of one layer and return what the rows may read.

        Args:
            key_states: [1, kv heads, rows, key size].
            value_states: [1, kv heads, rows, value size].
            layer_idx: The layer.
            *args: Ignored; some models pass more.
            **kwargs: Ignored likewise.

        Returns:
            Keys and values, [1, kv heads, visible slots, size]; a view where the slots lie together. The new rows
            themselves where the attention function reads the pool.
        """
        if layer_idx not in self._keys:
            self.generation += 1
            self._keys[layer_idx] = self._allocate(key_states)
            self._values[layer_idx] = self._allocate(value_states)
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if isinstance(self._write, slice):
            keys[:, self._write] = key_states[0]
            values[:, self._write] = value_states[0]
        else:
            write = self._placed(self._write, keys.device)
            keys.index_copy_(1, write, key_states[0])
            values.index_copy_(1, write, value_states[0])
        if self._span is not None:
            low, high = self._span
            return keys[None, :, low:high], values[None, :, low:high]
        if self._read is None:
            return key_states, value_states
        self.gathers += 1
        read = self._placed(self._read, keys.device)
        return keys.index_select(1, read)[None], values.index_select(1, read)[None]

    def rows(self, slots: np.ndarray) -> list[torch.Tensor]:
        """A copy of what lies in `slots`: keys and values of every layer, [kv heads, slots, size]."""
        tensors = (*self._keys.values(), *self._values.values())
        return [tensor[:, torch.from_numpy(slots).to(tensor.device)] for tensor in tensors]

    @torch.inference_mode()
    def wipe(self, slots: np.ndarray) -> None:
        """Zero `slots`: a NaN left there would reach everybody who reads past it with weight zero."""
        for tensor in (*self._keys.values(), *self._values.values()):
            tensor[:, torch.from_numpy(slots[slots < tensor.shape[1]]).to(tensor.device)] = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Always 0: positions come from the trie, never from a length."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Always 0, for the same reason."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """The number of visible slots, and an offset of 0."""
        if self._span is not None:
            return self._span[1] - self._span[0], 0
        return (query_length if self._read is None else len(self._read)), 0

    def _placed(self, index: torch.Tensor, device: torch.device) -> torch.Tensor:
        """`index` on a layer's device; the layers there share the copy."""
        if index.device == device:
            return index
        key = (id(index), device)
        if key not in self._copies:
            self._copies[key] = upload(index, torch.long, device)
        return self._copies[key]

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        # zeros, not empty: masked slots are multiplied by a zero weight, which NaN would survive
        return like.new_zeros(like.shape[1], self._slots, like.shape[3])

    def _grow(self, needed: int) -> None:
        if needed <= self._slots:
            return
        # a quarter more: copying stays rare, and little lies idle
        self._lengthen(min(self.capacity, max(needed, self._slots * 5 // 4)))

    def _lengthen(self, slots: int) -> None:
        if slots <= self._slots:
            return
        self.generation += 1
        for store in (self._keys, self._values):
            for layer, old in store.items():
                # where memory runs out in between, some are longer already: the next growth takes up from there
                if old.shape[1] < slots:
                    store[layer] = _longer(old, slots)
        self._slots = slots


def _longer(old: torch.Tensor, slots: int) -> torch.Tensor:
    new = old.new_zeros(old.shape[0], slots, old.shape[2])
    new[:, : old.shape[1]] = old
    return new
