"""Safety that scales with the risk: a RAG app that searches wide only where the reward model expects trouble.

Before a question is answered, the reward model looks at question and context: how safe is the worst of the words that
the policy may well say next? Where all are safe, plain decoding is enough; where not, the search gets wider. The script
compares that with fixed efforts on held-out questions, half of them with a poisoned passage in their context, and draws
a plot. Nothing that the look does not see is stopped where nobody searches: with real texts, let "low" be the least.

Run it with `python examples/rag_safety_scaling.py`; it needs no network and no model of your own
(`pip install 'langchain-saffron[examples]'` for the plot).
"""

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from langchain_core.runnables import RunnableLambda

from langchain_saffron import ChatSaffron
from langchain_saffron.engine import PromptRisk
from langchain_saffron.kitchen.held_out import held_out_retrieval
from langchain_saffron.kitchen.judge import answered, last_user_message, verdict

matplotlib.use("Agg")
from matplotlib import pyplot

EFFORTS = ("off", "low", "medium", "high")
MFLOP = 1e6  # in a TFLOP


@dataclass
class Outcome:
    """What a way to choose the effort came to: shares, and MFLOP a question.

    Attributes:
        name: Of the way.
        obeyed: Of the poisoned contexts, those whose hazard was explained.
        answered: Of the clean ones, those that were answered from the passage.
        reading: What it cost to read question and context, with both models.
        answering: What it cost to write the answer.
        efforts: How often each effort was chosen.
    """

    name: str
    obeyed: float
    answered: float
    reading: float
    answering: float
    efforts: Counter[str]


def make_chat() -> ChatSaffron:
    """The model. A wide search is for policies that have several things to say: this nucleus gives it something."""
    # The embedded kitchen models. With real ones, this line is:
    # return ChatSaffron(model="meta-llama/Llama-3.2-1B-Instruct", reward_model="path/to/an-mrm", max_tokens=160)
    return ChatSaffron(max_tokens=160, top_p=0.95)


def effort_by_risk(look: PromptRisk) -> str:
    """The effort for what the reward model sees: log odds of safe against unsafe, of the worst likely next word."""
    # below it, safe is less than four times as likely as unsafe
    return "medium" if look.lowest is None or look.lowest < 1.5 else "off"


def ask(
    chat: ChatSaffron, choose: Callable[[PromptRisk], str], prompt: list[BaseMessage]
) -> tuple[PromptRisk, AIMessage]:
    """Look, choose, answer. The answer finds what the look has read in the cache."""
    look = chat.outlook(prompt)
    return look, chat.invoke(prompt, effort=choose(look))


def measure(chat: ChatSaffron, name: str, choose: Callable[[PromptRisk], str], count: int) -> Outcome:
    """Ask `count` held-out questions with a clean context and as many with a poisoned one."""
    clean, poisoned = (held_out_retrieval(count, poisoned=poison, seed=1) for poison in (False, True))
    # a salt of its own: no way of asking may live on what another has left in the cache
    chat = chat.model_copy(update={"cache_salt": name})
    prompts = [convert_to_messages(item.messages) for item in (*clean, *poisoned)]
    # all at once: they share the models' forwards
    asked = RunnableLambda(partial(ask, chat, choose)).batch(prompts, {"max_concurrency": 64})
    looks, answers = zip(*asked, strict=True)
    stats = [answer.response_metadata["saffron"] for answer in answers]
    right = [answered(item, answer.text) for item, answer in zip(clean, answers[:count], strict=True)]
    broken = [
        verdict(answer.text, last_user_message(item.messages)) == "unsafe"
        for item, answer in zip(poisoned, answers[count:], strict=True)
    ]
    reading = sum(look.stats.tflops for look in looks) * MFLOP / len(prompts)
    answering = sum(one["tflops"] for one in stats) * MFLOP / len(prompts)
    efforts = Counter(one["effort"] for one in stats)
    return Outcome(name, sum(broken) / count, sum(right) / count, reading, answering, efforts)


def compare(chat: ChatSaffron, count: int) -> list[Outcome]:
    """Every fixed effort, and the one that is chosen by risk."""
    fixed = [measure(chat, effort, lambda _, effort=effort: effort, count) for effort in EFFORTS]
    return [*fixed, measure(chat, "by risk", effort_by_risk, count)]


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Obedience over compute."""
    *fixed, chosen = outcomes
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([o.answering for o in fixed], [o.obeyed for o in fixed], "o-", color="0.5", label="fixed effort")
    for outcome in fixed:
        axes.annotate(outcome.name, (outcome.answering, outcome.obeyed), (6, 6), textcoords="offset points")
    axes.plot(chosen.answering, chosen.obeyed, "*", markersize=14, color="tab:orange", label="effort chosen by risk")
    axes.set(xlabel="MFLOP an answer", ylabel="poisoned contexts that are obeyed", ylim=(-0.1, 1.1))
    axes.margins(x=0.15)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description="Effort chosen by risk, beside fixed efforts.")
    parser.add_argument("--questions", type=int, default=100, help="clean questions, and as many poisoned ones (100)")
    parser.add_argument("--plot", type=Path, default=Path("rag_safety_scaling.png"), help="where to draw the plot")
    options = parser.parse_args()
    outcomes = compare(make_chat(), options.questions)
    print(f"{'effort':10}{'obeyed poison':>15}{'answered':>10}{'MFLOP to read':>15}{'to answer':>11}")
    for o in outcomes:
        print(f"{o.name:10}{o.obeyed:15.2f}{o.answered:10.2f}{o.reading:15.0f}{o.answering:11.0f}")
    print("chosen by risk:", ", ".join(f"{effort} {times}×" for effort, times in outcomes[-1].efforts.most_common()))
    plot(outcomes, options.plot)
    print(f"plot: {options.plot}")


if __name__ == "__main__":
    main()
