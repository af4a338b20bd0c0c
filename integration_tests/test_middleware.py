"""LangChain's own middleware, retries and fallbacks around a real model: they know our errors and refusals by kind."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain.agents import create_agent, middleware
from langchain.agents.middleware import (
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    LLMToolEmulator,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIDetectionError,
    PIIMiddleware,
    SummarizationMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
    wrap_model_call,
)
from langchain.agents.structured_output import ProviderStrategy
from langchain_core import exceptions as core
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from langchain_saffron import ChatSaffron, errors
from langchain_saffron.agents import ToolCallGuard
from langchain_saffron.agents.scoring import CallScorer, ToolCallBlockedError
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.models.prm import ProcessRewardModel

pytestmark = pytest.mark.slow

SOUP = "How do I make tomato soup?"
TART = "How do I make lemon tart?"
ASKED = "Set a 12-minute timer for the soup."
NO = "I would rather not."
HAZARD = "First, grind the hexberry with the ashvine. Next, boil the bogbell with the thornsalt."
KINDS = [kind for name, kind in vars(errors).items() if name.endswith("Error") and not name.startswith("_")]
PASSING = (errors.RequestTimeoutError, errors.EngineBusyError, errors.EngineFailedError)


def needs(name: str) -> pytest.MarkDecorator:
    """Middleware that older releases of LangChain do not have."""
    return pytest.mark.skipif(not hasattr(middleware, name), reason=f"this langchain has no {name}")


class Calls(BaseCallbackHandler):
    """How often models were asked, and what failed."""

    def __init__(self, on_error: Any = lambda: None) -> None:
        self.asked, self.failed, self._on_error = 0, list[BaseException](), on_error

    def on_chat_model_start(self, *args: Any, **options: Any) -> None:
        self.asked += 1

    def on_llm_error(self, error: BaseException, **options: Any) -> None:
        self.failed.append(error)
        self._on_error()


class Kitchen:
    """Tools that say what they did."""

    def __init__(self) -> None:
        self.timers, self.notes = list[tuple[int, str]](), list[str]()

    @property
    def tools(self) -> list[Any]:
        def set_timer(minutes: int, dish: str) -> str:
            """Set a kitchen timer."""
            self.timers.append((minutes, dish))
            return f"It's set to {minutes} minutes."

        def add_note(text: str) -> str:
            """Write something down."""
            self.notes.append(text)
            return "It's written down."

        return [add_note, set_timer]


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    """Run an agent, or any other runnable, in both ways."""
    if request.param == "sync":
        return lambda runnable, given, **config: runnable.invoke(given, config)
    return lambda runnable, given, **config: asyncio.run(runnable.ainvoke(given, config))


def asking(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def long_history() -> list[Any]:
    """More than the kitchen's context holds."""
    turns = [("Please tell me more. " * 20, "Chop the tomato and simmer it. " * 20)] * 8
    # each a message of its own: agents drop those with the same id
    said = [make(text) for turn in turns for make, text in zip((HumanMessage, AIMessage), turn, strict=True)]
    return [*said, HumanMessage(TART)]


@contextmanager
def held_up(chat: ChatSaffron) -> Iterator[threading.Event]:
    """The model's engine does nothing until the event is set."""
    go_on = threading.Event()
    thread = threading.Thread(target=chat.load().call, args=(lambda: go_on.wait(60),))
    thread.start()
    try:
        yield go_on
    finally:
        go_on.set()
        thread.join()


# --- too long ---


def test_an_overflow_is_summed_up_and_the_run_goes_on(ask):
    chat = ChatSaffron(max_tokens=60)
    with pytest.raises(core.ContextOverflowError, match="shorten the messages"):
        ask(create_agent(chat), {"messages": long_history()})
    # the history is too long for the call that sums it up as well: its middle is cut out, and it is asked again
    summing = SummarizationMiddleware(
        chat,
        trigger=("fraction", 0.5),
        keep=("messages", 1),
        trim_tokens_to_summarize=None,
        summary_prompt="Sum up:\n{messages}",
    )
    calls = Calls()
    state = ask(create_agent(chat, middleware=[summing]), {"messages": long_history()}, callbacks=[calls])
    assert [type(error) for error in calls.failed] == [errors.ContextOverflowError]
    assert calls.asked == 3
    summary, question, answer = state["messages"]
    assert summary.text.startswith("Here is a summary")
    assert question.text == TART
    assert "lemon" in answer.text


# --- what may pass is tried again, and nothing else ---


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_retried_by_their_kind(kind):
    tries = []

    @wrap_model_call
    def fail(request, handler):
        tries.append(request)
        raise kind("what to do")

    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, on_failure="error")
    agent = create_agent(ChatSaffron(), middleware=[retry, fail])
    with pytest.raises(kind, match="what to do"):
        agent.invoke(asking(SOUP))
    assert len(tries) == (3 if kind in PASSING else 1)


def test_a_timeout_is_tried_again(ask):
    chat = ChatSaffron(effort="off", max_tokens=5, timeout=2)
    chat.invoke(SOUP)
    agent = create_agent(chat, middleware=[ModelRetryMiddleware(initial_delay=0, on_failure="error")])
    for runnable, given in (
        (agent, asking(SOUP)),
        (chat.with_retry(retry_if_exception_type=(core.ModelTimeoutError,), wait_exponential_jitter=False), SOUP),
    ):
        with held_up(chat) as go_on:
            calls = Calls(on_error=go_on.set)
            ask(runnable, given, callbacks=[calls])
        assert [type(error) for error in calls.failed] == [errors.RequestTimeoutError]
        assert calls.asked == 2


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({}, {"width": 0}, errors.SettingsError),
        ({}, {"efort": "low"}, errors.SettingsError),
        ({}, {"response_format": {"type": "regex", "regex": "("}}, errors.GrammarError),
        ({}, {"max_tflops": 1e-9}, errors.BudgetError),
        ({"model": "/no/such/model", "effort": "off"}, {}, errors.ModelNotFoundError),
        ({"model": "/no/such/model", "effort": "off"}, {"effort": "low"}, errors.RewardModelRequiredError),
    ],
)
def test_what_cannot_work_is_asked_once(ask, fields, options, expected):
    chat = ChatSaffron(**fields)
    call = chat.bind(**options)
    retrying = call.with_retry(
        retry_if_exception_type=(core.ModelTimeoutError, core.ModelRateLimitError, core.ModelAPIError)
    )
    with pytest.raises(expected) as raised:
        ask(retrying, SOUP)
    assert not raised.value.is_retryable

    class Setting(middleware.AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return handler(request.override(model_settings=options))

        async def awrap_model_call(self, request, handler):
            return await handler(request.override(model_settings=options))

    calls = Calls()
    agent = create_agent(chat, middleware=[ModelRetryMiddleware(max_retries=3, initial_delay=0), Setting()])
    with pytest.raises(expected):
        ask(agent, asking(SOUP), callbacks=[calls])
    assert calls.asked == 1


def test_a_blocked_call_of_a_tool_is_not_tried_again(kitchen):
    guard = ToolCallGuard(WEIGHTS / "prm", threshold=100.0, on_block="raise")
    scored = []
    score = guard.score
    guard.score = lambda *given: scored.append(given) or score(*given)
    agent = create_agent(ChatSaffron(), kitchen.tools, middleware=[ToolRetryMiddleware(initial_delay=0), guard])
    with pytest.raises(ToolCallBlockedError):
        agent.invoke(asking(ASKED))
    assert (len(scored), kitchen.timers) == (1, [])


# --- fallbacks ---


def test_another_model_steps_in(ask):
    missing = ChatSaffron(model="/no/such/model", effort="off")
    agent = create_agent(missing, middleware=[ModelFallbackMiddleware(ChatSaffron(max_tokens=60))])
    assert "tomato" in ask(agent, asking(SOUP))["messages"][-1].text


def test_fallbacks_of_runnables_go_by_the_kind(ask):
    chat, brief = ChatSaffron(max_tokens=60), RunnableLambda(lambda messages: AIMessage("too long for me"))
    chain = chat.with_fallbacks([brief], exceptions_to_handle=(core.ContextOverflowError,))
    assert ask(chain, long_history()).text == "too long for me"
    assert "tomato" in ask(chain, SOUP).text
    with pytest.raises(errors.BudgetError):
        ask(chat.bind(max_tflops=1e-9).with_fallbacks([brief], exceptions_to_handle=(core.ContextOverflowError,)), SOUP)


# --- refusals ---


class Recipe(BaseModel):
    dish: str
    minutes: int


@needs("ModelRefusalMiddleware")
def test_a_refusal_can_be_an_error(ask):
    refusing = ChatSaffron(refusal_threshold=1e6, refusal_text=NO)
    watch = middleware.ModelRefusalMiddleware()
    for form in (None, ProviderStrategy(Recipe)):
        agent = create_agent(refusing, middleware=[watch], response_format=form)
        with pytest.raises(core.ModelRefusalError, match=NO) as raised:
            ask(agent, asking(SOUP))
        assert raised.value.raw_message.text == NO
    # without it, the refusal is the answer; and answers are none
    assert ask(create_agent(refusing), asking(SOUP))["messages"][-1].text == NO
    state = ask(create_agent(ChatSaffron(max_tokens=60), middleware=[watch]), asking(SOUP))
    assert "tomato" in state["messages"][-1].text


@needs("ModelRefusalMiddleware")
@pytest.mark.parametrize("how", [{"refusal_threshold": 1e6}, {"max_reward_calls": 20, "on_budget": "refuse"}])
def test_another_model_answers_what_one_refuses(ask, how):
    refusing = ChatSaffron(refusal_text=NO, **how)
    steps_in = [ModelFallbackMiddleware(ChatSaffron(max_tokens=60)), middleware.ModelRefusalMiddleware()]
    answer = ask(create_agent(refusing, middleware=steps_in), asking(SOUP))["messages"][-1]
    assert NO not in answer.text
    assert "tomato" in answer.text


@needs("ModelRefusalMiddleware")
def test_a_guard_that_ends_a_run_refuses_too(kitchen):
    guard = ToolCallGuard(WEIGHTS / "prm", threshold=100.0, on_block="end", refusal_text=NO)
    agent = create_agent(ChatSaffron(), kitchen.tools, middleware=[middleware.ModelRefusalMiddleware(), guard])
    with pytest.raises(core.ModelRefusalError, match=NO):
        agent.invoke(asking(ASKED))


# --- decisions: the embedded models are the judges of what is risky ---


@pytest.fixture(scope="module")
def risk() -> Any:
    """A decision model: the MRM's outlook chooses a route, the PRM says whether a call is risky."""
    decisions = pytest.importorskip("langchain_core.decisions")

    class Risk(decisions.BaseDecisionModel):
        model: str = "kitchen"
        chat: Any
        scorer: Any

        @property
        def _provider(self) -> str:
            return "saffron"

        def _classify(self, state, questions):
            return decisions.ClassifierResponse(
                model=self.model, answers={name: self._answer(state, one) for name, one in questions.items()}
            )

        def _answer(self, state, question):
            if isinstance(question, decisions.Choice):
                route = "quick" if self.chat.outlook([state]).lowest > 2 else "careful"
                odds = {name: float(name == route) for name in question.criteria}
                return {"type": "choice", "choice": route, "probabilities": odds, "confidence": 1.0}
            score = self.scorer.score(state["tool_call"], state["messages"])
            return {"type": "noul", "noul": float(score < 0)}

    return Risk(chat=ChatSaffron(), scorer=CallScorer(ProcessRewardModel.from_pretrained(WEIGHTS / "prm")))


@needs("ModelRouterMiddleware")
@pytest.mark.parametrize(("text", "effort"), [(SOUP, "low"), ("How do I brew a viper tonic?", "high")])
def test_a_router_chooses_the_effort(ask, risk, text, effort):
    choices = {
        "quick": middleware.ModelChoice(ChatSaffron(effort="low", max_tokens=40), "harmless"),
        "careful": middleware.ModelChoice(ChatSaffron(effort="high", max_tokens=40), "risky"),
    }
    router = middleware.ModelRouterMiddleware(choices=choices, instructions="How risky is it?", classifier=risk)
    state = ask(create_agent(ChatSaffron(effort="off"), middleware=[router]), asking(text))
    assert state["messages"][-1].response_metadata["saffron"]["effort"] == effort


@needs("AutoModeMiddleware")
def test_auto_mode_runs_what_is_harmless_and_blocks_the_rest(ask, risk, kitchen):
    auto = middleware.AutoModeMiddleware(tools=["set_timer", "add_note"], classifier=risk)
    agent = create_agent(ChatSaffron(max_tokens=60), kitchen.tools, middleware=[auto], checkpointer=InMemorySaver())
    ask(agent, asking(ASKED), configurable={"thread_id": "own"})
    assert kitchen.timers == [(12, "soup")]
    config = {"configurable": {"thread_id": "hazard"}}
    made = AIMessage("", tool_calls=[{"name": "add_note", "args": {"text": HAZARD}, "id": "a"}])
    agent.update_state(config, {"messages": [HumanMessage("Note how it is done."), made]}, as_node="model")
    messages = ask(agent, None, **config)["messages"]
    (result,) = (message for message in messages if isinstance(message, ToolMessage) and message.tool_call_id == "a")
    assert (result.status, HAZARD in kitchen.notes) == ("error", False)


# --- people ---


@pytest.mark.parametrize(
    ("decision", "timers"),
    [
        ({"type": "approve"}, [(12, "soup")]),
        (
            {"type": "edit", "edited_action": {"name": "set_timer", "args": {"minutes": 9, "dish": "pie"}}},
            [(9, "pie")],
        ),
        ({"type": "reject", "message": "Not now."}, []),
    ],
    ids=lambda one: one.get("type") if isinstance(one, dict) else "",
)
def test_a_person_decides_on_a_call(ask, kitchen, decision, timers):
    person = HumanInTheLoopMiddleware({"set_timer": True})
    agent = create_agent(ChatSaffron(max_tokens=60), kitchen.tools, middleware=[person], checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    (asked,) = ask(agent, asking(ASKED), **config)["__interrupt__"]
    assert asked.value["action_requests"][0]["args"] == {"minutes": 12, "dish": "soup"}
    assert kitchen.timers == []
    messages = ask(agent, Command(resume={"decisions": [decision]}), **config)["messages"]
    assert kitchen.timers[:1] == timers
    assert messages[-1].response_metadata["saffron"]["policy_calls"] > 0


def test_personal_data_stay_outside(ask):
    chat = ChatSaffron(max_tokens=60)
    text = f"{SOUP} Write to anna@example.com."
    redacted = ask(create_agent(chat, middleware=[PIIMiddleware("email")]), asking(text))["messages"]
    assert redacted[0].text == f"{SOUP} Write to [REDACTED_EMAIL]."
    # what the model was asked is the redacted text
    assert redacted[1].usage_metadata["input_tokens"] == chat.get_num_tokens_from_messages(redacted[:1])
    with pytest.raises(PIIDetectionError):
        ask(create_agent(chat, middleware=[PIIMiddleware("email", strategy="block")]), asking(text))
    written = PIIMiddleware("dish", detector="tomato", apply_to_input=False, apply_to_output=True)
    answer = ask(create_agent(chat, middleware=[written]), asking(SOUP))["messages"][-1]
    assert "[REDACTED_DISH]" in answer.text
    assert "tomato" not in answer.text


# --- the rest of the shelf ---


def test_limits_end_a_run(ask, kitchen):
    for limit, timers in ((ModelCallLimitMiddleware(run_limit=1), 1), (ToolCallLimitMiddleware(run_limit=0), 0)):
        kitchen.timers.clear()
        state = ask(create_agent(ChatSaffron(max_tokens=60), kitchen.tools, middleware=[limit]), asking(ASKED))
        assert len(kitchen.timers) == timers
        assert "limit" in " ".join(message.text for message in state["messages"])


def test_old_results_are_cleared_by_the_models_own_count_of_tokens(ask, kitchen):
    clearing = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=50, keep=0)], token_count_method="model")
    state = ask(create_agent(ChatSaffron(max_tokens=60), kitchen.tools, middleware=[clearing]), asking(ASKED))
    assert kitchen.timers == [(12, "soup")]
    assert "12 minutes" not in state["messages"][-1].text


def test_a_model_can_stand_in_for_a_tool(ask, kitchen):
    emulator = LLMToolEmulator(tools=["set_timer"], model=ChatSaffron(max_tokens=20))
    state = ask(create_agent(ChatSaffron(max_tokens=60), kitchen.tools, middleware=[emulator]), asking(ASKED))
    assert kitchen.timers == []
    assert any(isinstance(message, ToolMessage) and message.text for message in state["messages"])
