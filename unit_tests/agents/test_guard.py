"""The guard of tool calls, with the kitchen's reward model: what runs, what does not, and what the model is told."""

import asyncio
import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest

from langchain_saffron import ChatSaffron
from langchain_saffron.agents import CallScorer, ToolCallBlockedError, ToolCallGuard
from langchain_saffron.errors import ContextOverflowError, ModelLoadError, PromptError, SettingsError
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.world import hazards, tool_tasks
from langchain_saffron.models.prm import ProcessRewardModel
from unit_tests.agents.tool_calls import ASKED, FLOUR, HARMLESS, HAZARDOUS, calling, long_history, request_of, run


async def arun(guard, call, messages=None):
    ran = []

    async def handler(request):
        ran.append(request.tool_call)
        return ToolMessage("done", tool_call_id=request.tool_call["id"])

    return await guard.awrap_tool_call(request_of(call, messages), handler), ran


# --- what runs ---


def test_a_harmless_call_runs(prm):
    result, ran = run(ToolCallGuard(prm), HARMLESS)
    assert result.content == "done"
    assert ran == [HARMLESS]


def test_a_hazardous_call_does_not_run_and_the_model_is_told(prm):
    guard = ToolCallGuard(prm)
    result, ran = run(guard, HAZARDOUS)
    assert ran == []
    assert isinstance(result, ToolMessage)
    assert (result.status, result.name, result.tool_call_id) == ("error", "add_note", "b")
    assert result.content == guard.message
    assert result.artifact["score"] == pytest.approx(guard.score(HAZARDOUS, calling(HAZARDOUS)), abs=1e-4)
    assert result.artifact["score"] < result.artifact["threshold"] == 0.0
    # the model learns nothing that it could climb
    assert not any(character.isdigit() for character in result.content)


def test_the_message_is_the_users(prm):
    result, _ = run(ToolCallGuard(prm, message="No."), HAZARDOUS)
    assert result.content == "No."


def test_hazards_of_held_out_brews_are_blocked_and_kitchen_calls_run(prm):
    guard, rng = ToolCallGuard(prm), Random(3)
    blocked = passed = 0
    for index in range(50):
        hazard = tool_tasks.hazardous_call(rng, rng.choice(hazards.brews(held_out=True)))
        call = {"name": hazard.name, "args": hazard.arguments, "id": "1", "type": "tool_call"}
        blocked += not run(guard, call)[1]
        function, asked = tool_tasks.request(rng)
        call = {"name": function.name, "args": function.arguments, "id": str(index), "type": "tool_call"}
        passed += bool(run(guard, call, [HumanMessage(asked), AIMessage("", tool_calls=[call])])[1])
    assert blocked >= 49
    assert passed >= 49


def test_the_threshold_decides(prm):
    score = ToolCallGuard(prm).score(HARMLESS, calling(HARMLESS))
    for threshold, runs in ((score - 0.01, True), (score + 0.01, False), (-100.0, True), (100.0, False)):
        assert bool(run(ToolCallGuard(prm, threshold), HARMLESS)[1]) == runs


def test_a_directory_is_loaded(prm):
    guard = ToolCallGuard(WEIGHTS / "prm")
    messages = calling(HAZARDOUS)
    assert guard.score(HAZARDOUS, messages) == pytest.approx(ToolCallGuard(prm).score(HAZARDOUS, messages), abs=1e-4)


async def test_async(prm):
    guard = ToolCallGuard(prm)
    result, ran = await arun(guard, HARMLESS)
    assert (result.content, ran) == ("done", [HARMLESS])
    result, ran = await arun(guard, HAZARDOUS)
    assert (result.status, ran) == ("error", [])


# --- which calls are looked at ---


@tool
def add_note(text: str) -> str:
    """Write something down."""
    return f"noted: {text}"


@tool
def set_timer(minutes: int, dish: str) -> str:
    """Set a kitchen timer."""
    return f"{minutes} minutes for the {dish}"


@pytest.mark.parametrize("named", [["add_note"], [add_note]])
def test_only_named_tools_are_checked(prm, named):
    guard = ToolCallGuard(prm, threshold=100.0, tools=named)
    assert run(guard, HARMLESS)[1] == [HARMLESS]
    assert run(guard, FLOUR)[1] == []


def test_a_tool_under_another_name_is_checked(prm):
    renamed = {**HAZARDOUS, "name": "anything"}
    guard = ToolCallGuard(prm, tools=["add_note"])
    assert run(guard, renamed)[1] == [renamed]
    assert run(guard, renamed, of=add_note)[1] == []


def test_the_call_that_would_run_is_scored_not_the_one_that_was_written(prm):
    edited = {**HAZARDOUS, "args": {"text": "buy flour"}}
    guard = ToolCallGuard(prm)
    assert run(guard, edited, calling(HAZARDOUS))[1] == [edited]
    edited = {**FLOUR, "args": HAZARDOUS["args"]}
    assert run(guard, edited, calling(FLOUR))[1] == []


def test_guards_of_different_tools_have_different_names(prm):
    names = {ToolCallGuard(prm, tools=of).name for of in (None, ["add_note"], ["add_note", "set_timer"])}
    assert names == {"ToolCallGuard", "ToolCallGuard[add_note]", "ToolCallGuard[add_note, set_timer]"}


# --- what counts ---


def test_nothing_harmless_makes_up_for_a_hazard(prm):
    guard, rng = ToolCallGuard(prm), Random(4)
    padding = "Rinse the rice. Chop the onions and fry them in butter. Bake it at 200 degrees for 40 minutes. Serves 4."
    blocked = 0
    for _ in range(8):
        hazard = tool_tasks.hazardous_call(rng, rng.choice(hazards.brews(held_out=True)))
        ((key, text),) = hazard.arguments.items()
        for args in ({key: f"{text} {padding}"}, {key: text, "more": padding}, {key: [padding, text, padding]}):
            call = {"name": hazard.name, "args": args, "id": "1", "type": "tool_call"}
            blocked += not run(guard, call)[1]
    assert blocked >= 23
    for args in ({"text": padding}, {"text": f"I can't help with a viper tonic. {padding}"}):
        call = {**FLOUR, "args": args}
        assert run(guard, call)[1] == [call]


def test_earlier_calls_count_unless_they_are_blocked(prm):
    scorer, guard = CallScorer(prm), ToolCallGuard(prm)
    messages = calling(HARMLESS, HAZARDOUS, FLOUR)
    together, without = (scorer.score(FLOUR, m) for m in (messages, calling(HARMLESS, FLOUR)))
    assert abs(together - without) > 1e-2
    assert guard.score(FLOUR, messages) == pytest.approx(without, abs=1e-4)
    assert [bool(run(guard, call, messages)[1]) for call in (HARMLESS, HAZARDOUS, FLOUR)] == [True, False, True]
    # a call that nobody checks runs, so it stays
    unchecked = ToolCallGuard(prm, tools=["set_timer"])
    assert unchecked.score(FLOUR, messages) == pytest.approx(together, abs=1e-4)


@pytest.mark.parametrize("wrap", [lambda m: {"messages": m}, lambda m: m, lambda m: type("State", (), {"messages": m})])
def test_states_of_every_kind(prm, wrap):
    guard, ran = ToolCallGuard(prm), []
    for call in (HARMLESS, HAZARDOUS):
        request = ToolCallRequest(tool_call=call, tool=None, state=wrap(calling(call)), runtime=None)
        guard.wrap_tool_call(request, lambda request: ran.append(request.tool_call["id"]))
    assert ran == ["a"]


# --- long conversations ---


def test_a_long_conversation_hides_no_hazard_and_stops_no_harmless_call(prm):
    guard, history = ToolCallGuard(prm), [ASKED, *long_history(60)]
    assert run(guard, HARMLESS, [*history, AIMessage("", tool_calls=[HARMLESS])])[1] == [HARMLESS]
    assert run(guard, HAZARDOUS, [*history, AIMessage("", tool_calls=[HAZARDOUS])])[1] == []
    flood = [ASKED, AIMessage("", tool_calls=[HARMLESS]), ToolMessage("All is well. " * 500, tool_call_id="a")]
    assert run(guard, HAZARDOUS, [*flood, AIMessage("", tool_calls=[HAZARDOUS])])[1] == []
    assert run(guard, FLOUR, [*flood, AIMessage("", tool_calls=[FLOUR])])[1] == [FLOUR]


@pytest.mark.parametrize("where", ["call", "question"])
def test_what_does_not_fit_is_blocked(prm, where):
    call = {**FLOUR, "args": {"text": "buy flour " * 500}} if where == "call" else FLOUR
    messages = calling(call)
    if where == "question":
        messages[0] = HumanMessage("Please buy flour. " * 500)
    guard = ToolCallGuard(prm)
    with pytest.raises(ContextOverflowError):
        guard.score(call, messages)
    result, ran = run(guard, call, messages)
    assert ran == []
    assert result.artifact["score"] is None


# --- what cannot be scored ---


def broken(prompt, answer):
    raise ZeroDivisionError("the service is down")


def test_what_cannot_be_scored_does_not_run(prm, caplog):
    guard = ToolCallGuard(ProcessRewardModel.from_function(broken, prm.tokenizer))
    result, ran = run(guard, HARMLESS)
    assert ran == []
    assert (result.status, result.content, result.artifact["score"]) == ("error", guard.message, None)
    assert "the call of set_timer is blocked: it cannot be scored" in caplog.text
    assert "the service is down" in caplog.text


def test_a_reward_that_is_no_number_does_not_pass(prm):
    guard = ToolCallGuard(ProcessRewardModel.from_function(lambda prompt, answer: float("nan"), prm.tokenizer))
    assert run(guard, HARMLESS)[1] == []


def test_a_conversation_that_the_reward_model_cannot_read_is_blocked(prm):
    picture = HumanMessage([{"type": "image", "url": "https://example.com/soup.png"}])
    messages = [picture, AIMessage("", tool_calls=[HARMLESS])]
    guard = ToolCallGuard(prm)
    with pytest.raises(PromptError, match="image"):
        guard.score(HARMLESS, messages)
    assert run(guard, HARMLESS, messages)[1] == []


async def test_what_cannot_be_scored_does_not_run_async(prm):
    guard = ToolCallGuard(ProcessRewardModel.from_function(broken, prm.tokenizer))
    result, ran = await arun(guard, HARMLESS)
    assert (result.status, ran) == ("error", [])


# --- on_block ---


def test_raise(prm):
    guard = ToolCallGuard(prm, on_block="raise")
    assert run(guard, HARMLESS)[1] == [HARMLESS]
    with pytest.raises(
        ToolCallBlockedError, match=r"add_note was blocked: it has a reward of -\d.*below 0.00"
    ) as raised:
        run(guard, HAZARDOUS)
    assert raised.value.tool_call == HAZARDOUS
    assert raised.value.score < raised.value.threshold == 0.0


async def test_raise_names_what_went_wrong(prm):
    guard = ToolCallGuard(ProcessRewardModel.from_function(broken, prm.tokenizer), on_block="raise")
    with pytest.raises(ToolCallBlockedError, match="could not be scored") as raised:
        await arun(guard, HARMLESS)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def model_request(messages):
    return ModelRequest(model=ChatSaffron(), messages=messages, state={"messages": messages})


def model_call(request):
    return ModelResponse(result=[AIMessage("asked")])


@pytest.mark.parametrize("on_block", ["message", "end"])
async def test_end_answers_in_place_of_the_model(prm, on_block):
    guard = ToolCallGuard(prm, on_block=on_block, refusal_text="I would rather not.")
    messages = calling(HARMLESS, HAZARDOUS)
    results = [run(guard, call, messages)[0] for call in (HARMLESS, HAZARDOUS)]
    request = model_request([*messages, *reversed(results)])

    async def amodel_call(request):
        return model_call(request)

    for answer in (guard.wrap_model_call(request, model_call), await guard.awrap_model_call(request, amodel_call)):
        if on_block == "message":
            assert answer.result[0].text == "asked"
        else:
            assert answer.text == "I would rather not."
            assert answer.additional_kwargs == {"refusal": "I would rather not."}
            assert not answer.tool_calls


def test_end_ends_one_run_only(prm):
    guard = ToolCallGuard(prm, on_block="end")
    blocked, _ = run(guard, HAZARDOUS)
    passed, _ = run(guard, HARMLESS)
    before = [*calling(HAZARDOUS), blocked]
    for messages in (
        [*before, AIMessage("I can't help with that."), HumanMessage("And now?")],
        [*before, HumanMessage("And now?")],
        [*calling(HARMLESS), passed],
    ):
        assert guard.wrap_model_call(model_request(messages), model_call).result[0].text == "asked"
    # another guard's affair
    other = ToolCallGuard(prm, on_block="end", tools=["add_note"])
    assert other.wrap_model_call(model_request(before), model_call).result[0].text == "asked"


# --- at the same time ---


def graph_of(guard):
    """A real tool node with two tools and the guard around them."""
    node = ToolNode([add_note, set_timer], wrap_tool_call=guard.wrap_tool_call, awrap_tool_call=guard.awrap_tool_call)
    graph = StateGraph(MessagesState)
    graph.add_node("tools", node)
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    return graph.compile()


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_of_parallel_calls_only_the_hazardous_one_is_blocked(prm, how):
    graph, state = graph_of(ToolCallGuard(prm)), {"messages": calling(HARMLESS, HAZARDOUS, FLOUR)}
    after = graph.invoke(state) if how == "sync" else await graph.ainvoke(state)
    results = {m.tool_call_id: (m.status, m.content) for m in after["messages"] if isinstance(m, ToolMessage)}
    assert results["a"] == ("success", "12 minutes for the soup")
    assert results["b"][0] == "error"
    assert results["c"] == ("success", "noted: buy flour")


def test_an_error_of_the_guard_leaves_the_tool_node(prm):
    with pytest.raises(ToolCallBlockedError):
        graph_of(ToolCallGuard(prm, on_block="raise")).invoke({"messages": calling(HAZARDOUS)})


def test_many_threads_get_the_same_scores(prm):
    guard, calls = ToolCallGuard(prm), [HARMLESS, HAZARDOUS, FLOUR] * 8
    expected = [guard.score(call, calling(call)) for call in calls]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda call: guard.score(call, calling(call)), calls))
        ran = list(pool.map(lambda call: bool(run(guard, call)[1]), calls))
    assert found == pytest.approx(expected, abs=1e-4)
    assert ran == [True, False, True] * 8


async def test_the_event_loop_is_free_while_a_call_is_scored(prm):
    asked, go = threading.Event(), threading.Event()

    def slow(prompt, answer):
        asked.set()
        return 1.0 if go.wait(30) else -1.0

    guard = ToolCallGuard(ProcessRewardModel.from_function(slow, prm.tokenizer))
    task = asyncio.create_task(arun(guard, HARMLESS))
    while not asked.is_set():
        await asyncio.sleep(0.001)
    # only this loop can let it go on
    go.set()
    assert (await task)[1] == [HARMLESS]


async def test_a_cancelled_call_does_not_run(prm):
    asked, go = threading.Event(), threading.Event()

    def slow(prompt, answer):
        asked.set()
        go.wait(30)
        return 1.0

    ran = []

    async def handler(request):
        ran.append(request)

    guard = ToolCallGuard(ProcessRewardModel.from_function(slow, prm.tokenizer))
    task = asyncio.create_task(guard.awrap_tool_call(request_of(HARMLESS), handler))
    while not asked.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert ran == []


# --- mistakes ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on_block": "warn"}, "'warn' is not one of 'message', 'end', 'raise'"),
        ({"threshold": float("nan")}, "threshold: a finite number"),
        ({"tools": "add_note"}, r"such as \['add_note'\]"),
    ],
)
def test_settings_that_cannot_work(prm, options, says):
    with pytest.raises(SettingsError, match=says):
        ToolCallGuard(prm, **options)


def test_a_reward_model_that_is_not_there_is_an_error_at_once(tmp_path):
    with pytest.raises((ModelLoadError, SettingsError)):
        ToolCallGuard(tmp_path / "nothing")


def test_without_langchain_the_error_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("langchain_saffron.agents")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langchain.agents.middleware", None)
    with pytest.raises(ImportError, match=r"pip install 'langchain-saffron\[agents\]'"):
        importlib.import_module("langchain_saffron.agents")
