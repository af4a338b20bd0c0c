"""Weights in int8 where that costs no quality: measured on a text when a model is loaded, layer by layer."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from langchain_saffron.errors import SettingsError
from langchain_saffron.models import packing
from langchain_saffron.models.integer_kernels import seconds_of
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
# weights in one product; below, a float layer in oneDNN's layout is as fast
SMALLEST_PRODUCT = 2**18
# of a layer's output, as a share of its own size: rounding gives one or two hundredths
MOST_LAYER_ERROR = 0.1
# nats a token, between the next-token distributions before and after
MOST_DIVERGENCE = 0.1
# of predicted rewards, as a share of their spread
MOST_REWARD_ERROR = 0.25
# beginning with the worst, this share of the layers is given back until the bound holds
_GIVEN_BACK = 0.1
# rows on which the speed is compared, and what is worth a word
_ROWS, _SLOWER = 16, 1.5


@dataclass
class Quantized:
    """What became of a model's large linear layers.

    Attributes:
        layers: In int8.
        kept: Those that stayed as they were, by name.
        divergence: What that costs on the built-in text: nats a token for a policy, for a reward model the error of its
            rewards as a share of their spread.
        seconds: That quantising and checking took.
        cache: How far the model with keys and values in bfloat16 is from itself without, measured alike; `None` where
            they are held in its own type.
    """

    layers: int = 0
    kept: list[str] = field(default_factory=list)
    divergence: float = 0.0
    seconds: float = 0.0
    cache: float | None = None

    def holds(self, expected: torch.Tensor, found: torch.Tensor, rewards: bool) -> bool:
        """Whether keys and values in bfloat16 may be taken: what they change is within the bound, and is kept.

        Args:
            expected: Logits or rewards [tokens, outputs] without.
            found: The same with them.
            rewards: Which of the two they are.
        """
        bound, difference = _measure(rewards)
        change = difference(expected, found)
        # a NaN is within no bound
        self.cache = change if change <= bound else None
        return self.cache is not None


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
            f"quantization: 'int8' is for the CPU, which {where} is not: pass device='cpu' without a device_map, or, "
            "for an accelerator, quantization_config="
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
    text = torch.tensor([ids])
    seen = _Seen.of(model, layers, text)
    groups = [group for group in seen.groups if sum(layers[one].weight.numel() for one in group) >= SMALLEST_PRODUCT]
    large = {one for group in groups for one in group} | (layers.keys() - seen.errors.keys())
    # a layer that the text never reached, or that is not called as one, stays
    chosen = [one for one in sorted(seen.errors, key=seen.errors.__getitem__) if one in large]
    chosen = [one for one in chosen if seen.errors[one] <= MOST_LAYER_ERROR]
    bound, difference = _measure(rewards)
    done = Quantized()
    _put(model, {one: seen.products[one] for one in chosen})
    while chosen:
        done.divergence = _difference(model, text, seen.logits, difference)
        if done.divergence <= bound:
            break
        rest = chosen[: int(len(chosen) * (1 - _GIVEN_BACK))]
        _put(model, {one: layers[one] for one in chosen[len(rest) :]})
        chosen = rest
    done.divergence = done.divergence if chosen else 0.0
    done.layers, done.kept = len(chosen), sorted(large - set(chosen))
    if chosen:
        _compare_speed(layers, seen.products, max(chosen, key=lambda one: layers[one].weight.numel()), name)
    for group in groups:
        _join(model, layers, [one for one in group if one in chosen])
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


def _measure(rewards: bool) -> tuple[float, Callable[[torch.Tensor, torch.Tensor], float]]:
    """The bound, and what is held to it."""
    return (MOST_REWARD_ERROR, reward_error) if rewards else (MOST_DIVERGENCE, divergence)


@dataclass
class _Seen:
    """What a forward of the model as it was shows.

    Attributes:
        products: Every layer in int8.
        logits: The model's.
        errors: What each layer in int8 is off by on its own inputs, as a share.
        groups: Layers that read the same input one after the other.
    """

    products: dict[str, QuantizedLinear]
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    errors: dict[str, float] = field(default_factory=dict)
    groups: list[list[str]] = field(default_factory=list)

    @classmethod
    def of(cls, model: Any, layers: dict[str, Any], text: torch.Tensor) -> "_Seen":
        seen = cls({name: QuantizedLinear(IntegerProduct([layer]), 0, layer) for name, layer in layers.items()})
        last: list[tuple[str, torch.Tensor, int]] = []

        def compare(name: str) -> Any:
            parent = name.rpartition(".")[0]

            def hook(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                rows = inputs[0]
                beside = bool(last) and last[0][0] == parent and last[0][1] is rows and last[0][2] == rows._version
                last[:] = [(parent, rows, rows._version)]
                if name not in seen.errors:
                    if beside:
                        seen.groups[-1].append(name)
                    else:
                        seen.groups.append([name])
                error = (seen.products[name](rows) - output).float().norm() / output.float().norm()
                seen.errors[name] = max(seen.errors.get(name, 0.0), float(error.nan_to_num(nan=torch.inf)))

            return hook

        with ExitStack() as hooks:
            for name, layer in layers.items():
                hooks.callback(layer.register_forward_hook(compare(name)).remove)
            seen.logits = model(input_ids=text, use_cache=False).logits[0]
        return seen


def _compare_speed(layers: dict[str, Any], products: dict[str, QuantizedLinear], largest: str, name: str) -> None:
    """Say it where int8 is a loss of time: on a CPU whose instructions do not multiply such numbers."""
    rows = torch.ones(_ROWS, products[largest].in_features, dtype=layers[largest].weight.dtype)
    times = seconds_of(lambda: products[largest](rows)) / seconds_of(lambda: layers[largest](rows))
    if times > _SLOWER:
        logger.warning(
            "int8 makes the %s slower: its largest layer takes %.1f times as long as in %s on this CPU. Leave "
            "quantization out, unless memory matters more",
            name, times, str(rows.dtype).removeprefix("torch."),
        )  # fmt: skip


def _join(model: Any, layers: dict[str, Any], group: list[str]) -> None:
    """One product for layers that read the same input: the same numbers, but their input is quantised once."""
    if len(group) < 2:
        return
    product = IntegerProduct([layers[name] for name in group])
    _put(model, {name: QuantizedLinear(product, i, layers[name]) for i, name in enumerate(group)})


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
