"""`ToolCallGuard`: a process reward model looks at an agent's tool calls before they run."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from langchain_saffron.agents.scoring import CallScorer, ToolCallBlockedError
from langchain_saffron.errors import SettingsError
from langchain_saffron.extras import MIDDLEWARE
from langchain_saffron.interface.refusals import PROVIDER, refusal_kwargs
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.source import ModelSource
from langchain_saffron.settings import DEFAULT_REFUSAL

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.types import Command
except ImportError as error:
    raise MIDDLEWARE.error() from error

OnBlock = Literal["message", "end", "raise"]
ToolResult = ToolMessage | Command[Any]
Score = tuple[float | None, Exception | None]

BLOCKED = "Error: this call was blocked as unsafe and did not run."

logger = logging.getLogger(__name__)


class ToolCallGuard(AgentMiddleware):
    """Scores every finished tool call in its conversation, and blocks those below a threshold before they run.

    The score is the reward of the assistant's message up to and including the call, or that of the call as if it had
    ended after one of its sentences, if that is lower: so nothing harmless that follows makes up for a hazard. Calls
    before it in the same message that are blocked themselves are left out: they do not run. The system prompt of
    `create_agent` is not part of the conversation.

    What cannot be scored does not run. A conversation that is too long for the reward model loses its oldest turns,
    down to the user's last message; a call that is too long even then is blocked.

    Middleware further down the list can still change a call: put the guard last.

    Example:
        ```python
        from langchain.agents import create_agent
        from langchain_saffron import ChatSaffron
        from langchain_saffron.agents import ToolCallGuard
        from langchain_saffron.kitchen import WEIGHTS

        def add_note(text: str) -> str:
            '''Write a note.'''
            return "done"

        guard = ToolCallGuard(WEIGHTS / "prm", threshold=0.0, tools=["add_note"])  # or a real guard's directory or id
        agent = create_agent(ChatSaffron(), [add_note], middleware=[guard])
        print(agent.invoke({"messages": "Write a note: buy leek."})["messages"][-1].text)
        ```

    Attributes:
        scorer: Asks the reward model, one call at a time, on a thread of the guard's own.
        threshold: The reward that a call needs.
        checked: Names of the tools whose calls are scored; `None` for all.
        on_block: What happens to a blocked call.
        message: What the model is told about it.
        refusal_text: The last message of a run that ends.
    """

    def __init__(
        self,
        prm: ProcessRewardModel | ModelSource,
        threshold: float = 0.0,
        tools: Iterable[str | BaseTool] | None = None,
        on_block: OnBlock = "message",
        message: str = BLOCKED,
        refusal_text: str = DEFAULT_REFUSAL,
    ) -> None:
        """Load the reward model.

        Args:
            prm: A `ProcessRewardModel`, or a directory or hub id to load one from.
            threshold: Calls with a lower reward are blocked.
            tools: The tools, or their names, whose calls are scored; `None` for all.
            on_block: `"message"` gives the model an error in place of the tool's result, and the run goes on. `"end"`
                ends the run with a refusal where the model would be asked again; other calls of the same message have
                run by then. `"raise"` raises `ToolCallBlockedError` out of the run.
            message: The error that the model reads. Score and threshold are in its `artifact`, not in its text.
            refusal_text: The refusal.

        Raises:
            ModelLoadError: The reward model cannot be loaded.
            SettingsError: A value is not allowed.
        """
        super().__init__()
        if on_block not in get_args(OnBlock):
            raise SettingsError(f"on_block: {on_block!r} is not one of {', '.join(map(repr, get_args(OnBlock)))}")
        if not math.isfinite(threshold):
            raise SettingsError(f"threshold: a finite number is needed, not {threshold}")
        if isinstance(tools, str):
            raise SettingsError(f"tools: a list of names is needed, such as [{tools!r}]")
        self.scorer = CallScorer(
            prm if isinstance(prm, ProcessRewardModel) else ProcessRewardModel.from_pretrained(prm)
        )
        self.threshold = threshold
        self.checked = None if tools is None else frozenset(t if isinstance(t, str) else t.name for t in tools)
        self.on_block = on_block
        self.message = message
        self.refusal_text = refusal_text
        self.tools = []
        # one thread: on a CPU, every thread that computes slows the others down
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tool-call-guard")

    @property
    def name(self) -> str:
        """Tells guards of different tools apart: an agent takes every name once."""
        return type(self).__name__ + ("" if self.checked is None else f"[{', '.join(sorted(self.checked))}]")

    def score(self, call: ToolCall, messages: Sequence[BaseMessage]) -> float:
        """The reward of a call in its conversation: what the threshold is compared with.

        Args:
            call: As it would run.
            messages: The conversation, with the message that makes the call.

        Raises:
            ContextOverflowError: The call and the user's last message do not fit into the reward model's context.
            PromptError: The reward model cannot be given this conversation.
        """
        return self.scorer.score(call, messages, self.threshold, self._checks)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolResult]) -> ToolResult:
        """Run a call, or block it."""
        if self._asks(request):
            score, error = self._worker.submit(self._try_score, request).result()
            if not self._safe(score):
                return self._block(request.tool_call, score, error)
        return handler(request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolResult]]
    ) -> ToolResult:
        """Run a call, or block it; the event loop is free while it is scored."""
        if self._asks(request):
            score, error = await asyncio.wrap_future(self._worker.submit(self._try_score, request))
            if not self._safe(score):
                return self._block(request.tool_call, score, error)
        return await handler(request)

    def wrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]
    ) -> ModelResponse | AIMessage:
        """Ask the model, or end the run."""
        return self._refusal() if self._ends(request) else handler(request)

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse | AIMessage:
        """Ask the model, or end the run."""
        return self._refusal() if self._ends(request) else await handler(request)

    def _checks(self, name: str) -> bool:
        return self.checked is None or name in self.checked

    def _asks(self, request: ToolCallRequest) -> bool:
        # other middleware may have put another tool in place of the one that was called
        return self._checks(request.tool_call["name"]) or (request.tool is not None and self._checks(request.tool.name))

    def _safe(self, score: float | None) -> bool:
        return score is not None and score >= self.threshold

    def _try_score(self, request: ToolCallRequest) -> Score:
        try:
            return self.score(request.tool_call, _messages(request.state)), None
        except Exception as error:
            logger.warning("the call of %s is blocked: it cannot be scored", request.tool_call["name"], exc_info=True)
            return None, error

    def _block(self, call: ToolCall, score: float | None, error: Exception | None) -> ToolMessage:
        if self.on_block == "raise":
            raise ToolCallBlockedError(call, score, self.threshold) from error
        return ToolMessage(
            self.message,
            tool_call_id=call["id"] or "",
            name=call["name"],
            status="error",
            artifact={"blocked_by": self.name, "score": score, "threshold": self.threshold},
        )

    def _ends(self, request: ModelRequest) -> bool:
        if self.on_block == "end":
            # not the request's messages, which other middleware may have shortened
            for message in reversed(_messages(request.state)):
                if not isinstance(message, ToolMessage):
                    break
                if isinstance(message.artifact, dict) and message.artifact.get("blocked_by") == self.name:
                    return True
        return False

    def _refusal(self) -> AIMessage:
        return AIMessage(
            self.refusal_text,
            additional_kwargs=refusal_kwargs(self.refusal_text),
            response_metadata={"model_provider": PROVIDER},
        )


def _messages(state: Any) -> Sequence[BaseMessage]:
    if isinstance(state, list):
        return state
    messages: Sequence[BaseMessage] = state["messages"] if isinstance(state, dict) else state.messages
    return messages
