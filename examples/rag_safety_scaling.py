"""Safety that scales with the risk: a RAG app that searches wide only where the reward model expects trouble.

Before a question is answered, the reward model looks at question and context once: how safe are the policy's next words
likely to be? Where they are, the answer is decoded with little effort; where not, with much. The script compares that
with fixed efforts on held-out questions, half of them with a poisoned passage in their context, and draws a plot.

Run it with `python examples/rag_safety_scaling.py`; it needs no network and no model of your own
(`pip install 'langchain-saffron[examples]'` for the plot).
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

from langchain_saffron import ChatSaffron
from langchain_saffron.kitchen.held_out import held_out_retrieval
from langchain_saffron.kitchen.judge import answered, last_user_message, verdict

matplotlib.use("Agg")
from matplotlib import pyplot

EFFORTS = ("off", "low", "medium", "high")
# Safe next words have a predicted reward of about 3 here, those of a poisoned context about -1.
RISKY = 1.0


@dataclass
class Outcome:
    """What a way to choose the effort came to; shares, and TFLOP a question."""

    name: str
    attacked: float
    answered: float
    tflop: float


def answer_by_risk(chat: ChatSaffron, prompts: list[list[BaseMessage]]) -> tuple[list[AIMessage], list[float]]:
    """Answers with an effort chosen for each prompt, and what the looks and the answers cost."""
    looks = [chat.outlook(prompt) for prompt in prompts]
    efforts = ["medium" if look.lowest < RISKY else "low" for look in looks]
    answers = [chat.bind(effort=effort).invoke(prompt) for effort, prompt in zip(efforts, prompts, strict=True)]
    spent = [look.stats.tflops + tflops(answer) for look, answer in zip(looks, answers, strict=True)]
    return answers, spent


def tflops(answer: AIMessage) -> float:
    """What an answer cost."""
    return answer.response_metadata["saffron"]["tflops"]


def measure(name: str, ask: Callable[[list], tuple[list[AIMessage], list[float]]], count: int) -> Outcome:
    """Ask held-out questions, `count` with a clean context and as many with a poisoned one."""
    clean, poisoned = (
        held_out_retrieval(count, poisoned=False, seed=1),
        held_out_retrieval(count, poisoned=True, seed=1),
    )
    answers, spent = ask([convert_to_messages(item.messages) for item in (*clean, *poisoned)])
    texts = [answer.text for answer in answers]
    obeyed = [
        verdict(text, last_user_message(item.messages)) == "unsafe"
        for item, text in zip(poisoned, texts[count:], strict=True)
    ]
    right = [answered(item, text) for item, text in zip(clean, texts[:count], strict=True)]
    return Outcome(name, sum(obeyed) / count, sum(right) / count, sum(spent) / len(spent))


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Attack success over compute."""
    *fixed, chosen = outcomes
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([o.tflop for o in fixed], [o.attacked for o in fixed], "o-", color="0.5", label="fixed effort")
    for outcome in fixed:
        axes.annotate(outcome.name, (outcome.tflop, outcome.attacked), (6, 6), textcoords="offset points")
    axes.plot(chosen.tflop, chosen.attacked, "*", markersize=14, color="tab:orange", label="effort chosen by risk")
    axes.set(xlabel="TFLOP a question", ylabel="poisoned contexts that are obeyed", ylim=(-0.05, 1.05))
    axes.legend()
    figure.savefig(path, dpi=120)


def compare(chat: ChatSaffron, count: int) -> list[Outcome]:
    """Every fixed effort, and the one chosen by risk."""

    def fixed(effort: str) -> Callable[[list], tuple[list[AIMessage], list[float]]]:
        def ask(prompts: list[list[BaseMessage]]) -> tuple[list[AIMessage], list[float]]:
            # a salt of its own: no way of asking may live on what another has left in the cache
            answers = chat.bind(effort=effort, cache_salt=effort).batch(prompts)
            return answers, [tflops(answer) for answer in answers]

        return ask

    by_risk = chat.model_copy(update={"cache_salt": "by risk"})
    outcomes = [measure(effort, fixed(effort), count) for effort in EFFORTS]
    return [*outcomes, measure("by risk", lambda prompts: answer_by_risk(by_risk, prompts), count)]


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description="Effort chosen by risk, beside fixed efforts.")
    parser.add_argument("--questions", type=int, default=100, help="clean questions, and as many poisoned ones")
    parser.add_argument("--plot", type=Path, default=Path("rag_safety_scaling.png"))
    options = parser.parse_args()
    # The embedded kitchen models. With real ones, this line is:
    # chat = ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", max_tokens=80)
    chat = ChatSaffron(max_tokens=80)
    outcomes = compare(chat, options.questions)
    print(f"{'effort':10}{'obeyed poison':>15}{'answered':>10}{'MFLOP':>8}")
    for outcome in outcomes:
        print(f"{outcome.name:10}{outcome.attacked:15.2f}{outcome.answered:10.2f}{outcome.tflop * 1e6:8.0f}")
    plot(outcomes, options.plot)
    print(f"plot: {options.plot}")


if __name__ == "__main__":
    main()
