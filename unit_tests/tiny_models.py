"""Random small models of several families, and reward models on them, for tests against real forwards."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from langchain_saffron import MultifurcationRewardModel, ProcessRewardModel, SaffronEngine
from langchain_saffron.templates.guard_prompt import GuardPrompt
from unit_tests.builders import byte_level_tokenizer
from unit_tests.families import FALLBACKS, FAMILIES, VOCABULARY

PROMPTS = [[(13 * i + 7 * j) % (VOCABULARY - 10) + 3 for j in range(4 + i)] for i in range(16)]
GUARD = GuardPrompt.of_strings("Q: ", " A: ", " Safe? ", safe=5, unsafe=9)


def random_model(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random causal LM of a family, in eval mode."""
    torch.manual_seed(seed)
    config = {**FAMILIES, **FALLBACKS}[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    # what the tokenizer names ends a turn as well
    own = config.eos_token_id if isinstance(config.eos_token_id, list | tuple) else [config.eos_token_id]
    model.generation_config.eos_token_id = [*(i for i in own if i is not None), tiny_tokenizer().eos_token_id]
    return model


def random_reward_model(
    seed: int = 1, unseen: int = 40, shift: float = 0.0, **changes: Any
) -> MultifurcationRewardModel:
    """A random MRM over the same tokens; `shift` raises all its rewards."""
    model = random_model("llama", seed, num_hidden_layers=2, **changes)
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(VOCABULARY, generator=generator) + shift
    seen = torch.ones(VOCABULARY, dtype=torch.bool)
    seen[torch.randperm(VOCABULARY, generator=generator)[:unseen]] = False
    return MultifurcationRewardModel(model, tiny_tokenizer(), bias, seen)


def random_prm(seed: int = 1, family: str = "qwen3") -> ProcessRewardModel:
    """A random guard, asked with one question, as process reward model."""
    return ProcessRewardModel.from_pretrained(random_model(family, seed), GUARD, tokenizer=tiny_tokenizer())


def tiny_tokenizer() -> Any:
    """A byte-level tokenizer whose ids all lie inside the tiny models' vocabulary."""
    return byte_level_tokenizer(vocab_size=VOCABULARY - 8)


def random_engine(
    family: str = "llama", reward: MultifurcationRewardModel | None = None, **changes: Any
) -> SaffronEngine:
    """An engine around a random policy."""
    return SaffronEngine(random_model(family, **changes), tiny_tokenizer(), reward)


def generate(model: Any, prompt: list[int], **options: Any) -> list[int]:
    """The answer that transformers' own decoding gives."""
    options = {"max_new_tokens": 30, "do_sample": False, "top_k": None, "pad_token_id": 2, **options}
    output = model.generate(torch.tensor([prompt], device=model.device), **options)
    return output[0, len(prompt) :].tolist()


def plain_logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """Next-token logits by a full forward without any cache: what everything is compared with."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0, -1]
