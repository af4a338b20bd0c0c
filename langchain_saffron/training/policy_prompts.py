"""Annotated conversations as the policy reads them: their prompts in its chat template, not in the reward model's."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from langchain_saffron.errors import PromptError
from langchain_saffron.templates.chat_template import ChatTemplate
from langchain_saffron.templates.guard_prompt import Turn
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.templates.safe_encoder import safe_encoder
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.sample import Sample

_ROLES = ("system", "user", "assistant")


def policy_prompt_ids(tokenizer: Any, encoder: Any, turns: Sequence[Turn]) -> list[int]:
    """A conversation in a policy's chat template, up to where its answer begins.

    Args:
        tokenizer: The policy's.
        encoder: Its `safe_encoder`.
        turns: (role, text) of each turn.

    Raises:
        PromptError: The template cannot take the conversation.
    """
    try:
        chat = ChatTemplate(tokenizer, encoder).render([{"role": role, "content": text} for role, text in turns])
    except PromptError:
        if tokenizer.chat_template:
            raise
        # a base model without a template
        return RewardTemplate.for_tokenizer(tokenizer).prompt_ids(tokenizer, turns)
    return chat.encoder.encode(chat.text)


class PolicyPrompts:
    """Writes prompts of a reward template anew in a policy's chat template.

    Attributes:
        kept: Prompts that stayed as they were, because they could not be read, or the chat template refused them.
    """

    def __init__(self, tokenizer: Any, template: RewardTemplate) -> None:
        """Take the policy's tokenizer, and the template that the prompts are written in."""
        self._tokenizer = tokenizer
        self._template = template
        self._chat = ChatTemplate(tokenizer, safe_encoder(tokenizer))
        self._found: dict[tuple[int, ...], list[int] | None] = {}
        self.kept = 0

    def rewrite(self, data: RewardData) -> RewardData:
        """The same data with other prompts; answers and rewards stay token by token."""
        return RewardData([self._rewritten(sample) for sample in data.samples], data.manifest)

    def _rewritten(self, sample: Sample) -> Sample:
        # the first reward is that of the answer's first token
        start = int(np.flatnonzero(sample.known)[0])
        key = tuple(sample.token_ids[:start].tolist())
        if key not in self._found:
            self._found[key] = self._written(list(key))
        prompt = self._found[key]
        if not prompt:
            self.kept += 1
            return sample
        return sample.moved(start, np.array(prompt, dtype=np.int64))

    def _written(self, ids: list[int]) -> list[int] | None:
        turns = self._turns(ids)
        if turns is None:
            return None
        try:
            chat = self._chat.render([{"role": role, "content": text} for role, text in turns])
        except PromptError:
            return None
        return chat.encoder.encode(chat.text)

    def _turns(self, ids: list[int]) -> list[tuple[str, str]] | None:
        """The turns of a prompt; `None` where they do not make up that prompt."""
        template, tokenizer = self._template, self._tokenizer
        text = tokenizer.decode(ids[1:] if template.add_bos else ids, clean_up_tokenization_spaces=False)
        parts = {role: getattr(template, role).partition("{text}") for role in _ROLES}
        header = parts["assistant"][0]
        if not text.startswith(template.preamble) or not text.endswith(header) or not all(p[0] for p in parts.values()):
            return None
        body = text[len(template.preamble) : len(text) - len(header)]
        begins = re.compile("|".join(f"(?P<{role}>{re.escape(part[0])})" for role, part in parts.items()))
        found = list(begins.finditer(body))
        turns = []
        for match, following in zip(found, [*found[1:], None], strict=True):
            role = str(match.lastgroup)
            said = body[match.end() : following.start() if following else len(body)]
            turns.append((role, said.removesuffix(parts[role][2])))
        try:
            same = template.prompt_ids(tokenizer, turns) == ids
        except PromptError:
            return None
        return turns if turns and same else None
