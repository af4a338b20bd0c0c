"""Chat templates that write thoughts, in the forms that models come with, and a tokenizer for all of them."""

from typing import Any

from tokenizers import AddedToken

from unit_tests.builders import CHATML, byte_level_tokenizer

HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and loop.last %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
    "{% endif %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# the answer's header begins a thought; without thinking it ends one
HEADER = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{{ '<think>\n\n</think>\n\n' if enable_thinking is false else '<think>\n' }}{% endif %}"
)
# thoughts are a part of the content
PARTS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'thinking' %}{{ '[THINK]' + p.thinking + '[/THINK]' }}"
    "{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>' }}"
    "{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% endfor %}"
)
# thoughts are shown where a call follows them
CHANNEL = (
    "{% for m in messages %}{{ '<start_of_turn>' + m.role + '\n' }}"
    "{% if m.reasoning_content and m.tool_calls %}{{ '<|channel>thought\n' + m.reasoning_content + '\n<channel|>' }}"
    "{% endif %}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    "{{ m.content + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# thoughts are cut out of what is said
CUT = CHATML.replace("m.content +", "m.content.split('</think>')[-1] +")
# a form that nobody knows
OWN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.reasoning %}{{ '<ponder>' + m.reasoning + '</ponder>\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROLS = (
    "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>",
)  # fmt: skip


def thinking_tokenizer(template: str, **options: Any) -> Any:
    """A byte-level tokenizer with the control tokens of all these templates."""
    controls = tuple(AddedToken(one, normalized=False, special=True) for one in CONTROLS)
    return byte_level_tokenizer(600, template, extra_tokens=controls, **options)
