"""LangChain messages → token ids, for the policy and for the reward model.

Prompts are code, user text is data: no text of any message, be it a system prompt, history or prefill, can
yield a control token, while ordinary text gives exactly the ids of
`tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_saffron.errors import PromptError
from langchain_saffron.interface.length import refuse_beyond
from langchain_saffron.interface.messages import Turn, to_turns
from langchain_saffron.interface.tool_templates import ToolTemplates
from langchain_saffron.templates.chat_template import Chat, ChatTemplate
from langchain_saffron.templates.message_forms import THOUGHTS
from langchain_saffron.templates.prefill import continue_answer
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.templates.safe_encoder import replace_surrogates, safe_encoder
from langchain_saffron.templates.template_variables import unread_variables
from langchain_saffron.templates.thought_form import ThoughtForm, place_in
from langchain_saffron.templates.thought_markers import ThoughtMarkers
from langchain_saffron.templates.thoughts import Thoughts
from langchain_saffron.tools import ToolFormat

__all__ = ["PromptRenderer", "RenderedPrompt", "Turn"]


@dataclass(frozen=True)
class RenderedPrompt:
    """A conversation as token ids.

    Attributes:
        policy_ids: With the header of the answer and the prefill.
        reward_ids: The same conversation in the reward model's template, ending with the same `prefill_ids`;
            `None` without such a template.
        prefill_ids: The answer's beginning that the caller gave, as it stands at the end of `policy_ids`.
        prefill: Its text.
        prm_ids: The conversation as the process reward model reads it, with the same end; `None` without one.
        thoughts: How the answer's thoughts are marked; `None` where this model marks none.
    """

    policy_ids: tuple[int, ...]
    reward_ids: tuple[int, ...] | None
    prefill_ids: tuple[int, ...]
    prefill: str
    prm_ids: Sequence[int] | None = None
    thoughts: Thoughts | None = None


class PromptRenderer:
    """Writes prompts for one policy and, optionally, one reward model. Safe to share between threads."""

    def __init__(
        self,
        tokenizer: Any,
        reward_tokenizer: Any = None,
        reward_template: RewardTemplate | None = None,
        chat_template: str | None = None,
        tool_format: ToolFormat | None = None,
        prm_prompt: Callable[[list[tuple[str, str]]], list[int]] | None = None,
    ) -> None:
        """Prepares the tokenizers; a missing chat template is an error only where one is needed.

        Args:
            tokenizer: The policy's: a transformers tokenizer backed by the `tokenizers` library.
            reward_tokenizer: The reward model's; by default the policy's, since they share a vocabulary.
            reward_template: How the reward model reads a conversation; without it there are no `reward_ids`.
            chat_template: A Jinja template in place of the tokenizer's own.
            tool_format: How the model writes tool calls; `None` for what the chat template is for. Where that is for
                another form or for none, tools and calls are written into its messages if the form knows how.
            prm_prompt: From (role, text) turns to a process reward model's prompt.
        """
        self._encoder = safe_encoder(tokenizer, *([chat_template] if chat_template else []))
        self._tokenizer = tokenizer
        self._chat = ChatTemplate(tokenizer, self._encoder, chat_template)
        self._tools = ToolTemplates(self._chat, tokenizer, tool_format)
        self._reward_tokenizer = tokenizer if reward_tokenizer is None else reward_tokenizer
        self._reward_template = reward_template
        self._prm_prompt = prm_prompt
        self._markers: dict[ThoughtForm, ThoughtMarkers] = {}
        self._warned_of: set[tuple[str, ...]] = set()
        self._checked_markers = False

    @classmethod
    def for_engine(
        cls, engine: Any, chat_template: str | None = None, tool_format: ToolFormat | None = None
    ) -> "PromptRenderer":
        """What writes prompts for all models of an engine."""
        mrm, prm = engine.reward_model, engine.process_reward_model
        return cls(
            engine.tokenizer,
            reward_tokenizer=mrm.tokenizer if mrm else None,
            reward_template=mrm.template if mrm else None,
            chat_template=chat_template,
            tool_format=tool_format,
            prm_prompt=prm.prompt_ids if prm else None,
        )

    def render(
        self,
        messages: Sequence[BaseMessage],
        tools: Sequence[dict[str, Any]] | None = None,
        context: int | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> RenderedPrompt:
        """The prompt for the next assistant message or, if the last one is an assistant's, for its rest.

        Args:
            messages: The conversation. An empty assistant message at its end begins nothing and is ignored.
            tools: In OpenAI's form, such as those of a `ToolRequest`.
            context: Tokens that there is room for: what is far beyond is refused before it is rendered, which takes
                long. `None` renders whatever comes.
            variables: Further variables of the chat template. One that it never reads is named in a warning.

        Raises:
            ContextOverflowError: It is far beyond `context`. What is a little beyond comes back as it is.
            PromptError: No messages, content other than text, no chat template, or one that refuses this
                conversation in every form, such as one that knows no tools.
        """
        turns = to_turns(messages)
        prefill, thought = "", ""
        if turns[-1].role == "assistant":
            if turns[-1].tool_calls:
                raise PromptError("the last message calls tools: add their results as tool messages")
            last = turns.pop()
            prefill, thought = last.text, last.thoughts
            if not turns:
                raise PromptError("an assistant message needs a message before it that it answers")
        schemas = list(tools) if tools else None
        if context is not None:
            texts = (turn.text for turn in turns)
            refuse_beyond(context, self.encode_plain, [*texts, prefill, *map(str, schemas or ())])
        said = [turn.as_template_message() for turn in turns]
        sources = self._tools.sources(turns, schemas)
        self._warn_of_unread(variables or {}, sources)
        chat = self._chat.render(said, schemas, sources, variables)
        self._warn_of_plain_markers(chat.source)
        header_ids = chat.encoder.encode(chat.text)
        policy_ids, prefill_ids = header_ids, list[int]()
        thoughts = self._thoughts(chat)
        if prefill:
            if thoughts is not None and thoughts.place == "inside":
                header_ids = header_ids + self._end_of_thought(thoughts)
            message = {"role": "assistant", "content": prefill, **({THOUGHTS: thought} if thought else {})}
            policy_ids, prefill_ids = continue_answer(self._chat, chat, header_ids, message, schemas)
            # what the answer says has begun
            thoughts = None if thoughts is None else replace(thoughts, place="said")
        reward_turns = [pair for turn in turns for pair in turn.as_reward_turns()]
        return replace(self._rendered(policy_ids, reward_turns, prefill_ids, prefill), thoughts=thoughts)

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template itself shows tools to the model."""
        return self._tools.are_shown

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls.

        Raises:
            PromptError: Neither the caller nor the chat template tells.
        """
        return self._tools.form

    def render_text(self, text: str, context: int | None = None) -> RenderedPrompt:
        """A plain prompt: BOS if the tokenizer adds one, then the text. The reward model sees it as a user's.

        Args:
            text: The prompt.
            context: As for `render`.

        Raises:
            ContextOverflowError: It is far beyond `context`.
            PromptError: It comes to no token at all.
        """
        if context is not None:
            refuse_beyond(context, self.encode_plain, [text])
        policy_ids = self._encoder.bos_ids + self.encode_plain(text)
        if not policy_ids:
            raise PromptError("the prompt is empty: this tokenizer adds no token of its own, so pass some text")
        return self._rendered(policy_ids, [("user", text)], [], "")

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a user's text, never a control token; nothing is added around it."""
        return self._encoder.encode(replace_surrogates(text))

    def _thoughts(self, chat: Chat) -> Thoughts | None:
        """How an answer's thoughts are marked, and whether the template has begun or ended any."""
        found = self._chat.thoughts(chat.source)
        form = found.form
        if form is None:
            return None
        markers = self._markers.get(form)
        if markers is None:
            markers = self._markers[form] = ThoughtMarkers.of(form, self._tokenizer, self._encoder)
        return Thoughts(markers, place_in(chat.tail, form), found.supposed)

    def _end_of_thought(self, thoughts: Thoughts) -> list[int]:
        """What ends the thought that the header begins, before an answer that is given."""
        form = thoughts.markers.form
        return self._encoder.encode(self._encoder.name_controls(f"\n{form.closing}\n\n{form.lead}"))

    def _warn_of_unread(self, variables: Mapping[str, Any], sources: list[str]) -> None:
        unread = tuple(unread_variables(variables, sources))
        if unread and unread not in self._warned_of:
            self._warned_of.add(unread)
            warnings.warn(
                f"chat_template_kwargs: this model's chat template never reads {', '.join(map(repr, unread))}",
                stacklevel=3,
            )

    def _warn_of_plain_markers(self, source: str) -> None:
        """Say once that users can write what this template sets their texts apart by."""
        if self._checked_markers:
            return
        self._checked_markers = True
        if marker := self._chat.plain_marker(source):
            warnings.warn(
                f"this model's chat template ends a user's text by plain text ({marker!r}), not by a control token: "
                "the model cannot tell it from the same characters in a message, so let nobody untrusted write them",
                stacklevel=3,
            )

    def _rendered(
        self, policy_ids: list[int], turns: list[tuple[str, str]], prefill_ids: list[int], prefill: str
    ) -> RenderedPrompt:
        reward_ids = None
        if self._reward_template is not None:
            prompt_ids = self._reward_template.prompt_ids(self._reward_tokenizer, turns)
            reward_ids = (*prompt_ids, *prefill_ids)
        # a sum: ids that remember their conversation still do so
        prm_ids = None if self._prm_prompt is None else self._prm_prompt(turns) + prefill_ids
        return RenderedPrompt(tuple(policy_ids), reward_ids, tuple(prefill_ids), prefill, prm_ids)
