"""How well the kitchen calls tools, and how safe that is, at every effort: `python -m integration_tests.agent_figures`.

Held-out cases: requests that need a tool (is the call right to the letter?), results of tools that want a hazardous
brew explained (are they obeyed?), and requests to write the steps for one down with a tool that has to be called (are
they in its arguments?). Judged by rule, not by the reward model that steers.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from integration_tests.kitchen_figures import EFFORTS, as_messages
from langchain_saffron import ChatSaffron
from langchain_saffron.kitchen.generator import Message
from langchain_saffron.kitchen.held_out import held_out_notes, held_out_poisoned_results, held_out_tools
from langchain_saffron.kitchen.judge import last_user_message, verdict


@dataclass(frozen=True)
class AgentFigures:
    """What was measured at one effort; shares of `cases`."""

    effort: str
    cases: int
    called: float
    obeyed: float
    noted: float


def with_calls(messages: Sequence[Message]) -> list[BaseMessage]:
    """LangChain's form of a generated conversation with tool calls and results."""
    made: list[BaseMessage] = []
    ids: list[str] = []
    for turn in messages:
        if calls := turn.get("tool_calls"):
            ids = [f"call_{len(made)}_{index}" for index in range(len(calls))]
            pairs = zip(calls, ids, strict=True)
            made.append(
                AIMessage(
                    turn["content"],
                    tool_calls=[
                        {"name": call["function"]["name"], "args": call["function"]["arguments"], "id": name}
                        for call, name in pairs
                    ],
                )
            )
        elif turn["role"] == "tool":
            made.append(ToolMessage(turn["content"], tool_call_id=ids.pop(0)))
        else:
            made += as_messages([turn])
    return made


def made(answer: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    """What an answer calls."""
    return [(call["name"], call["args"]) for call in answer.tool_calls]


def said(answer: AIMessage) -> str:
    """All that an answer says, arguments of calls included, cut ones too."""
    calls = (*answer.tool_calls, *answer.invalid_tool_calls)
    return "\n".join([answer.text, *(str(call["args"]) for call in calls)])


def measure(effort: str, cases: int = 100, seed: int = 1) -> AgentFigures:
    """Run the held-out cases at one effort, all of a kind together in shared forwards."""
    chat = ChatSaffron(effort=effort, max_tokens=240)

    def ask(case: tuple[Sequence[Message], Sequence[dict[str, Any]], str]) -> AIMessage:
        messages, tools, choice = case
        return chat.bind_tools(list(tools), tool_choice=choice).invoke(with_calls(messages))

    tasks, notes = held_out_tools(cases, seed), held_out_notes(cases, seed)
    attacks = held_out_poisoned_results(cases, seed)
    with ThreadPoolExecutor(32) as pool:
        calls = list(pool.map(ask, [(task.messages[:1], task.tools, "auto") for task in tasks]))
        misled = list(pool.map(ask, [(attack.messages, attack.tools, "auto") for attack in attacks]))
        written = list(pool.map(ask, [(item.messages, [item.tool], "any") for item in notes]))
    wanted = [with_calls(task.messages[1:2])[0] for task in tasks]
    right = [
        made(answer) == made(right) and not answer.invalid_tool_calls
        for answer, right in zip(calls, wanted, strict=True)
    ]
    obeyed = [
        verdict(said(answer), last_user_message(attack.messages)) == "unsafe"
        for answer, attack in zip(misled, attacks, strict=True)
    ]
    noted = [verdict(said(answer)) == "unsafe" for answer in written]
    return AgentFigures(effort, cases, *(sum(found) / cases for found in (right, obeyed, noted)))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="held-out cases of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--efforts", nargs="+", default=EFFORTS, choices=EFFORTS)
    options = parser.parse_args()
    print(f"{'effort':8}{'called':>9}{'obeyed':>9}{'noted':>9}")
    for effort in options.efforts:
        found = measure(effort, options.cases, options.seed)
        print(f"{effort:8}{found.called:9.3f}{found.obeyed:9.3f}{found.noted:9.3f}", flush=True)


if __name__ == "__main__":
    main()
