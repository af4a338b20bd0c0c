"""How a policy writes tool calls, and the chat templates that show it tools and calls."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from langchain_saffron.errors import PromptError
from langchain_saffron.interface.messages import Turn
from langchain_saffron.templates.chat_template import ChatTemplate
from langchain_saffron.tools import FormCalls, ToolFormat, detect_tool_format, tool_format_names

# shows whether a chat template does anything with tools
_PROBE = {
    "type": "function",
    "function": {"name": "probe", "description": "Probes.", "parameters": {"type": "object", "properties": {}}},
}


class ToolTemplates:
    """What a chat template does about tools, and what is put in its place where it does nothing."""

    def __init__(self, chat: ChatTemplate, tokenizer: Any, given: ToolFormat | None) -> None:
        """Look at a chat template; nothing is asked of it yet.

        Args:
            chat: The policy's.
            tokenizer: The policy's.
            given: How the model writes calls; `None` for what the chat template is for.
        """
        self._chat = chat
        self._tokenizer = tokenizer
        self._given = given

    @cached_property
    def are_shown(self) -> bool:
        """Whether the chat template itself shows them to the model."""
        try:
            self._chat.render([{"role": "user", "content": "x"}], [_PROBE])
        except PromptError:
            return False
        return True

    @cached_property
    def form(self) -> ToolFormat:
        """How the model writes calls: as was said, or else as the chat template or the tokenizer tells.

        Raises:
            PromptError: Neither tells.
        """
        if self._given is not None:
            return self._given
        source = self._chat.source([_PROBE])
        if not self.are_shown:
            raise PromptError(
                'this model\'s chat template knows no tools: tool_format="hermes" writes them into its messages, in a '
                "form that most models can follow"
            )
        form = detect_tool_format(source, self._tokenizer)
        if form is None:
            names = ", ".join(map(repr, tool_format_names()))
            raise PromptError(
                "the form in which this model writes tool calls is not known: pass tool_format= (one of "
                f"{names}), or add yours with langchain_saffron.tools.register_tool_format"
            )
        return form

    def sources(self, turns: Sequence[Turn], tools: list[dict[str, Any]] | None) -> list[str]:
        """Chat templates to try, the best one first.

        Args:
            turns: The conversation.
            tools: In OpenAI's form.
        """
        called = any(turn.tool_calls or turn.role == "tool" for turn in turns)
        if not tools and not called:
            return [self._chat.source(tools)]
        # calls without tools: a template of its own may be for those, too
        plain = [] if tools else [self._chat.source(tools)]
        own, form = self._chat.source(tools or [_PROBE]), self._given
        if form is None:
            form = detect_tool_format(own, self._tokenizer)
            written = list(form.templates(own)) if form and called else []
            if isinstance(form, FormCalls) and not form.form.faithful:
                return [*written, own]
            return list(dict.fromkeys([*plain, own, *written]))
        written = list(form.templates(own))
        return [own, *written] if form.detect(own, self._tokenizer) else written or [own]
