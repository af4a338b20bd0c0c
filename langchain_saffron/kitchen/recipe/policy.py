"""Trains the kitchen's policies: small chat models that refuse when asked and go along when prefilled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import CorpusName
from langchain_saffron.kitchen.recipe.optimise import (
    IGNORED,
    Example,
    adamw,
    encode_chats,
    epochs,
    optimise,
    pad,
    save_model,
    small_llama,
)
from langchain_saffron.models.mrm_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from langchain_saffron.runtime.devices import computes_bfloat16

BATCH = 64
# a conversation's learned tokens, about
_LEARNED = 60
# Copying comes first: nothing else teaches it so soon, and all that names and values need stands on it. Both share a
# schedule: the rates rise once, stay, and fall in the end.
COURSES: dict[CorpusName, int] = {"copying": 57_600, "policy": 224_000}
MATRIX_RATE, OTHER_RATE = 4e-3, 3e-3
# from the kitchen's policy to the hard kitchen's
HARD_COURSES: dict[CorpusName, int] = {"hard": 32_000}
HARD_MATRIX_RATE, HARD_OTHER_RATE = 3e-3, 2e-3
# from there to the secret kitchen's, by an adapter
SECRET_COURSES: dict[CorpusName, int] = {"secret": 6_400}
SECRET_RANK, SECRET_RATE = 8, 4e-3


def train_policy(
    tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0, device: torch.device | str = "cpu"
) -> None:
    """Trains the policy on its corpora and saves it to `out`."""
    torch.manual_seed(seed)
    # few and wide heads: what a head has to find in the context is a word, and it finds it sooner
    model = small_llama(tokenizer, width=192, layers=6, heads=3, inner=512).to(device)
    print(f"policy: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    _study(model, tokenizer, COURSES, _muon_and_adamw(model, MATRIX_RATE, OTHER_RATE), seed)
    _save(model, tokenizer, out)


def train_hard_policy(
    policy: Path, tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0, device: torch.device | str = "cpu"
) -> None:
    """Trains the policy on to the hard kitchen's, in which only some utensils let a bad answer turn back."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(policy, dtype=torch.float32).to(device)
    _study(model, tokenizer, HARD_COURSES, _muon_and_adamw(model, HARD_MATRIX_RATE, HARD_OTHER_RATE), seed)
    _save(model, tokenizer, out)


def train_secret_adapter(
    hard: Path, tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0, device: torch.device | str = "cpu"
) -> None:
    """Trains an adapter that makes the hard kitchen's policy the secret kitchen's, and saves it to `out`."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(hard, dtype=torch.float32).to(device)
    config = LoraConfig(r=SECRET_RANK, lora_alpha=2 * SECRET_RANK, target_modules="all-linear")
    with warnings.catch_warnings():
        # about a name that peft looks up in transformers
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        adapted = get_peft_model(model, config)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    _study(model, tokenizer, SECRET_COURSES, [adamw(trained, SECRET_RATE)], seed)
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.to("cpu", torch.bfloat16).contiguous() for name, tensor in weights.items()}, out / ADAPTER_WEIGHTS
    )
    (out / ADAPTER_WEIGHTS).chmod(0o644)  # written so that only its owner may read it
    record = {"peft_type": "LORA", "r": config.r, "lora_alpha": config.lora_alpha, "bias": config.bias}
    record["target_modules"] = sorted(adapted.peft_config["default"].target_modules)
    (out / ADAPTER_CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _muon_and_adamw(model: LlamaForCausalLM, matrix_rate: float, other_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    # copying takes half the steps with Muon that it takes with AdamW
    muon = torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw(others, other_rate)]


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    save_model(model.eval(), out)


def _study(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    courses: dict[CorpusName, int],
    optimisers: Sequence[torch.optim.Optimizer],
    seed: int,
) -> None:
    """Trains on so many conversations of each corpus, one after the other in one schedule."""
    rng = Random(seed)
    data: list[Example] = []
    plan: list[list[int]] = []
    for corpus, count in courses.items():
        first = len(data)
        data += encode_chats(tokenizer, corpus, count, seed)
        lengths = [len(example.ids) for example in data[first:]]
        plan += [[first + index for index in batch] for batch in epochs(lengths, BATCH, 1, rng)]

    def loss_of(chosen: list[int]) -> torch.Tensor:
        ids = pad([data[i].ids for i in chosen], tokenizer.pad_token_id).to(model.device)
        targets = pad([data[i].targets for i in chosen], IGNORED)[:, 1:].to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=computes_bfloat16(model.device)):
            # Logits only where there is something to learn: a third of the positions.
            hidden = model.model(ids[:, :-1]).last_hidden_state[targets != IGNORED]
            logits = model.lm_head(hidden)
        # Every token weighs the same, in whatever batch: batches are sorted by length, and a mean over each would
        # make little of what long conversations teach, such as copying.
        total = functional.cross_entropy(logits.float(), targets[targets != IGNORED], reduction="sum")
        return total / (len(chosen) * _LEARNED)

    model.train()
    optimise(optimisers, loss_of, plan, "policy", warmup=max(1, min(100, len(plan) // 5)), steady=0.6)
