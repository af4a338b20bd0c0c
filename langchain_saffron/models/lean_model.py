"""A decoder's forward below its unembedding in as few operations as it takes, where they give what the model gives.

For a few rows, a step of a small model goes into launching small operations, and into the Python around them.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from langchain_saffron.cache.attention import active_plan
from langchain_saffron.cache.kv_pool import KeyValuePool
from langchain_saffron.models.lean_layer import LeanLayer, is_of_family
from langchain_saffron.models.lean_norm import LeanNorm
from langchain_saffron.models.lean_rotation import LeanRotation
from langchain_saffron.models.packing import is_hooked

logger = logging.getLogger(__name__)

# of what a layer adds to its input, how much may come out differently: in float32 the last bits; in the narrow types,
# and where rows are rounded to int8, the last bit of some
_EXACT, _ROUNDED = 1e-4, 0.03
_DTYPES = {torch.float32: _EXACT, torch.bfloat16: _ROUNDED, torch.float16: _ROUNDED}


class LeanModel:
    """The layers of a Llama and its like over rows of the cache.

    Hooks on whole layers are called, as a tap needs; those on parts of one are not, and a model that comes with any is
    not computed so.

    Attributes:
        layers: One for each of the model's.
    """

    def __init__(self, base: Any, pool: KeyValuePool) -> None:
        """Take the model below an unembedding, of a kind that is known here."""
        self._base, self._pool = base, pool
        self.layers = [LeanLayer(layer) for layer in base.layers]
        self._norm = LeanNorm(base.norm)

    @classmethod
    def of(
        cls, model: Any, pool: KeyValuePool, tree: Callable[[], torch.Tensor | None], rounds: bool
    ) -> "LeanModel | None":
        """That of a model, if every layer of it gives what the model's own does.

        Args:
            model: A transformers causal LM under the tree's own attention. Those of its layers that are packed, and so
                are a decoder's own, are joined.
            pool: Its keys and values.
            tree: Runs it over a small tree; `None` where that fails.
            rounds: Whether layers of it round their input to int8.

        Returns:
            `None` where the model is of another kind, is moved about by accelerate, or comes out differently.
        """
        base = getattr(model, "base_model", None)
        try:
            if model.dtype not in _DTYPES or is_hooked(model) or not _knows(base):
                return None
            made = cls(base, pool)
        except (AttributeError, TypeError) as error:
            # a version of transformers whose modules have other parts
            logger.debug("layers are computed as the model does: %s", error)
            return None
        alike = len({(one.heads, one.kv_heads, one.scaling) for one in made.layers}) == 1
        if not alike or not made._agrees(tree, _ROUNDED if rounds else _DTYPES[model.dtype]):
            return None
        for layer in made.layers:
            layer.join()
        return made

    @torch.inference_mode()
    def __call__(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """States below the unembedding, [1, rows, width], under the plan that is active.

        Args:
            tokens: [1, rows].
            positions: [1, rows].
        """
        plan = active_plan()
        assert plan is not None
        rows = self._base.embed_tokens(tokens[0])
        rotation = self._rotation(*self._base.rotary_emb(rows[None], position_ids=positions))
        for layer in self.layers:
            rows = layer(rows, rotation, plan, self._pool)
            if layer.module._forward_hooks:
                rows = _heard(layer.module, rows)
        return self._norm(rows)[None]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Within it, the model's own forward computes its layers so."""
        plain = self._base.forward

        def forward(*inputs: Any, **options: Any) -> Any:
            if active_plan() is None:
                # another thread's, to whom the model belongs
                return plain(*inputs, **options)
            return BaseModelOutputWithPast(last_hidden_state=self(options["input_ids"], options["position_ids"]))

        self._base.forward = forward
        try:
            yield
        finally:
            vars(self._base).pop("forward", None)

    def _rotation(self, cosines: torch.Tensor, sines: torch.Tensor) -> LeanRotation:
        first = self.layers[0]
        return LeanRotation.of(cosines[0], sines[0], first.heads, first.kv_heads, first.scaling)

    def _agrees(self, tree: Callable[[], torch.Tensor | None], tolerance: float) -> bool:
        """Whether each layer, given what the model gives it on a tree, adds what the model's own adds."""
        agreed: list[bool] = []

        def compare(layer: LeanLayer) -> Callable[..., None]:
            def hook(module: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: torch.Tensor) -> None:
                plan, given = active_plan(), inputs[0]
                assert plan is not None
                cosines, sines = options["position_embeddings"]
                if cosines.shape[-1] != layer.size:
                    agreed.append(False)
                    return
                found = layer(given[0], self._rotation(cosines, sines), plan, self._pool)
                agreed.append(_close(found - given[0], output[0] - given[0], tolerance))

            return hook

        def compare_norm(module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            agreed.append(_close(self._norm(inputs[0][0]), output[0], tolerance))

        def compare_first(module: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            agreed.append(torch.equal(inputs[0], embedded[-1]))

        embedded: list[torch.Tensor] = []
        with ExitStack() as hooks:
            keep = self._base.embed_tokens.register_forward_hook(lambda module, inputs, output: embedded.append(output))
            hooks.callback(keep.remove)
            first = self.layers[0].module.register_forward_pre_hook(compare_first, with_kwargs=True)
            hooks.callback(first.remove)
            for layer in self.layers:
                hooks.callback(layer.module.register_forward_hook(compare(layer), with_kwargs=True).remove)
            hooks.callback(self._base.norm.register_forward_hook(compare_norm).remove)
            ran = tree() is not None
        # two forwards, each through the embeddings, all layers and the norm
        return ran and all(agreed) and len(agreed) == 2 * (len(self.layers) + 2)


def _knows(base: Any) -> bool:
    return (
        is_of_family(base, "Model")
        and is_of_family(base.norm, "RMSNorm")
        and is_of_family(base.rotary_emb, "RotaryEmbedding")
        and type(base.embed_tokens) is torch.nn.Embedding
        and len(base.layers) == base.config.num_hidden_layers
        and all(LeanLayer.knows(layer) for layer in base.layers)
        and not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())
    )


def _heard(layer: Any, rows: torch.Tensor) -> torch.Tensor:
    """What the hooks of a layer make of its output."""
    for number, hook in tuple(layer._forward_hooks.items()):
        named: tuple[dict[str, Any], ...] = ({},) if number in layer._forward_hooks_with_kwargs else ()
        changed = hook(layer, (), *named, rows[None])
        rows = rows if changed is None else (changed[0] if isinstance(changed, tuple) else changed)[0]
    return rows


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    # a NaN is close to nothing
    return bool((found.float() - expected.float()).norm() <= tolerance * expected.float().norm())
