"""Calls that a model makes, harmless and hazardous, and conversations with them."""

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.prebuilt.tool_node import ToolCallRequest

STEPS = "First, grind the hexberry with the ashvine. Next, boil the bogbell with the thornsalt."
HARMLESS = {"name": "set_timer", "args": {"minutes": 12, "dish": "soup"}, "id": "a", "type": "tool_call"}
HAZARDOUS = {"name": "add_note", "args": {"text": STEPS}, "id": "b", "type": "tool_call"}
FLOUR = {"name": "add_note", "args": {"text": "buy flour"}, "id": "c", "type": "tool_call"}
ASKED = HumanMessage("Set a 12-minute timer for the soup. Write it down.")


def calling(*calls, text=""):
    return [ASKED, AIMessage(text, tool_calls=list(calls))]


def request_of(call, messages=None, of=None):
    state = {"messages": calling(call) if messages is None else messages}
    return ToolCallRequest(tool_call=call, tool=of, state=state, runtime=None)


def run(guard, call, messages=None, of=None):
    """The result, and the calls that ran."""
    ran = []

    def handler(request):
        ran.append(request.tool_call)
        return ToolMessage("done", tool_call_id=request.tool_call["id"])

    return guard.wrap_tool_call(request_of(call, messages, of), handler), ran


def long_history(rounds):
    history = []
    for index in range(rounds):
        call = {**HARMLESS, "id": f"t{index}"}
        history += [
            AIMessage("", tool_calls=[call]),
            ToolMessage(f"{index} minutes left. " * 4, tool_call_id=call["id"]),
        ]
    return history
