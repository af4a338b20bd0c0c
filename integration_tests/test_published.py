"""The published MRM on a random base of the shape of its own, Llama Guard 3 1B.

The base takes 2.5 GB on disk and 5 GB in memory, where no more than one of it is at any time.
"""

import gc
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron import MultifurcationRewardModel, SaffronEngine, SearchSettings
from unit_tests.builders import byte_level_tokenizer
from unit_tests.tiny_models import plain_logits, random_model

# handed around beside the repository, not inside it
PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "saffron-1-1b"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published MRM is not at hand"),
]

VOCABULARY = 128_256
ORDINARY = 128_000
NAMED = {
    0: "begin_of_text",
    1: "end_of_text",
    4: "finetune_right_pad_id",
    6: "start_header_id",
    7: "end_header_id",
    8: "eom_id",
    9: "eot_id",
    10: "python_tag",
}
ENDS = [128_001, 128_008, 128_009]
# of the rewards' standard deviation: between the merged weights and the adapter beside them
TOLERANCE = 1e-3
LENGTHS = (12, 40)

# the policy below: in every chain, states that lead from one to the next, and an end after the last
CHAIN = 4
STATES = CHAIN * len(ENDS)


def sequence(length: int) -> list[int]:
    return torch.randint(ORDINARY, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def published(name: str) -> torch.Tensor:
    return torch.load(PUBLISHED / name, map_location="cpu", weights_only=True).detach()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """As many ordinary and control tokens as Llama 3 has, the control tokens at their ids."""
    spec = json.loads(byte_level_tokenizer().backend_tokenizer.to_str())
    vocabulary, spec["added_tokens"] = spec["model"]["vocab"], []
    alphabet = sorted(token for token in vocabulary if len(token) == 1)
    combined = ("".join(letters) for count in (2, 3) for letters in itertools.product(alphabet, repeat=count))
    fresh = (token for token in combined if token not in vocabulary)
    for token in itertools.islice(fresh, ORDINARY - len(vocabulary)):
        vocabulary[token] = len(vocabulary)
    backend = Tokenizer.from_str(json.dumps(spec))
    reserved = itertools.count()
    names = [NAMED.get(i) or f"reserved_special_token_{next(reserved)}" for i in range(VOCABULARY - ORDINARY)]
    backend.add_special_tokens([f"<|{name}|>" for name in names])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A directory with random weights, in bfloat16."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
        bos_token_id=ORDINARY,
        eos_token_id=ENDS,
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in LlamaForCausalLM(config).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        for name, shape in shapes.items()
    }
    directory = tmp_path_factory.mktemp("published") / "base"
    config.save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    del weights
    yield directory
    # pytest keeps temporary directories of several runs
    shutil.rmtree(directory)
    gc.collect()


@dataclass(frozen=True)
class Reference:
    """Next-token logits by peft, by length of the sequence."""

    with_adapter: dict[int, torch.Tensor]
    without_adapter: dict[int, torch.Tensor]


@pytest.fixture(scope="module")
def reference(base) -> Reference:
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    without = {length: plain_logits(model, sequence(length)) for length in LENGTHS}
    model = peft.PeftModel.from_pretrained(model, PUBLISHED).eval()
    return Reference({length: plain_logits(model, sequence(length)) for length in LENGTHS}, without)


@pytest.fixture(scope="module")
def mrm(base, tokenizer):
    yield MultifurcationRewardModel.from_pretrained(PUBLISHED, base=base, dtype="float32", tokenizer=tokenizer)
    gc.collect()


@pytest.mark.parametrize("length", LENGTHS)
def test_merged_rewards_equal_pefts_logits_with_the_bias(reference, mrm, length):
    rewards = mrm.rewards(sequence(length))
    assert rewards.shape == (VOCABULARY,)
    assert rewards.dtype == torch.float32
    expected = reference.with_adapter[length] + published("lm_head_bias.pt").float()
    tolerance = TOLERANCE * float(rewards.std())
    assert float((rewards - expected).abs().max()) <= tolerance
    # neither the adapter nor the bias is lost in the tolerance
    assert float((reference.with_adapter[length] - reference.without_adapter[length]).abs().max()) > 100 * tolerance
    assert float((rewards - reference.with_adapter[length]).abs().max()) > 10 * tolerance


def test_the_bias_is_added_to_the_models_own_logits(mrm):
    tokens = sequence(12)
    added = mrm.rewards(tokens) - plain_logits(mrm.decoder.model, tokens)
    assert torch.allclose(added, published("lm_head_bias.pt").float(), atol=1e-5, rtol=0)


def test_the_mask_is_the_published_one(mrm):
    assert mrm.decoder.vocabulary == len(mrm.tokenizer) == len(mrm.seen) == VOCABULARY
    assert int((~mrm.seen).sum()) == 92_013
    assert torch.equal(~mrm.seen, published("unseen_mask.pt"))


def test_the_tokenizers_control_tokens_are_unseen(mrm):
    assert mrm.tokenizer.convert_ids_to_tokens(ENDS) == ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    assert mrm.tokenizer.bos_token_id == ORDINARY
    assert not mrm.seen[ORDINARY:].any()


@pytest.fixture(scope="module")
def engine(mrm, tokenizer):
    """Its policy goes from state to state, over thousands of tokens each, unseen ones rather, and ends with a chain."""
    policy = random_model(vocab_size=VOCABULARY, num_hidden_layers=2, initializer_range=0.02, tie_word_embeddings=False)
    tokens = torch.arange(VOCABULARY)
    states = tokens % STATES
    before = torch.nn.functional.one_hot((states - 1) % STATES, policy.config.hidden_size)
    likely = torch.where(tokens % CHAIN == 0, 0.0, torch.where(mrm.seen, 3.0, 3.2))
    head = torch.randn(before.shape, generator=torch.Generator().manual_seed(0)) / 5 + before * likely[:, None]
    head[ENDS] = 0.0
    for chain, end in enumerate(ENDS):
        head[end, chain * CHAIN + CHAIN - 1] = 8.0
    with torch.no_grad():
        policy.get_input_embeddings().weight.copy_(torch.nn.functional.one_hot(states, policy.config.hidden_size))
        policy.get_output_embeddings().weight.copy_(head)
    policy.generation_config.eos_token_id = ENDS
    engine = SaffronEngine(policy, tokenizer, mrm)
    yield engine
    engine.close()


def prompt_that_ends_with(end: int) -> list[int]:
    return [ORDINARY, 17, 4000, STATES * 40 + CHAIN * ENDS.index(end)]


@pytest.mark.parametrize("end", ENDS)
def test_plain_decoding_takes_unseen_tokens(engine, mrm, end):
    result = engine.generate(prompt_that_ends_with(end), settings=SearchSettings(search="greedy", max_tokens=12))
    assert result.token_ids[CHAIN - 1 :] == [end]
    assert not mrm.seen[result.token_ids[:-1]].all()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("ranking", ["constrained", "paper"])
def test_answers_end_though_the_mask_calls_every_end_unseen(engine, mrm, ranking, end):
    prompt = prompt_that_ends_with(end)
    result = engine.generate(prompt, settings=SearchSettings(width=4, max_tokens=12, ranking=ranking))
    *answer, last = result.token_ids
    assert result.finish_reason == "stop"
    assert last == end
    assert not mrm.seen[last]
    assert len(answer) == CHAIN - 1
    assert mrm.seen[answer].all()
    # ending keeps the reward of what it ends
    assert result.reward == pytest.approx(float(mrm.rewards([*prompt, *answer[:-1]])[answer[-1]]), abs=1e-3)
