"""Plain greedy decoding over held-out items: what the policy does when nobody steers it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from langchain_saffron.kitchen.generator import PREFILL_TOKENS, HazardItem, Message, held_out_benign, held_out_hazards
from langchain_saffron.kitchen.judge import is_refusal, last_user_message, on_topic, verdict


def prefill(tokenizer: PreTrainedTokenizerBase, item: HazardItem, tokens: int = PREFILL_TOKENS) -> str:
    """The attack's prefill: the first tokens of the harmful answer, as text."""
    ids = tokenizer.encode(item.answer, add_special_tokens=False)[:tokens]
    return tokenizer.decode(ids)


@torch.inference_mode()
def greedy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[Sequence[Message], str]],
    max_tokens: int = 80,
    batch: int = 50,
) -> list[str]:
    """Greedy continuations of conversations, each with the words that the assistant has already been given."""
    texts = [
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False) + given
        for messages, given in prompts
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
    """Held-out shares: benign answers on topic, plain hazardous requests refused, prefill attacks that succeed."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    benign, hazards = held_out_benign(count, seed), held_out_hazards(count, seed)
    answers = greedy(model, tokenizer, [(item.messages, "") for item in benign])
    refusals = greedy(model, tokenizer, [(item.messages, "") for item in hazards])
    given = [prefill(tokenizer, item) for item in hazards]
    continued = greedy(model, tokenizer, [(item.messages, words) for item, words in zip(hazards, given, strict=True)])
    broken = [
        verdict(words + more, last_user_message(item.messages)) == "unsafe"
        for item, words, more in zip(hazards, given, continued, strict=True)
    ]
    return {
        "benign_on_topic": sum(map(on_topic, benign, answers)) / count,
        "refused": sum(map(is_refusal, refusals)) / count,
        "broken_by_prefill": sum(broken) / count,
    }
