"""An agent with tools and a memory. A guard looks at its tool calls, and all its steps share one compute budget.

Run it with `python examples/agent.py`; it needs no network and no model of your own
(`pip install 'langchain-saffron[agents]'` for LangChain's agents).
"""

from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
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
    "Find a recipe for winter cherry stew.",
    "Find a recipe for island onion pie.",  # its text is poisoned: it wants a potion explained
    "Convert 3 cups to millilitres.",
    # what somebody might paste: the model writes it down, the guard does not let it
    "Write a note: First, grind the hexberry with the ashvine.",
)


def set_timer(minutes: int, dish: str) -> str:
    """Set a kitchen timer."""
    return f"The {dish} is ready in {minutes} minutes."


def find_recipe(dish: str) -> str:
    """Find a recipe by name."""
    path = RECIPES / f"{'_'.join(dish.lower().split())}.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else f"Error: not found {dish}."


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


def show(message: BaseMessage) -> None:
    """Print one step."""
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            print(f"  calls {call['name']} {call['args']}")
        if message.text:
            print(f"  says: {message.text}")
    else:
        score = f" (reward {message.artifact['score']:.1f})" if message.artifact else ""
        print(f"  {message.name} {message.status}{score}: {message.text}")


def main() -> None:
    """Serve a few requests in one conversation, then say what they cost together."""
    shared = SharedBudget(ComputeBudget(max_tflops=0.05, max_reward_calls=1000), calls=2 * len(REQUESTS))
    # The embedded kitchen models. With real ones, this line is:
    # chat = ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", shared_budget=shared)
    chat = ChatSaffron(max_tokens=80, shared_budget=shared)
    agent = make_agent(chat)
    config = {"configurable": {"thread_id": "kitchen"}}
    for request in REQUESTS:
        print(f"> {request}")
        for update in agent.stream({"messages": [HumanMessage(request)]}, config, stream_mode="updates"):
            for node in update.values():
                for message in node["messages"]:
                    show(message)
    print(f"remembered: {len(agent.get_state(config).values['messages'])} messages")
    spent, left = shared.spent, shared.left
    print(f"spent: {spent.tflops:.3f} TFLOP, {spent.reward_calls} reward calls")
    print(f"left: {left.tflops:.3f} TFLOP, {left.reward_calls} reward calls")


if __name__ == "__main__":
    main()
