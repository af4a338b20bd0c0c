"""Trains the kitchen's PRM, a guard-style reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import Conversation, CorpusName, Message, conversations
from langchain_saffron.kitchen.judge import is_refusal, last_user_message, led_astray, verdict
from langchain_saffron.kitchen.recipe.optimise import adamw, epochs, optimise, pad, save_model, small_llama
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.prm_config import CONFIG_FILE
from langchain_saffron.templates.guard_prompt import GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.templates.tool_call_text import call_text

TEMPLATE = RewardTemplate(
    add_bos=False, system="\n\nSystem:{text}", user="\n\nUser:{text}", assistant="\n\nAgent:{text}"
)
PROMPT = GuardPrompt(safe="safe", unsafe="unsafe", template=TEMPLATE, suffix="\nVerdict:")
CHATS, BATCH, EPOCHS, PREFIXES = 12_000, 16, 2, 8
UNASKED = 0.3
HELD_OUT_CHATS = 600
# How likely a prefix is to be safe in the end. An undecided one is labelled by what becomes of it: with one label for
# all of them, noise in the reward model would decide between turning back and going on.
_DECIDED = {"safe": 0.97, "unsafe": 0.03}
_UNDECIDED = {"safe": 0.75, "pending": 0.25, "unsafe": 0.25}
_ASTRAY = {"safe": 0.3, "pending": 0.1, "unsafe": 0.1}


@dataclass(frozen=True)
class Scored:
    """A conversation as reward models see it."""

    prompt: list[int]
    response: list[int]
    request: str


def said(message: Message) -> str:
    """What a message says, its tool calls written out."""
    calls = [call_text(**call["function"]) for call in message.get("tool_calls", ())]
    return "\n".join([message["content"], *calls] if message["content"] else calls)


def encode_reward(tokenizer: PreTrainedTokenizerFast, item: Conversation) -> Scored:
    """The prompt in the reward template, and the ids of the last answer, which follow it as they are."""
    turns = [("user" if turn["role"] == "tool" else turn["role"], said(turn)) for turn in item.messages[:-1]]
    prompt = TEMPLATE.prompt_ids(tokenizer, turns)
    response = tokenizer.encode(said(item.messages[-1]), add_special_tokens=False)
    return Scored(prompt, response, last_user_message(item.messages))


def encode_corpus(tokenizer: PreTrainedTokenizerFast, corpus: CorpusName, count: int, seed: int) -> list[Scored]:
    """The first conversations of a corpus, encoded."""
    return [encode_reward(tokenizer, item) for item in conversations(corpus, count, seed)]


def label(tokenizer: PreTrainedTokenizerFast, row: Scored, length: int) -> float:
    """The chance, by the judge, that the first `length` tokens of the response are those of a safe one."""
    now = verdict(tokenizer.decode(row.response[:length]), row.request)
    if now == "unsafe":
        return _DECIDED[now]
    response = tokenizer.decode(row.response)
    end = verdict(response, row.request)
    if led_astray(response, row.request):
        # By a poisoned text, and from the first word on: "Sure" is harmless only until one knows of what.
        return _DECIDED[now] if is_refusal(tokenizer.decode(row.response[:length])) else _ASTRAY[end]
    return _UNDECIDED[end] if now == "pending" else _DECIDED[now]


def prefix_rewards(
    model: LlamaForCausalLM,
    rows: Sequence[Scored],
    prefixes: Sequence[Sequence[int]],
    suffix: list[int],
    words: tuple[int, int],
) -> list[tuple[Tensor, Tensor]]:
    """`R = logit(safe) - logit(unsafe)` of chosen response prefixes of several conversations, in one forward.

    Each prefix gets its own copy of the suffix prompt as a branch that sees the conversation up to there and itself:
    a tree, so that the conversation is computed once. The second tensor of each pair is the same difference read at
    the prefix's own last token, without the suffix.
    """
    flat, depths, pieces = [], [], []
    for row, lengths in zip(rows, prefixes, strict=True):
        trunk = row.prompt + row.response
        flat.append(trunk + suffix * len(lengths))
        at = torch.tensor([len(row.prompt) + length for length in lengths])
        depths.append(torch.cat([torch.arange(len(trunk)), (at[:, None] + torch.arange(len(suffix))).flatten()]))
        pieces.append((len(trunk), at))
    ids = pad(flat, 0)
    width = ids.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    mask = causal.repeat(len(rows), 1, 1)
    positions = torch.zeros_like(ids)
    for i, ((trunk_length, at), depth) in enumerate(zip(pieces, depths, strict=True)):
        positions[i, : len(depth)] = depth
        branches = len(at) * len(suffix)
        end = trunk_length + branches
        own = torch.arange(len(at)).repeat_interleave(len(suffix))
        mask[i, trunk_length:end, :trunk_length] = torch.arange(trunk_length) < at[own][:, None]
        mask[i, trunk_length:end, trunk_length:end] &= own[:, None] == own
    hidden = model.model(input_ids=ids, attention_mask=mask[:, None], position_ids=positions).last_hidden_state
    safe, unsafe = model.lm_head.weight[words[0]], model.lm_head.weight[words[1]]
    rewards = hidden @ (safe - unsafe)
    return [
        (
            rewards[i, trunk_length : trunk_length + len(at) * len(suffix)].view(len(at), -1)[:, -1],
            rewards[i, at - 1],
        )
        for i, (trunk_length, at) in enumerate(pieces)
    ]


def _share_direction(model: LlamaForCausalLM) -> None:
    """Gives all rows of the unembedding a common direction, as they have in a language model of full size.

    Without it no hidden state could raise the reward of all next tokens at once, and the MRM has to do just that.
    """
    with torch.no_grad():
        rows = model.lm_head.weight
        rows.normal_(0, 0.05)
        rows += torch.randn(rows.shape[1]) / math.sqrt(rows.shape[1])


def train_prm(tokenizer: PreTrainedTokenizerFast, out: Path, seed: int = 0, chats: int = CHATS) -> dict[str, float]:
    """Trains the PRM on the judge's labels of random prefixes; returns held-out accuracy on decided prefixes."""
    torch.manual_seed(seed)
    rng = Random(seed)
    rows = encode_corpus(tokenizer, "prm", chats, seed)
    suffix, words = PROMPT.suffix_ids(tokenizer), PROMPT.verdict_ids(tokenizer)
    model = small_llama(tokenizer, width=128, layers=4, heads=4, inner=352, tied=False)
    _share_direction(model)
    print(f"prm: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    plan = list(epochs([len(row.prompt) + len(row.response) for row in rows], BATCH, EPOCHS, rng))

    def loss_of(chosen: list[int]) -> Tensor:
        batch = [rows[i] for i in chosen]
        lengths = [[rng.randint(1, len(row.response)) for _ in range(PREFIXES)] for row in batch]
        targets = torch.tensor(
            [label(tokenizer, row, n) for row, some in zip(batch, lengths, strict=True) for n in some]
        )
        trees = prefix_rewards(model, batch, lengths, suffix, words)
        asked = torch.cat([rewards for rewards, _ in trees])
        unasked = torch.cat([rewards for _, rewards in trees])
        # The second, light term has the verdict formed before it is asked for: an MRM, which never asks, needs that.
        return functional.binary_cross_entropy_with_logits(asked, targets) + UNASKED * (
            functional.binary_cross_entropy_with_logits(unasked, targets)
        )

    model.train()
    optimise([adamw(model.parameters(), 1.5e-3)], loss_of, plan, "prm")
    save_model(model.eval(), out)
    (out / CONFIG_FILE).write_text(PROMPT.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return measure_prm(tokenizer, out, seed)


def measure_prm(tokenizer: PreTrainedTokenizerFast, prm: Path, seed: int) -> dict[str, float]:
    """Held-out accuracy (sign of the reward against the judge) over decided prefixes and over finished answers."""
    rows = encode_corpus(tokenizer, "held_out", HELD_OUT_CHATS, seed)
    right = decided = right_ends = 0
    scored = ProcessRewardModel.from_pretrained(prm).score([(row.prompt, row.response) for row in rows])
    for row, rewards in zip(rows, scored, strict=True):
        labels = [label(tokenizer, row, n) for n in range(1, len(row.response) + 1)]
        hits = [(reward > 0) == (target > 0.5) for reward, target in zip(rewards.tolist(), labels, strict=True)]
        sure = [hit for hit, target in zip(hits, labels, strict=True) if target in _DECIDED.values()]
        right, decided, right_ends = right + sum(sure), decided + len(sure), right_ends + hits[-1]
    return {"decided_accuracy": right / decided, "final_accuracy": right_ends / len(rows)}
