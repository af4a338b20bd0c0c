"""The slots themselves: keys and values of every layer, preallocated, indexed by slot."""

import numpy as np
import torch
from transformers.cache_utils import Cache

from langchain_saffron.cache.layer_store import LayerStore
from langchain_saffron.runtime.devices import upload


class KeyValuePool(Cache):
    """Keys and values of one model, `[kv heads, slots, head size]` a layer, written in place.

    It speaks the transformers `Cache` protocol for one forward at a time: `aim` says where the new rows
    go and what is read, then every layer calls `update`. It is built without the model's config: given
    one, transformers would truncate sliding layers, whose window the mask takes care of here.

    Attributes:
        dtype: What keys and values are held in; `None` for what they are computed in.
        gathers: How often a layer's visible slots had to be copied together because they lay scattered.
        generation: Rises whenever keys or values move to other memory.
    """

    def __init__(self, capacity: int, initial: int = 256) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.gathers = 0
        self.dtype: torch.dtype | None = None
        self.generation = 0
        self._initial = self._slots = min(capacity, initial)
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        # the keys once more, [kv heads, size, slots], where `hold_in` said so
        self._upright: dict[int, torch.Tensor] | None = None
        self._write: torch.Tensor | slice = slice(0, 0)
        self._span: tuple[int, int] | None = (0, 0)
        self._read: torch.Tensor | None = torch.empty(0, dtype=torch.long)
        self._copies: dict[tuple[int, torch.device], torch.Tensor] = {}

    def hold_in(self, dtype: torch.dtype | None, upright: bool = False) -> None:
        """Forget all, and hold what comes in another type.

        Args:
            dtype: What keys and values are held in; `None` for what they are computed in.
            upright: Whether keys are held a second time, in the order of `LayerStore.upright`.
        """
        self.dtype, self._upright = dtype, {} if upright else None
        self.clear()

    def clear(self) -> None:
        """Give all memory back."""
        self.generation += 1
        self._slots = self._initial
        for store, _ in self._stores():
            store.clear()
        self._copies.clear()

    @property
    def is_upright(self) -> bool:
        """Whether keys are held a second time, in the order of their products."""
        return self._upright is not None

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the pool's tensors take now."""
        return sum(t.numel() * t.element_size() for store, _ in self._stores() for t in store.values())

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

    def layer(self, index: int) -> LayerStore:
        """Keys and values of a layer."""
        return LayerStore(self._keys[index], self._values[index], self._upright[index] if self._upright else None)

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
        self.write(key_states[0], value_states[0], layer_idx)
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        if self._span is not None:
            low, high = self._span
            return keys[None, :, low:high], values[None, :, low:high]
        if self._read is None:
            return key_states, value_states
        self.gathers += 1
        read = self._placed(self._read, keys.device)
        return keys.index_select(1, read)[None], values.index_select(1, read)[None]

    def write(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> None:
        """Write the new rows of one layer, whose attention function reads the pool itself.

        Args:
            keys: [kv heads, rows, size].
            values: Likewise.
            layer: The layer.
        """
        if layer not in self._keys:
            self.generation += 1
            for store, slots in self._stores():
                store[layer] = self._allocate(values if store is self._values else keys, slots)
        self._put(self._keys[layer], keys, 1)
        self._put(self._values[layer], values, 1)
        if self._upright is not None:
            self._put(self._upright[layer], keys.transpose(1, 2), 2)

    def rows(self, slots: np.ndarray) -> list[torch.Tensor]:
        """A copy of what lies in `slots`: keys and values of every layer, [kv heads, slots, size]."""
        tensors = (*self._keys.values(), *self._values.values())
        return [tensor[:, torch.from_numpy(slots).to(tensor.device)] for tensor in tensors]

    @torch.inference_mode()
    def wipe(self, slots: np.ndarray) -> None:
        """Zero `slots`: a NaN left there would reach everybody who reads past it with weight zero."""
        for store, dimension in self._stores():
            for tensor in store.values():
                there = torch.from_numpy(slots[slots < tensor.shape[dimension]]).to(tensor.device)
                tensor.index_fill_(dimension, there, 0)

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

    def _stores(self) -> list[tuple[dict[int, torch.Tensor], int]]:
        """What is held of every layer, and in which dimension slots are counted."""
        return [(self._keys, 1), (self._values, 1), *([] if self._upright is None else [(self._upright, 2)])]

    def _put(self, tensor: torch.Tensor, rows: torch.Tensor, dimension: int) -> None:
        """Write the new rows into the slots that `aim` named."""
        if isinstance(self._write, slice):
            tensor.narrow(dimension, self._write.start, self._write.stop - self._write.start).copy_(rows)
        else:
            tensor.index_copy_(dimension, self._placed(self._write, tensor.device), rows.to(tensor.dtype))

    def _allocate(self, like: torch.Tensor, dimension: int) -> torch.Tensor:
        heads, _, size = like.shape
        shape = (heads, self._slots, size) if dimension == 1 else (heads, size, self._slots)
        # zeros, not empty: masked slots are multiplied by a zero weight, which NaN would survive
        return like.new_zeros(shape, dtype=self.dtype or like.dtype)

    def _grow(self, needed: int) -> None:
        if needed <= self._slots:
            return
        # a quarter more: copying stays rare, and little lies idle
        self._lengthen(min(self.capacity, max(needed, self._slots * 5 // 4)))

    def _lengthen(self, slots: int) -> None:
        if slots <= self._slots:
            return
        self.generation += 1
        for store, dimension in self._stores():
            for layer, old in store.items():
                # where memory runs out in between, some are longer already: the next growth takes up from there
                if old.shape[dimension] < slots:
                    store[layer] = _longer(old, slots, dimension)
        self._slots = slots


def _longer(old: torch.Tensor, slots: int, dimension: int) -> torch.Tensor:
    shape = list(old.shape)
    shape[dimension] = slots
    new = old.new_zeros(shape)
    new.narrow(dimension, 0, old.shape[dimension]).copy_(old)
    return new
