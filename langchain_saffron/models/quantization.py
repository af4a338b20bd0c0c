"""Weights in int8 where that costs no quality: measured on a text when a model is loaded, layer by layer."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from langchain_saffron.errors import SettingsError
from langchain_saffron.models import packing
from langchain_saffron.models.quantized_linear import IntegerProduct, QuantizedLinear

logger = logging.getLogger(__name__)

# what the check reads: an exchange in plain words, with names, figures and a list
TEXT = (
    "User: My neighbour Maria says that 3 of her 12 tomato plants have brown leaves. What should she do?\n"
    "Assistant: Brown leaves usually come from too much water, or from blight. First, look at the lower leaves: if the "
    "spots have rings, cut those leaves off and do not put them on the compost. Then:\n"
    "1. Water in the morning, and only the soil.\n2. Leave half a metre between two plants, so that air gets in.\n"
    "3. Do not plant tomatoes in the same bed before 2027.\n"
    "User: Thank you! And is it safe to eat the fruit?\nAssistant: Yes, if it looks healthy. "
)
MOST_TOKENS = 160
# of a layer's output, as a share of its own size: rounding gives one or two hundredths
MOST_LAYER_ERROR = 0.1
# nats a token, between the next-token distributions before and after
MOST_DIVERGENCE = 0.1
# of predicted rewards, as a share of their spread
MOST_REWARD_ERROR = 0.25
# beginning with the worst, this share of the layers is given back until the bound holds
_GIVEN_BACK = 0.1


@dataclass
class Quantized:
    """What became of a model's large linear layers.

    Attributes:
        layers: In int8.
        kept: Those that stayed as they were, by name.
        divergence: What that costs on the built-in text: nats a token for a policy, for a reward model the error of its
            rewards as a share of their spread.
        seconds: That quantising and checking took.
    """

    layers: int = 0
    kept: list[str] = field(default_factory=list)
    divergence: float = 0.0
    seconds: float = 0.0


def check_quantization(
    quantization: str | None, device: str, dtype: Any, device_map: Any = None, quantization_config: Any = None
) -> None:
    """Refuse what cannot be, before weights are loaded.

    Raises:
        SettingsError: An unknown kind, or one that does not go with the other settings.
    """
    if quantization is None:
        return
    if quantization != "int8":
        raise SettingsError(f"quantization: {quantization!r} is unknown; 'int8' or None")
    if torch.device(device).type != "cpu" or device_map is not None:
        where = f"device={device!r}" if device_map is None else "device_map"
        raise SettingsError(
            f"quantization: 'int8' is for the CPU, which {where} is not: pass device='cpu' without a device_map, or for "
            "an accelerator quantization_config="
        )
    if str(dtype).removeprefix("torch.") not in ("float32", "bfloat16", "auto"):
        raise SettingsError(
            f"quantization: 'int8' goes with dtype 'float32' or 'bfloat16', and not with {str(dtype)!r}"
        )
    if quantization_config is not None:
        raise SettingsError("quantization: either it or quantization_config=, which quantises by transformers")
    if not hasattr(torch.ops.onednn, "qlinear_prepack"):
        raise SettingsError("quantization: this build of torch has no int8 kernels (oneDNN): leave it out")


def sample_ids(tokenizer: Any, known: int) -> list[int]:
    """The built-in text as a model's token ids."""
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return [token for token in ids if token < known][:MOST_TOKENS]


@torch.inference_mode(False)
@torch.no_grad()
def quantize(model: Any, ids: Sequence[int], in_place: bool, name: str, rewards: bool = False) -> tuple[Any, Quantized]:
    """Put a model's large linear layers into int8, but for those that make too large a difference.

    Args:
        model: A transformers model in eval mode.
        ids: Token ids of the text on which differences are measured.
        in_place: Whether the model may be changed; then its own weights are freed. Else a copy is, that shares all that
            stays.
        name: What the log calls it.
        rewards: Whether its outputs are rewards, not logits.

    Returns:
        The model, and what was done.
    """
    begun = time.perf_counter()
    layers = packing.large_linears(model)
    if not layers or packing.is_hooked(model):
        return model, Quantized(kept=list(layers))
    if not in_place:
        model = packing.shared_copy(model)
        layers = packing.large_linears(model)
    text = torch.tensor([ids], device="cpu")
    products, errors, expected = _measured(model, layers, text)
    # a layer that the text never reached, or that is not called as one, stays
    order = sorted(errors, key=errors.__getitem__)
    chosen = [one for one in order if errors[one] <= MOST_LAYER_ERROR]
    bound = MOST_REWARD_ERROR if rewards else MOST_DIVERGENCE
    difference = reward_error if rewards else divergence
    done = Quantized()
    _put(model, {one: products[one] for one in chosen})
    while chosen:
        done.divergence = _difference(model, text, expected, difference)
        if done.divergence <= bound:
            break
        rest = chosen[: int(len(chosen) * (1 - _GIVEN_BACK))]
        _put(model, {one: layers[one] for one in chosen[len(rest) :]})
        chosen = rest
    done.divergence = done.divergence if chosen else 0.0
    done.layers, done.kept = len(chosen), sorted(layers.keys() - set(chosen))
    done.seconds = time.perf_counter() - begun
    if done.kept:
        logger.warning(
            "%d of %d linear layers of the %s stay as they were, because int8 changes too much there: %s",
            len(done.kept), len(layers), name, ", ".join(done.kept[:5]) + (" …" if len(done.kept) > 5 else ""),
        )  # fmt: skip
    return model, done


def divergence(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Kullback-Leibler divergence in nats a row, of logits [rows, vocabulary]."""
    log_expected, log_found = expected.double().log_softmax(-1), found.double().log_softmax(-1)
    return float((log_expected.exp() * (log_expected - log_found)).sum(-1).mean())


def reward_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The difference of rewards as a share of their spread."""
    return float((found - expected).double().pow(2).mean().sqrt() / expected.double().std())


def _measured(
    model: Any, layers: dict[str, Any], text: torch.Tensor
) -> tuple[dict[str, QuantizedLinear], dict[str, float], torch.Tensor]:
    """Every layer in int8, its relative error on its own inputs, and the model's logits before."""
    products = {name: QuantizedLinear(IntegerProduct([layer]), 0, layer) for name, layer in layers.items()}
    errors: dict[str, float] = {}

    def compare(name: str) -> Any:
        def hook(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            error = (products[name](inputs[0]) - output).float().norm() / output.float().norm()
            errors[name] = max(errors.get(name, 0.0), float(error.nan_to_num(nan=torch.inf)))

        return hook

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(compare(name)).remove)
        expected = model(input_ids=text, use_cache=False).logits[0]
    return products, errors, expected


def _difference(model: Any, text: torch.Tensor, expected: torch.Tensor, measure: Any) -> float:
    try:
        found = measure(expected, model(input_ids=text, use_cache=False).logits[0])
    except (RuntimeError, ValueError, TypeError, AttributeError):
        # a model that reads its layers' weights itself
        return float("inf")
    return found if found == found else float("inf")


def _put(model: Any, layers: dict[str, Any]) -> None:
    for name, layer in layers.items():
        packing.replace(model, name, layer)
