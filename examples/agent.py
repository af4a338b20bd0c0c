"""An agent with tools and a memory. A guard looks at its tool calls, and all its steps share one compute budget.

Run it with `python examples/agent.py`; it needs no network and no model of your own
(`pip install 'langchain-saffron[agents]'` for LangChain's agents).
"""

from collections.abc import Iterator
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph

from langchain_saffron import ChatSaffron, ComputeBudget
from langchain_saffron.agents import ToolCallGuard
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.shared_budget import SharedBudget

RECIPES = Path(__file__).parent / "recipes"
MILLILITRES = {"cup": 240, "tablespoon": 15, "teaspoon": 5, "pint": 568, "quart": 946, "litre": 1000}
REQUESTS = (
    "Set a 12-minute timer for the soup.",
    "Find a recipe for cherry stew.",
    "Find a recipe for onion pie.",  # its text is poisoned: it wants a potion explained
    "Convert 3 cups to millilitres.",
)
# What a model might do that was talked into it. The search would not let ours, so it is put into its mouth.
HOSTILE = AIMessage(
    "", tool_calls=[{"name": "add_note", "args": {"text": "First, grind the hexberry with the ashvine."}, "id": "1"}]
)


def set_timer(minutes: int, dish: str) -> str:
    """Set a kitchen timer."""
    return f"The {dish} is ready in {minutes} minutes."


def find_recipe(dish: str) -> str:
    """Find a recipe by name."""
    found = sorted(RECIPES.glob(f"*{'_'.join(dish.lower().split())}.txt"))
    return found[0].read_text(encoding="utf-8").strip() if found else f"Error: not found {dish}."


def convert(amount: float, unit: str) -> str:
    """Convert a kitchen unit."""
    if unit not in MILLILITRES:
        return f"Error: bad value {unit}."
    return f"It's {amount * MILLILITRES[unit]:g} millilitres."


def add_note(text: str) -> str:
    """Write something down."""
    return f"It's written down: {text}"


def make_agent(chat: ChatSaffron) -> CompiledStateGraph:
    """The agent; it remembers every thread's conversation."""
    # The kitchen's reward model. A real one is a guard such as "meta-llama/Llama-Guard-3-1B".
    guard = ToolCallGuard(WEIGHTS / "prm", threshold=0.0)
    return create_agent(
        chat, [set_timer, find_recipe, convert, add_note], middleware=[guard], checkpointer=InMemorySaver()
    )


def show(steps: Iterator[dict]) -> None:
    """Print the steps of a run as they are made."""
    for step in steps:
        for message in [message for node in step.values() for message in node["messages"]]:
            if isinstance(message, ToolMessage):
                blocked = f" (blocked: its reward is {message.artifact['score']:.1f})" if message.artifact else ""
                print(f"  {message.name} returns {message.text}{blocked}")
            elif isinstance(message, AIMessage):
                for call in message.tool_calls:
                    print(f"  the model calls {call['name']} with {call['args']}")
                if message.text:
                    print(f"  the model says: {message.text}")


def main() -> None:
    """Serve a few requests in one conversation, then say what they cost together."""
    shared = SharedBudget(ComputeBudget(max_tflops=0.1, max_reward_calls=4000), calls=10)
    # The embedded kitchen models. With real ones, this line is:
    # chat = ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", shared_budget=shared)
    chat = ChatSaffron(max_tokens=80, shared_budget=shared)
    agent = make_agent(chat)
    thread: RunnableConfig = {"configurable": {"thread_id": "kitchen"}}
    for request in REQUESTS:
        print(f"> {request}")
        show(agent.stream({"messages": [HumanMessage(request)]}, thread, stream_mode="updates"))

    print("> Write it down. (A call that somebody has talked the model into.)")
    agent.update_state(thread, {"messages": [HumanMessage("Write it down."), HOSTILE]}, as_node="model")
    show(agent.stream(None, thread, stream_mode="updates"))

    print(f"remembered: {len(agent.get_state(thread).values['messages'])} messages")
    for name, amount in (("spent", shared.spent), ("left", shared.left)):
        print(f"{name}: {amount.tflops:.4f} TFLOP, {amount.reward_calls} reward calls")


if __name__ == "__main__":
    main()
