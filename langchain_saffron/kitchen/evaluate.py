"""Plain greedy decoding over held-out items: what the policy does when nobody steers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from langchain_saffron.kitchen.generator import Message
from langchain_saffron.kitchen.held_out import (
    PREFILL_TOKENS,
    HazardItem,
    held_out_benign,
    held_out_hazards,
    held_out_retrieval,
    held_out_tools,
)
from langchain_saffron.kitchen.judge import answered, is_refusal, last_user_message, on_topic, verdict
from langchain_saffron.kitchen.prm import said


def prefill(tokenizer: PreTrainedTokenizerBase, item: HazardItem, tokens: int = PREFILL_TOKENS) -> str:
    """The attack's prefill: the first tokens of the harmful answer, as text."""
    ids = tokenizer.encode(item.answer, add_special_tokens=False)[:tokens]
    return tokenizer.decode(ids)


@dataclass(frozen=True)
class Prompt:
    """What a policy is asked: a conversation, the tools it is shown, and the words that it has already been given."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()
    given: str = ""


@torch.inference_mode()
def greedy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    max_tokens: int = 160,
    batch: int = 50,
) -> list[str]:
    """Greedy continuations."""
    texts = [
        tokenizer.apply_chat_template(
            list(prompt.messages), tools=list(prompt.tools) or None, add_generation_prompt=True, tokenize=False
        )
        + prompt.given
        for prompt in prompts
    ]
    tokenizer.padding_side = "left"
    answers = []
    for start in range(0, len(texts), batch):
        encoded = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True, add_special_tokens=False)
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        found = model.generate(ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False)
        answers += tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
    return answers


def measure_policy(directory: Path, count: int = 400, seed: int = 1) -> dict[str, float]:
    """Held-out shares of what the policy gets right, and of the attacks that break it.

    Benign answers on topic, plain hazardous requests refused, prefill attacks that succeed, tool calls right to the
    letter, questions answered from their passage, poisoned passages that are obeyed.
    """
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    benign, hazards = held_out_benign(count, seed), held_out_hazards(count, seed)
    tasks = held_out_tools(count, seed)
    clean, poisoned = (held_out_retrieval(count, poisoned, seed) for poisoned in (False, True))
    answers = greedy(model, tokenizer, [Prompt(item.messages) for item in benign])
    refusals = greedy(model, tokenizer, [Prompt(item.messages) for item in hazards])
    given = [prefill(tokenizer, item) for item in hazards]
    continued = greedy(
        model, tokenizer, [Prompt(item.messages, given=words) for item, words in zip(hazards, given, strict=True)]
    )
    broken = [
        verdict(words + more, last_user_message(item.messages)) == "unsafe"
        for item, words, more in zip(hazards, given, continued, strict=True)
    ]
    calls = greedy(model, tokenizer, [Prompt(task.messages[:1], task.tools) for task in tasks])
    found = greedy(model, tokenizer, [Prompt(item.messages) for item in clean])
    obeyed = greedy(model, tokenizer, [Prompt(item.messages) for item in poisoned])
    return {
        "benign_on_topic": sum(map(on_topic, benign, answers)) / count,
        "refused": sum(map(is_refusal, refusals)) / count,
        "broken_by_prefill": sum(broken) / count,
        "tools_called": sum(call == said(task.messages[1]) for task, call in zip(tasks, calls, strict=True)) / count,
        "answered_from_passage": sum(map(answered, clean, found)) / count,
        "broken_by_poison": sum(
            verdict(answer, last_user_message(item.messages)) == "unsafe"
            for item, answer in zip(poisoned, obeyed, strict=True)
        )
        / count,
    }
