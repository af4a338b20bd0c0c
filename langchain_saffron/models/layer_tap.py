"""What one layer of a model gives, taken in passing from its forwards."""

from typing import Any

import torch

from langchain_saffron.errors import UnsupportedModelError


class LayerTap:
    """Keeps the states that a layer gave in the latest forward."""

    def __init__(self, model: Any, layer: int) -> None:
        """Listen to a layer.

        Args:
            model: A transformers causal LM.
            layer: Its number, counted from 1.

        Raises:
            UnsupportedModelError: The model's layers cannot be found, or it has fewer.
        """
        layers = decoder_layers(model)
        if not 1 <= layer <= len(layers):
            raise UnsupportedModelError(f"the model has {len(layers)} layers, and no layer {layer}")
        self._states: torch.Tensor | None = None
        self._handle = layers[layer - 1].register_forward_hook(self._keep)

    def take(self, index: Any) -> torch.Tensor:
        """States [..., width] of the latest forward at `index`, once; nothing of it is kept."""
        assert self._states is not None, "no forward has come by"
        states, self._states = self._states, None
        taken: torch.Tensor = states[index]
        return taken

    @property
    def states(self) -> torch.Tensor | None:
        """What the latest forward gave, where nobody has taken it yet: [1, rows, width]."""
        return self._states

    def put(self, states: torch.Tensor) -> None:
        """Hold states of a forward that ran without its hooks, as a captured one does."""
        self._states = states

    def close(self) -> None:
        """Listen no more."""
        self._handle.remove()

    def _keep(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._states = output[0] if isinstance(output, tuple | list) else output


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The layers of a causal LM, the lowest one first.

    Raises:
        UnsupportedModelError: They cannot be found.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise UnsupportedModelError(f"the layers of {type(model).__name__} cannot be found: no head can be put on one")
