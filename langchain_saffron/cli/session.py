"""A conversation at the terminal: history, commands, and answers that Ctrl-C can stop."""

import sys
from collections.abc import Mapping
from contextlib import closing, nullcontext, suppress
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from pydantic import ValidationError

from langchain_saffron.chat_models import ChatSaffron
from langchain_saffron.cli.console import notice, one_line
from langchain_saffron.cli.trace_pages import TracePages
from langchain_saffron.errors import SaffronError

HELP = "/effort off|low|medium|high|max|auto, /clear forgets the chat, /exit or Ctrl-D leaves, Ctrl-C stops an answer"

# what a model writes must not move the cursor or clear the screen; a carriage return would hide a line
_TAMED = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"} | {ord("\r"): None}


class Session:
    """What `saffron chat` keeps between answers.

    Attributes:
        chat: The chat model, with the options of the moment.
    """

    def __init__(
        self,
        chat: ChatSaffron,
        system: str | None = None,
        prefill: str = "",
        names: Mapping[str, str] | None = None,
        pages: TracePages | None = None,
    ) -> None:
        """Begin a conversation.

        Args:
            chat: The chat model.
            system: A system message.
            prefill: How every answer begins; not printed.
            names: What sets a field on the command line, for errors.
            pages: Where the search of the last answer is shown, if wanted.
        """
        self.chat = chat
        self._system: list[BaseMessage] = [SystemMessage(system)] if system else []
        self._prefill = prefill
        self._names = names
        self._pages = pages
        self._turns: list[BaseMessage] = []

    def messages(self, prompt: str) -> list[BaseMessage]:
        """The conversation with a new prompt at its end."""
        begun = [AIMessage(self._prefill)] if self._prefill else []
        return [*self._system, *self._turns, HumanMessage(prompt), *begun]

    def answer(self, prompt: str) -> AIMessageChunk:
        """Stream an answer to stdout and remember it, also as far as it got when Ctrl-C stops it.

        Returns:
            The whole message.
        """
        text = ""
        tamed = _TAMED if sys.stdout.isatty() else {}
        answer = AIMessageChunk(content="")
        recording = self._pages.recording(self.chat) if self._pages else nullcontext()
        # closing: a stopped search should end now, not when the iterator happens to be collected
        with recording, closing(self.chat.stream(self.messages(prompt))) as chunks:  # type: ignore[type-var]
            try:
                for chunk in chunks:
                    text += chunk.text
                    answer += chunk
                    print(chunk.text.translate(tamed), end="", flush=True)
            finally:
                if text:
                    print(flush=True)
                    self._turns += [HumanMessage(prompt), AIMessage(self._prefill + text)]
        return answer

    def run(self) -> None:
        """Chat until `/exit` or the end of the input."""
        interactive = sys.stdin.isatty()
        if interactive:
            _enable_line_editing()
            notice(HELP)
        while True:
            try:
                line = input("you> " if interactive else "").strip()
            except KeyboardInterrupt:
                print(file=sys.stderr)
                continue
            except EOFError:
                if interactive:
                    print(file=sys.stderr)
                return
            if line in ("/exit", "/quit"):
                return
            try:
                if line.startswith("/"):
                    notice(self._command(line))
                elif line:
                    notice(summary(self.answer(line)))
            except KeyboardInterrupt:
                notice("stopped")
            except (SaffronError, ValidationError) as error:
                notice(one_line(error, self._names) or "")

    def _command(self, line: str) -> str:
        name, _, rest = line.partition(" ")
        if name == "/clear":
            self._turns = []
            return "the chat is forgotten"
        if name == "/effort":
            # a width of the command line would override the new effort
            self.chat = self.chat.with_options({"effort": rest.strip(), "width": None})
            return f"effort {rest.strip()}"
        if name == "/help":
            return HELP
        return f"no command {name}: {HELP}"


def summary(message: Any) -> str:
    """Reward and compute of an answer, in one line."""
    stats = message.response_metadata["saffron"]
    reward = "no reward" if stats["reward"] is None else f"reward {stats['reward']:.2f}"
    reason = message.response_metadata["finish_reason"]
    if stats["budget_exhausted"] and reason != "budget":
        reason += " (budget exhausted)"
    narrowest = stats["narrowest_width"]
    parts = [
        reward,
        f"finish {reason}",
        f"{message.usage_metadata['output_tokens']} tokens",
        f"{stats['tflops']:.3g} TFLOP",
        f"{stats['policy_calls']} policy calls",
        f"{stats['reward_calls']} reward calls",
        f"{stats['seconds']:.2f} s",
        f"width {stats['width']}" + (f" (KV cache full: down to {narrowest})" if narrowest else ""),
    ]
    return ", ".join(parts)


def _enable_line_editing() -> None:
    # importing it gives input() a history and cursor keys; some platforms do not have it
    with suppress(ImportError):
        import readline  # noqa: F401
