"""From OpenAI's requests to LangChain's messages, and to options of a call of `ChatSaffron` or `SaffronLLM`."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.output_parsers.openai_tools import make_invalid_tool_call, parse_tool_call

from langchain_saffron.interface.base import SaffronFields
from langchain_saffron.server.wire import ChatRequest, Decoding, Message

# fields of a request that are a call's options under the same name
SAME = (
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "effort",
    "width",
    "max_tflops",
    "max_seconds",
    "max_reward_calls",
    "on_budget",
    # only ever more caution: no value of it takes back what the server's own settings ask for
    "verify",
    "min_tokens",
    "response_format",
)


def to_messages(sent: Sequence[Message]) -> list[BaseMessage]:
    """OpenAI's messages as LangChain's."""
    return [_to_message(message) for message in sent]


def call_options(request: Decoding, model: SaffronFields, tenant: str) -> dict[str, Any]:
    """Options of the call that a request asks for.

    Args:
        request: What was sent.
        model: What answers, with the operator's settings.
        tenant: Who asks; only requests of one tenant share cached prompts.
    """
    options = {name: value for name in SAME if (value := getattr(request, name)) is not None}
    if request.stop:
        options["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.min_width is not None:
        options["min_width"] = max(request.min_width, model.min_width or 1)
    if request.refusal_threshold is not None:
        own = model.refusal_threshold
        # a client can ask for more caution, not for less
        options["refusal_threshold"] = max(request.refusal_threshold, own if own is not None else -float("inf"))
    # tenants' names hold no zero byte
    options["cache_salt"] = f"{tenant}\0{request.cache_salt or ''}"
    return options


def chat_options(request: ChatRequest, model: SaffronFields, tenant: str) -> dict[str, Any]:
    """The same of a chat, with its tools and its template's variables."""
    options = call_options(request, model, tenant)
    if request.max_completion_tokens is not None:
        options["max_tokens"] = request.max_completion_tokens
    variables = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", request.reasoning_effort)
    if variables:
        options["chat_template_kwargs"] = {**(getattr(model, "chat_template_kwargs", None) or {}), **variables}
    if request.tools:
        options["tools"] = [tool.model_dump(exclude_none=True) for tool in request.tools]
        choice = request.tool_choice
        options["tool_choice"] = choice if choice is None or isinstance(choice, str) else choice.model_dump()
        options["parallel_tool_calls"] = request.parallel_tool_calls
    return options


def _to_message(sent: Message) -> BaseMessage:
    fields = sent.model_dump(exclude_none=True, exclude={"tool_calls"})
    (message,) = convert_to_messages([{"content": "", **fields}])
    if isinstance(message, AIMessage):
        for call in sent.tool_calls or ():
            # convert_to_messages fails on arguments that are no JSON, which a model may well have written
            raw = call.model_dump()
            try:
                read = parse_tool_call(raw, return_id=True)
            except ValueError as error:
                message.invalid_tool_calls.append(make_invalid_tool_call(raw, str(error)))
                continue
            if read is not None and isinstance(read.get("args"), dict):
                message.tool_calls.append({**read, "type": "tool_call"})  # type: ignore[typeddict-item]
            else:
                message.invalid_tool_calls.append(make_invalid_tool_call(raw, "the arguments are no object"))
    return message
