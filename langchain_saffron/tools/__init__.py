"""How models call tools: the forms they are trained on, from schemas and grammars to parsing while they write."""

from langchain_saffron.tools.base import Answer, Call, CallParser, CallPiece, Event, Said, Spoiled, ToolFormat
from langchain_saffron.tools.call_form import CallForm, JsonArguments, Parameters, Slot
from langchain_saffron.tools.form_calls import FormCalls
from langchain_saffron.tools.json_calls import HERMES, LLAMA, JsonCallFormat
from langchain_saffron.tools.registry import (
    detect_tool_format,
    get_tool_format,
    register_tool_format,
    tool_format_names,
)
from langchain_saffron.tools.request import ToolRequest, tool_request
from langchain_saffron.tools.response_template import RESPONSE_TEMPLATE
from langchain_saffron.tools.values import Values

__all__ = [
    "HERMES",
    "LLAMA",
    "RESPONSE_TEMPLATE",
    "Answer",
    "Call",
    "CallForm",
    "CallParser",
    "CallPiece",
    "Event",
    "FormCalls",
    "JsonArguments",
    "JsonCallFormat",
    "Parameters",
    "Said",
    "Slot",
    "Spoiled",
    "ToolFormat",
    "ToolRequest",
    "Values",
    "detect_tool_format",
    "get_tool_format",
    "register_tool_format",
    "tool_format_names",
    "tool_request",
]
