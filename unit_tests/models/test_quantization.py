"""Layers in int8: the very numbers of integer arithmetic, alone or together, and none where they cost too much."""

import copy
import logging
import time
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from langchain_saffron import ChatSaffron, MultifurcationRewardModel, SaffronEngine, SearchSettings
from langchain_saffron.errors import SettingsError
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.models import integer_kernels, packing, quantization, quantized_linear
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.integer_kernels import IntegerKernel, PackedKernel, PairedKernel, PlainKernel, fastest
from langchain_saffron.models.packed_product import PackedPart
from langchain_saffron.models.quantization import quantize
from langchain_saffron.models.quantized_linear import IntegerProduct, QuantizedLinear
from langchain_saffron.settings import Quantization
from unit_tests.tiny_models import PROMPTS, random_engine, random_model, tiny_tokenizer

IDS = list(range(5, 60))


@pytest.fixture
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    monkeypatch.setattr(quantization, "SMALLEST_PRODUCT", 1)


def random_linear(outputs: int, inputs: int, bias: bool = True, seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


def random_rows(count: int, size: int) -> torch.Tensor:
    """Rows of very different size, one of zeros."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(count, size, generator=generator) * torch.logspace(-6, 6, count)[:, None]
    rows[count // 2] = 0
    return rows


def quantized_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, QuantizedLinear) for module in model.modules())


def integer_product(rows: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    """The same by exact sums: whole numbers in float64."""
    scales = layer.weight.abs().amax(dim=1) / 127
    weight = (layer.weight / scales[:, None]).round().double()
    steps = torch.add(torch.tensor(1e-30), rows.abs().amax(dim=-1, keepdim=True), alpha=1 / 127)
    sums = (rows / steps).round().double() @ weight.t()
    product = sums.float() * scales * steps
    return product if layer.bias is None else product + layer.bias


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 64), (333, 77), (1536, 576)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_that_of_whole_numbers(outputs: int, inputs: int, bias: bool):
    layer, rows = random_linear(outputs, inputs, bias), random_rows(17, inputs)
    found = IntegerProduct([layer])(rows)
    assert torch.equal(found, integer_product(rows, layer))
    close = (found - layer(rows)).norm(dim=1) <= 0.02 * layer(rows).norm(dim=1) + 1e-12
    assert close.all()


@pytest.mark.parametrize("count", [1, 2, 5, 16, 64, 300])
def test_rows_do_not_depend_on_their_neighbours(count: int):
    product, rows = IntegerProduct([random_linear(333, 77)]), random_rows(300, 77)
    assert torch.equal(product(rows)[:count], product(rows[:count]))
    assert torch.equal(product(rows[None])[0, -1], product(rows[-1:])[0])
    assert product(rows[:0]).shape == (0, 333)


def test_joined_layers_give_what_each_gives_alone():
    layers = [random_linear(64, 96, bias=i != 1, seed=i) for i in range(3)]
    product, rows = IntegerProduct(layers), random_rows(7, 96)
    joined = [QuantizedLinear(product, i, layer) for i, layer in enumerate(layers)]
    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 0]):
        for i in order:
            assert torch.equal(joined[i](rows), IntegerProduct([layers[i]])(rows))
    other = rows + 1
    assert torch.equal(joined[0](rows), IntegerProduct([layers[0]])(rows))
    assert torch.equal(joined[1](other), IntegerProduct([layers[1]])(other))
    for one in joined:
        one(rows)
    assert product._last is None


def test_nan_is_not_hidden():
    rows = random_rows(4, 64)
    rows[1, 3], rows[3, 5] = torch.nan, torch.inf
    found = IntegerProduct([random_linear(96, 64)])(rows).isfinite().all(dim=1)
    assert found.tolist() == [True, False, True, False]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
@torch.inference_mode()
def test_a_model_that_is_not_ours_stays_as_it_was(family: str, all_sizes: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 1.0)
    model = random_model(family)
    before = copy.deepcopy(model.state_dict())
    changed, done = quantization.quantize(model, IDS, in_place=False, name="policy")
    assert done.layers == quantized_layers(changed) > 10
    assert quantized_layers(model) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    text = torch.tensor([IDS])
    found, expected = changed(input_ids=text).logits[0], model(input_ids=text).logits[0]
    assert done.divergence == pytest.approx(quantization.divergence(expected, found), rel=1e-4)
    assert 0 < done.divergence < 0.2


@torch.inference_mode()
def test_what_is_quantised_can_be_copied_and_saved(tmp_path, all_sizes: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 1.0)
    model, _ = quantization.quantize(random_model("gpt2"), IDS, in_place=True, name="policy")
    text = torch.tensor([IDS])
    expected = model(input_ids=text).logits
    assert torch.equal(copy.deepcopy(model)(input_ids=text).logits, expected)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    # the weights are those of the integers: to quantise them once more changes no number
    twice, _ = quantization.quantize(again, IDS, in_place=True, name="policy")
    assert torch.allclose(twice(input_ids=text).logits, expected, atol=1e-4)


@torch.inference_mode()
def test_a_layer_that_int8_ruins_stays(all_sizes: None, caplog: pytest.LogCaptureFixture):
    model = random_model("llama")
    block = model.model.layers[1]
    # an input that no output reads, so large that all others vanish in its scale
    block.post_attention_layernorm.weight[0] = 1e5
    block.mlp.gate_proj.weight[:, 0] = block.mlp.up_proj.weight[:, 0] = 0
    expected = block.mlp.gate_proj.weight.clone()
    with caplog.at_level(logging.WARNING):
        changed, done = quantization.quantize(model, IDS, in_place=True, name="policy")
    assert done.kept[:2] == ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"]
    assert torch.equal(changed.model.layers[1].mlp.gate_proj.weight, expected)
    assert done.divergence <= quantization.MOST_DIVERGENCE
    assert "of the policy stay as they were" in caplog.text
    assert "layers.1.mlp.gate_proj" in caplog.text


@torch.inference_mode()
def test_the_bound_on_the_whole_gives_layers_back(all_sizes: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 1.0)
    _, all_of_it = quantization.quantize(random_model("llama"), IDS, in_place=True, name="policy")
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", all_of_it.divergence / 2)
    model, done = quantization.quantize(random_model("llama"), IDS, in_place=True, name="policy")
    assert done.divergence <= all_of_it.divergence / 2
    assert 0 < done.layers == quantized_layers(model) < all_of_it.layers
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 0.0)
    model, done = quantization.quantize(random_model("llama"), IDS, in_place=True, name="policy")
    assert (done.layers, done.divergence, quantized_layers(model)) == (0, 0.0, 0)


def test_a_decoder_packs_what_stays(all_sizes: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 0.003)
    decoder = TrieDecoder(random_model("llama"), "policy", max_cache_tokens=100, int8_text=IDS)
    packed = sum(isinstance(module, packing.PackedLinear | PackedPart) for module in decoder.model.modules())
    assert decoder.quantized is not None
    assert packed == len(decoder.quantized.kept) > 0
    assert decoder.vocabulary == 320


@pytest.mark.slow
def test_requests_in_int8_answer_the_same_alone_and_together(all_sizes: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantization, "MOST_DIVERGENCE", 1.0)
    settings = SearchSettings(search="greedy", max_tokens=12, min_tokens=12)
    engine = SaffronEngine(random_model("llama"), tiny_tokenizer(), quantization="int8")
    assert engine.policy.quantized is not None
    alone = [engine.generate(prompt, settings=settings).token_ids for prompt in PROMPTS]
    handles = [engine.submit(prompt, settings=settings) for prompt in PROMPTS]
    assert [handle.result().token_ids for handle in handles] == alone
    plain = random_engine()
    floats = [plain.generate(prompt, settings=settings).token_ids for prompt in PROMPTS]
    assert sum(a == b for a, b in zip(alone, floats, strict=True)) >= len(PROMPTS) // 4
    engine.close()
    plain.close()


def test_float_weights_are_freed():
    engine = SaffronEngine.from_pretrained(quantization="int8")
    plain = SaffronEngine.from_pretrained()
    head = engine.policy.model.get_output_embeddings()
    assert isinstance(head, QuantizedLinear)
    size = {
        name: sum(p.nbytes for p in one.policy.model.parameters()) for name, one in (("int8", engine), ("float", plain))
    }
    packed_head = 4 * head.in_features * head.out_features
    assert size["float"] - size["int8"] == packed_head - packed_head // 4 - 4 * head.out_features
    assert engine.reward_model is not None
    assert engine.reward_model.decoder.quantized is not None
    engine.close()
    plain.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "for the CPU"),
        ({"device_map": "auto"}, "device_map"),
        ({"dtype": "float16"}, "'float16'"),
        ({"dtype": torch.float64}, "float64"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config"),
    ],
)
def test_what_cannot_be_is_refused_before_any_weights(options: dict[str, Any], message: str):
    with pytest.raises(SettingsError, match=message):
        SaffronEngine.from_pretrained("no-such-directory", quantization="int8", **options)
    with pytest.raises(ValueError, match=message):
        ChatSaffron(model="no-such-directory", effort="off", quantization="int8", **{"device": "cpu", **options})


def test_an_unknown_kind_is_refused():
    unknown: Any = "int3"
    with pytest.raises(SettingsError, match="'int3' is unknown"):
        SaffronEngine.from_pretrained("no-such-directory", quantization=unknown)
    with pytest.raises(SettingsError, match="'int3' is unknown"):
        MultifurcationRewardModel.from_pretrained(WEIGHTS / "mrm", quantization=unknown)
    with pytest.raises(ValueError, match="quantization"):
        ChatSaffron(quantization=unknown)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_both_kinds_are_told_apart(quantization: Quantization | None):
    chat = ChatSaffron(quantization=quantization)
    assert chat._identifying_params["quantization"] == quantization
    assert ("quantized" in str(type(chat.load().policy.model.lm_head)).lower()) == (quantization is not None)


@pytest.mark.parametrize(("outputs", "inputs"), [(96, 64), (333, 77), (1536, 576)])
def test_all_kernels_give_the_same_bits(outputs: int, inputs: int):
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    scales = torch.rand(outputs)
    kernels: list[IntegerKernel] = [kind(weight, scales) for kind in (PlainKernel, PackedKernel, PairedKernel)]
    for rows in (1, 2, 17, 300):
        numbers = torch.randint(-127, 128, (rows, inputs), dtype=torch.int8)
        expected = (numbers.long() @ weight.long().t()).float() * scales
        assert all(torch.equal(kernel(numbers), expected) for kernel in kernels)
        assert all(torch.equal(kernel(numbers[None])[0], expected) for kernel in kernels)
    assert all(torch.equal(kernel.dense(), weight) for kernel in kernels)


@pytest.mark.parametrize("kind", [PlainKernel, PackedKernel, PairedKernel])
def test_kernels_take_rows_that_lie_apart(kind: type[IntegerKernel]):
    weight, scales = torch.randint(-127, 128, (32, 64), dtype=torch.int8), torch.rand(32)
    numbers = torch.randint(-127, 128, (3, 4, 64), dtype=torch.int8).transpose(0, 1)
    expected = (numbers.long() @ weight.long().t()).float() * scales
    assert torch.equal(kind(weight, scales)(numbers), expected)


def test_the_fastest_kernel_is_taken():
    class Slow(PlainKernel):
        calls = 0

        def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
            Slow.calls += 1
            time.sleep(0.02)
            return super().__call__(numbers)

    weight, scales = torch.ones(4096, 64, dtype=torch.int8), torch.ones(4096)
    assert fastest([PackedKernel, Slow], weight, scales) is PackedKernel
    # one that is hopeless is not measured again and again
    assert Slow.calls == 2 * 2


@pytest.mark.parametrize(
    ("plain", "packed", "expected"),
    [
        ((1.0, 3.0), (2.0, 1.0), PairedKernel),
        ((1.0, 3.0), (1.1, 1.0), PackedKernel),
        ((1.0, 1.1), (2.0, 1.0), PlainKernel),
        ((2.0, 1.0), (1.0, 3.0), PlainKernel),
    ],
)
def test_both_are_taken_where_each_is_by_far_the_fastest_for_its_rows(
    plain: tuple[float, float],
    packed: tuple[float, float],
    expected: type[IntegerKernel],
    monkeypatch: pytest.MonkeyPatch,
):
    times = {PlainKernel: plain, PackedKernel: packed}

    def seconds_each(copies: list[IntegerKernel], numbers: torch.Tensor, others: list[float]) -> float:
        return times[type(copies[0])][len(numbers) > 1]

    monkeypatch.setattr(integer_kernels, "_seconds_each", seconds_each)
    weight, scales = torch.ones(4096, 4096, dtype=torch.int8), torch.ones(4096)
    assert fastest([PlainKernel, PackedKernel], weight, scales) is expected


def test_slow_products_are_said(all_sizes: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    class Slow(PlainKernel):
        def __call__(self, numbers: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002)
            return super().__call__(numbers)

    model, ids = random_model("llama"), list(range(20))
    monkeypatch.setattr(quantized_linear, "lay_out", Slow)
    with caplog.at_level("WARNING"):
        quantize(model, ids, False, "policy")
    assert "int8 makes the policy slower" in caplog.text
