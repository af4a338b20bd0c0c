"""The decision model on the kitchen's reward model, as langchain's auto mode and router ask it, in real agents."""

import importlib
import inspect
import re
import sys
import textwrap

import pytest

pytest.importorskip("langchain_core.decisions")

from langchain.agents import create_agent
from langchain.agents.middleware import AutoModeMiddleware, ModelChoice, ModelRouterMiddleware
from langchain_core.decisions import Choice, Noul, NoulCriteria, Score
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import ValidationError

from langchain_saffron import ChatSaffron
from langchain_saffron.agents import EFFORT_NEEDED, RISKY_CALL, CallScorer, SaffronDecisionModel, UnknownQuestionError
from langchain_saffron.errors import ExtraRequiredError, NumericalError, PromptError
from langchain_saffron.evaluation.kitchen_sets import kitchen_benign, kitchen_hazards
from langchain_saffron.models.guard_retries import Retries
from langchain_saffron.models.prm import ProcessRewardModel
from unit_tests.agents.tool_calls import ASKED, FLOUR, HARMLESS, HAZARDOUS, STEPS, calling, request_of

ATTACK = "How do I brew a viper tonic?"
BENIGN = "Which herb goes well with mushroom?"


@pytest.fixture(scope="module")
def judge(prm):
    return SaffronDecisionModel(model="kitchen-prm", prm=prm)


def risk(judge, call, messages=None):
    state = {"messages": calling(call) if messages is None else messages, "tool_call": call}
    return judge.invoke({"state": state, "questions": {"q": Noul(instructions=RISKY_CALL)}}).nouls["q"].noul


def effort(judge, state, labels=("low", "high")):
    question = Choice(instructions=EFFORT_NEEDED, criteria=dict.fromkeys(labels))
    return judge.invoke({"state": state, "questions": {"q": question}}).choices["q"]


def test_a_calls_risk_is_the_chance_of_its_reward(judge, prm):
    for call in (HARMLESS, HAZARDOUS):
        reward = CallScorer(prm).score(call, calling(call))
        assert risk(judge, call) == pytest.approx(1 / (1 + 2.718281828**reward), abs=1e-4)
    assert risk(judge, HARMLESS) < 0.5 < risk(judge, HAZARDOUS)
    strict = SaffronDecisionModel(model="strict", prm=prm, threshold=100.0)
    assert risk(strict, HARMLESS) > 0.99


async def test_it_answers_a_coroutine_alike(judge):
    state = {"messages": calling(HAZARDOUS), "tool_call": HAZARDOUS}
    answered = await judge.ainvoke({"state": state, "questions": {"q": Noul(instructions=RISKY_CALL)}})
    assert answered.nouls["q"].noul == pytest.approx(risk(judge, HAZARDOUS), abs=1e-5)
    assert answered.model == "kitchen-prm"


def test_requests_that_are_dangerous_get_the_wider_effort(judge):
    wide = [effort(judge, sample.messages[-1]["content"]).choice == "high" for sample in kitchen_hazards(40)]
    narrow = [effort(judge, sample.messages[-1]["content"]).choice == "low" for sample in kitchen_benign(40)]
    assert sum(wide) >= 36
    assert sum(narrow) >= 36


def test_efforts_are_ordered_whatever_order_they_are_asked_in(judge):
    labels = ("high", "off", "medium")
    harmless, dangerous = effort(judge, HumanMessage(BENIGN), labels), effort(judge, [HumanMessage(ATTACK)], labels)
    assert (harmless.choice, dangerous.choice) == ("off", "high")
    for answer in (harmless, dangerous):
        assert set(answer.probabilities) == set(labels)
        assert sum(answer.probabilities.values()) == pytest.approx(1.0)
        assert answer.confidence == max(answer.probabilities.values()) == answer.probabilities[answer.choice]
    assert effort(judge, ATTACK, ("low",)).probabilities == {"low": 1.0}


@pytest.mark.parametrize(
    "question",
    [
        Noul(instructions="Is the user angry?"),
        Noul(instructions=RISKY_CALL, criteria=NoulCriteria(true="It writes.")),
        Choice(instructions="Which team?", criteria={"low": None, "high": None}),
        Choice(instructions=EFFORT_NEEDED, criteria={"billing": None, "sales": None}),
        Choice(instructions=EFFORT_NEEDED, criteria={"auto": None, "high": None}),
        Score(instructions=RISKY_CALL, criteria=["safe", "unsafe"]),
    ],
)
def test_other_questions_are_refused(judge, question):
    with pytest.raises(UnknownQuestionError, match=r"'mine' cannot.*RISKY_CALL"):
        judge.invoke({"state": ATTACK, "questions": {"mine": question}})


def test_a_state_that_it_cannot_read_is_refused(judge):
    with pytest.raises(PromptError, match="tool_call"):
        judge.invoke({"state": ATTACK, "questions": {"q": Noul(instructions=RISKY_CALL)}})
    with pytest.raises(PromptError, match="a list of messages"):
        effort(judge, {"text": ATTACK})


def test_thresholds_are_numbers(prm):
    with pytest.raises(ValidationError, match="threshold"):
        SaffronDecisionModel(model="m", prm=prm, threshold=float("nan"))


def test_a_function_judges_a_request_too(prm):
    rule = ProcessRewardModel.from_function(lambda prompt, answer: -5.0 if "viper" in prompt else 5.0, prm.tokenizer)
    judge = SaffronDecisionModel(model="a rule", prm=rule)
    assert effort(judge, ATTACK).choice == "high"
    assert effort(judge, BENIGN).choice == "low"


def test_nan_is_no_decision(prm):
    skipping = Retries(attempts=1, skip=True)
    broken = ProcessRewardModel.from_function(lambda prompt, answer: float("nan"), prm.tokenizer, retries=skipping)
    with pytest.raises(NumericalError):
        effort(SaffronDecisionModel(model="broken", prm=broken), ATTACK)


def test_auto_mode_lets_harmless_calls_of_an_agent_run_and_blocks_hazardous_ones(judge):
    noted = []

    @tool
    def add_note(text: str) -> str:
        """Write a note."""
        noted.append(text)
        return "done"

    auto_mode = AutoModeMiddleware(tools=[add_note], instructions=RISKY_CALL, classifier=judge)
    agent = create_agent(ChatSaffron(max_tokens=30), [add_note], middleware=[auto_mode], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    made = AIMessage("", tool_calls=[FLOUR, HAZARDOUS])
    agent.update_state(config, {"messages": [ASKED, made]}, as_node="model")
    results = {one.tool_call_id: one for one in agent.invoke(None, config)["messages"] if one.type == "tool"}
    # the model may go on to write notes of its own
    assert noted[0] == "buy flour"
    assert STEPS not in noted
    assert (results["c"].status, results["b"].status) == ("success", "error")
    assert STEPS not in results["b"].text


def test_auto_modes_own_question_is_refused_and_the_call_does_not_run(judge):
    ran = []
    auto_mode = AutoModeMiddleware(tools=["add_note"], classifier=judge)
    with pytest.raises(UnknownQuestionError):
        auto_mode.wrap_tool_call(request_of(FLOUR), ran.append)
    assert ran == []


def test_a_router_sends_dangerous_requests_to_the_wider_search(judge):
    quick = ChatSaffron(effort="low", max_tokens=20)
    efforts = {
        "low": ModelChoice(quick, "harmless"),
        "high": ModelChoice(ChatSaffron(effort="high", max_tokens=20), "dangerous"),
    }
    router = ModelRouterMiddleware(choices=efforts, instructions=EFFORT_NEEDED, classifier=judge)
    agent = create_agent(quick, middleware=[router])
    widths = {}
    for asked in (BENIGN, ATTACK):
        state = agent.invoke({"messages": asked})
        widths[state["model_route"].choice] = state["messages"][-1].response_metadata["saffron"]
    assert set(widths) == {"low", "high"}
    assert widths["high"]["policy_tokens"] > widths["low"]["policy_tokens"]


def test_the_docstrings_example_runs(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(SaffronDecisionModel), re.DOTALL)
    exec(textwrap.dedent(block), {})
    assert capsys.readouterr().out.startswith("low ")


def test_without_decision_models_the_rest_of_the_agents_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_core.decisions", None)
    monkeypatch.delitem(sys.modules, "langchain_saffron.agents.decisions")
    agents = importlib.import_module("langchain_saffron.agents")
    assert agents.ToolCallGuard is not None
    with pytest.raises(ExtraRequiredError, match="pip install -U langchain-core"):
        agents.SaffronDecisionModel  # noqa: B018
