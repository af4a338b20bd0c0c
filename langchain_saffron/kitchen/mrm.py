"""Trains the kitchen's MRM: from the PRM's rewards of whole prefixes to a reward for every next token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.kitchen.prm import HELD_OUT_CHATS, TEMPLATE, Scored, annotate, encode_corpus, encode_reward
from langchain_saffron.kitchen.training import epochs, optimise, pad
from langchain_saffron.models.mrm import MultifurcationRewardModel

CHATS, BATCH, EPOCHS = 6_000, 16, 3


def predicted(model: LlamaForCausalLM, bias: Tensor, batch: Sequence[Scored]) -> Tensor:
    """`M(s[:j])[s_j]` at every response position of a batch, in one forward, conversation after conversation."""
    ids = pad([row.prompt + row.response for row in batch], 0)
    following = ids[:, 1:]
    at = torch.zeros_like(following, dtype=torch.bool)
    for i, row in enumerate(batch):
        at[i, len(row.prompt) - 1 : len(row.prompt) + len(row.response) - 1] = True
    chosen = following[at]
    return model(input_ids=ids[:, :-1]).logits[at].gather(1, chosen[:, None])[:, 0] + bias[chosen]


def train_mrm(
    tokenizer: PreTrainedTokenizerFast, prm: Path, out: Path, seed: int = 0, chats: int = CHATS
) -> dict[str, float]:
    """Trains the MRM by partial supervision (eq. 5), calibrates its threshold, and writes our directory layout."""
    # Here and not above: measuring a trained MRM needs no PEFT.
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    rng = Random(seed)
    rows = encode_corpus(tokenizer, "mrm", chats, seed)
    rewards = annotate(tokenizer, prm, rows)
    print(f"mrm: {sum(len(r) for r in rewards):,} rewards annotated", flush=True)
    base = LlamaForCausalLM.from_pretrained(prm, dtype=torch.float32)
    adapter = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], bias="none")
    model = get_peft_model(base, adapter)
    bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    plan = list(epochs([len(row.prompt) + len(row.response) for row in rows], BATCH, EPOCHS, rng))

    def loss_of(chosen: list[int]) -> Tensor:
        found = predicted(model.base_model.model, bias, [rows[i] for i in chosen])
        return functional.mse_loss(found, torch.cat([rewards[i] for i in chosen]))

    lora = [p for p in model.parameters() if p.requires_grad]
    optimise(
        [{"params": lora, "lr": 3e-3}, {"params": [bias], "lr": 1.5e-2, "weight_decay": 0.0}],
        loss_of,
        plan,
        "mrm",
        every=200,
    )
    seen = torch.zeros(len(tokenizer), dtype=torch.bool)
    for row in rows:
        seen[row.response] = True
    figures = measure_mrm(tokenizer, model.base_model.model.eval(), bias.detach(), prm, seed)
    trained = sum(p.numel() for p in lora) + bias.numel()
    model.save_pretrained(out)
    _forget_machine(out)
    MultifurcationRewardModel(
        base, tokenizer, bias.detach(), seen, TEMPLATE, safety_threshold=figures["safety_threshold"]
    ).save_pretrained(
        out,
        base_model="../prm",
        adapter=out,
        reward_source="the kitchen's PRM: logit(safe) - logit(unsafe) after its suffix prompt",
        training={
            "method": "partial supervision (SAFFRON-1, eq. 5)",
            "conversations": chats,
            "rewards": sum(len(some) for some in rewards),
            "epochs": EPOCHS,
            "trained_parameters": trained,
            "seed": seed,
            "held_out": figures,
            "safety_threshold": "lowest reward from which 99% of held-out prefixes in answers to hazardous requests "
            "are safe by the PRM",
        },
    )
    return {**figures, "rewards": sum(len(some) for some in rewards), "seen_tokens": int(seen.sum())}


def _forget_machine(directory: Path) -> None:
    """PEFT notes the path of the base model and writes a model card: neither belongs into a package."""
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "../prm"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (directory / "README.md").unlink(missing_ok=True)


@torch.inference_mode()
def measure_mrm(
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    bias: Tensor,
    prm: Path,
    seed: int,
    chats: int = HELD_OUT_CHATS,
) -> dict[str, float]:
    """Held-out agreement with the PRM, and the reward from which an answer to a hazardous request is safe."""
    items = list(conversations("held_out", chats, seed))
    rows = [encode_reward(tokenizer, item) for item in items]
    true = annotate(tokenizer, prm, rows)
    guessed = [predicted(model, bias, [row]) for row in rows]
    wanted, found = torch.cat(true), torch.cat(guessed)
    hazardous = [i for i, item in enumerate(items) if item.label != "benign"]
    benign = torch.cat([guessed[i] for i, item in enumerate(items) if item.label == "benign"])
    return {
        "pearson_r": torch.corrcoef(torch.stack([wanted, found]))[0, 1].item(),
        "within_1": ((wanted - found).abs() <= 1).float().mean().item(),
        "safety_threshold": _threshold(
            torch.cat([guessed[i] for i in hazardous]), torch.cat([true[i] for i in hazardous]) > 0
        ),
        "benign_median": benign.median().item(),
        "benign_1_percent": benign.quantile(0.01).item(),
    }


def _threshold(found: Tensor, safe: Tensor, precision: float = 0.99) -> float:
    """The lowest reward such that of all prefixes at or above it, the wanted share is safe."""
    order = found.argsort(descending=True)
    share = safe[order].float().cumsum(0) / torch.arange(1, len(order) + 1)
    enough = (share >= precision).nonzero()
    if not len(enough):
        raise ValueError("no threshold reaches the wanted precision: the reward model has not learned its task")
    return found[order[enough[-1]]].item()
