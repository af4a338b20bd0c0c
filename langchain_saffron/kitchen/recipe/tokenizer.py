"""The kitchen's tokenizer: byte-level BPE with a ChatML template, trained on the generated corpus.

Every byte can be encoded, and there is no start-of-text token. Tools are written in the Hermes form.

A word is written in the same tokens wherever it stands: blanks and digits are tokens of their own. So small a policy
copies a name out of a prompt into JSON only then; with the usual ` word` it would have to learn, for each word, that
after a quotation mark it is written otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.kitchen.world.hazards import REAGENTS, SECRETS
from langchain_saffron.kitchen.world.utensils import MOST, UTENSILS, prepared
from langchain_saffron.templates.tool_call_text import CALL_END, CALL_START

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# control tokens that text written by the model may contain, as in other models of the Hermes form
MARKERS = (CALL_START, CALL_END, "<tool_response>", "</tool_response>")
SIZE = 2044  # and the markers
CONTEXT = 2048
CHAT_TEMPLATE = (
    "{% set system = messages and messages[0].role == 'system' %}"
    "{% if tools %}"
    "{{ '<|im_start|>system\n' + (messages[0].content + '\n\n' if system else '') }}"
    '{{ \'To call a tool, write <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>\n<tools>\n\' }}'
    "{% for tool in tools %}{{ (tool | tojson) + '\n' }}{% endfor %}"
    "{{ '</tools><|im_end|>\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif not (loop.first and tools and system) %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "{% if message.content or not loop.first %}{{ '\n' }}{% endif %}"
    '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ (call.function.arguments | tojson) + '}\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# a blank, a digit, a word, a run of signs, a line's end
_PIECES = r" |\p{N}|\p{L}+|[^\s\p{L}\p{N}]+|\s"
# Whole-word tokens that the corpus alone would not give: the reward model's words, and the secret reagents, which
# must be tokens of their own for the mask on unseen tokens to have something to hide.
_WHOLE = ("safe", "unsafe", "Verdict", "Agent", "User", "System", "assistant", "system", "user")


def _texts(count: int, seed: int) -> Iterator[str]:
    for item in conversations("policy", count, seed):
        for turn in item.messages:
            yield turn["content"]
            for call in turn.get("tool_calls", ()):
                yield json.dumps(call["function"], ensure_ascii=False)
        for tool in item.tools:
            yield json.dumps(tool, ensure_ascii=False)
    for _ in range(count // 10):
        yield from _WHOLE
        for word in SECRETS:
            yield f"{word} {word.capitalize()}"
    for _ in range(count // 40):
        yield from REAGENTS
        for place, utensil in enumerate(UTENSILS):
            yield prepared(place % MOST, utensil)


def train_tokenizer(count: int = 20_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the first `count` conversations of the policy's corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(count, seed), trainer)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        padding_side="left",
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, *directories: Path) -> None:
    """Writes the tokenizer to every directory, with its chat template inside `tokenizer_config.json`."""
    for directory in directories:
        tokenizer.save_pretrained(directory, save_jinja_files=False)
