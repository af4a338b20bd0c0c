"""Tool calls, structured output and response formats of ChatSaffron around random models, which know neither."""

import asyncio
import json
import re
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
import torch
from jsonschema import validate
from langchain_core.exceptions import ModelRefusalError, OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.tools import tool
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import TypedDict

from langchain_saffron import ChatSaffron, ComputeBudget, MultifurcationRewardModel, SaffronEngine, SaffronLLM
from langchain_saffron.errors import BudgetError, PromptError, SettingsError
from langchain_saffron.grammar import Grammar
from langchain_saffron.interface.structured_output import StructuredOutputParser
from langchain_saffron.shared_budget import SharedBudget
from unit_tests.builders import CHATML, byte_level_tokenizer
from unit_tests.tiny_models import random_model

EFFORTS = ["off", "low", *(pytest.param(effort, marks=pytest.mark.slow) for effort in ("medium", "high"))]


@tool
def set_timer(minutes: Annotated[int, Field(ge=0, le=600)], dish: Literal["soup", "pie"]) -> str:
    """Set a timer."""
    return f"{dish}: {minutes}"


@tool
def list_timers() -> str:
    """All timers."""
    return "none"


class Size(BaseModel):
    """How much of it."""

    grams: int = Field(ge=0, le=999)


class Ingredient(BaseModel):
    """An ingredient."""

    kind: Literal["herb", "vegetable"]
    fresh: bool
    size: Size | None = None


class IngredientDict(TypedDict):
    """An ingredient."""

    kind: Literal["herb", "vegetable"]
    fresh: bool


class Course(Enum):
    SOUP = "soup"


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    # a vocabulary with all the markers, and an end token that no text needs
    tokenizer = byte_level_tokenizer(vocab_size=300)
    shape = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(len(tokenizer), generator=generator) < 0.9
    rewards = MultifurcationRewardModel(
        random_model("llama", 1, **shape), tokenizer, torch.randn(len(tokenizer), generator=generator) + 2, seen
    )
    return SaffronEngine(random_model("llama", **shape), tokenizer, rewards)


@pytest.fixture
def chat(engine: SaffronEngine) -> ChatSaffron:
    return ChatSaffron(engine=engine, chat_template=CHATML, tool_format="hermes", max_tokens=160)


def added(chunks: Any) -> AIMessageChunk:
    first, *rest = chunks
    for chunk in rest:
        first = first + chunk
    return first


# --- tools ---


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("choice", ["any", "set_timer", "list_timers", True])
def test_a_forced_call_is_one_whatever_the_model_knows(chat: ChatSaffron, effort: str, choice: Any):
    bound = chat.bind_tools([set_timer, list_timers], tool_choice=choice, parallel_tool_calls=False, effort=effort)
    answer = bound.invoke("Hello!")
    assert answer.content == ""
    assert answer.invalid_tool_calls == []
    (call,) = answer.tool_calls
    assert choice not in ("set_timer", "list_timers") or call["name"] == choice
    if call["name"] == "set_timer":
        validate(call["args"], set_timer.args_schema.model_json_schema())
        assert set_timer.invoke(call["args"])
    else:
        assert call["args"] == {}
    assert re.fullmatch(r"call_[0-9a-f]{24}", call["id"])


@pytest.mark.parametrize("effort", EFFORTS)
async def test_a_streamed_call_is_the_invoked_one(chat: ChatSaffron, effort: str):
    bound = chat.bind_tools([set_timer], tool_choice="any", parallel_tool_calls=False, effort=effort)
    whole = bound.invoke("Hello!")
    for chunks in (list(bound.stream("Hello!")), [chunk async for chunk in bound.astream("Hello!")]):
        total = added(chunks)
        assert [call["args"] for call in total.tool_calls] == [call["args"] for call in whole.tool_calls]
        assert [call["name"] for call in total.tool_calls] == ["set_timer"]
        assert not any(chunk.text and chunk.tool_call_chunks for chunk in chunks)
        # the arguments come while they are written, the name with the first piece only
        pieces = [piece for chunk in chunks for piece in chunk.tool_call_chunks]
        assert len(pieces) > 3
        assert [piece["name"] for piece in pieces if piece["name"]] == ["set_timer"]
        assert {piece["index"] for piece in pieces} == {0}
        assert sum(bool(chunk.usage_metadata) for chunk in chunks) == 1


def test_streamed_calls_reach_callbacks(chat: ChatSaffron):
    from langchain_core.callbacks import BaseCallbackHandler

    class Listener(BaseCallbackHandler):
        pieces = 0

        def on_llm_new_token(self, token: str, *, chunk: Any = None, **kwargs: Any) -> None:
            self.pieces += len(chunk.message.tool_call_chunks)

    listener = Listener()
    bound = chat.bind_tools([set_timer], tool_choice="any")
    chunks = list(bound.stream("Hello!", config={"callbacks": [listener]}))
    assert listener.pieces == sum(len(chunk.tool_call_chunks) for chunk in chunks) > 0


def test_none_shows_no_tools_and_calls_none(chat: ChatSaffron):
    bound = chat.bind_tools([set_timer], tool_choice="none", max_tokens=20)
    answer, plain = bound.invoke("Hello!"), chat.invoke("Hello!", max_tokens=20)
    assert answer.tool_calls == []
    assert answer.text == plain.text
    assert answer.usage_metadata["input_tokens"] == plain.usage_metadata["input_tokens"]


@pytest.mark.parametrize("ends_by", ["max_tokens", "max_reward_calls"])
def test_a_call_that_is_cut_is_no_call(chat: ChatSaffron, ends_by: str):
    limits = {"max_tokens": 24} if ends_by == "max_tokens" else {"max_reward_calls": 24, "on_budget": "stop"}
    bound = chat.bind_tools([set_timer], tool_choice="set_timer", effort="low", **limits)
    whole, total = bound.invoke("Hello!"), added(bound.stream("Hello!"))
    for answer in (whole, total):
        assert answer.tool_calls == []
        assert len(answer.invalid_tool_calls) == 1
        assert answer.invalid_tool_calls[0]["name"] in ("set_timer", None)
    (spoiled,) = whole.invalid_tool_calls
    assert ("max_tokens" if ends_by == "max_tokens" else "budget") in spoiled["error"]
    assert whole.response_metadata["finish_reason"] == ("length" if ends_by == "max_tokens" else "budget")


def test_a_refusal_within_a_call_is_text(chat: ChatSaffron):
    bound = chat.bind_tools([set_timer], tool_choice="any", effort="low", refusal_threshold=1e6, refusal_text="No.")
    whole, total = bound.invoke("Hello!"), added(bound.stream("Hello!"))
    for answer in (whole, total):
        assert answer.tool_calls == []
        assert answer.text == "No."
        assert answer.additional_kwargs["refusal"] == "No."


def test_history_with_calls_and_results_is_part_of_the_prompt(chat: ChatSaffron):
    call = {"name": "set_timer", "args": {"minutes": 3, "dish": "pie"}, "id": "call_1"}
    history = [
        HumanMessage("A timer, please."),
        AIMessage("", tool_calls=[call]),
        ToolMessage("pie: 3", tool_call_id="call_1"),
    ]
    bound = chat.bind_tools([set_timer], max_tokens=10)
    assert (
        bound.invoke(history).usage_metadata["input_tokens"] > bound.invoke(history[:1]).usage_metadata["input_tokens"]
    )
    tokens = chat.get_num_tokens_from_messages(history, tools=[set_timer])
    assert tokens == bound.invoke(history).usage_metadata["input_tokens"]
    assert tokens > chat.get_num_tokens_from_messages(history)


def test_a_template_without_tools_says_so(engine: SaffronEngine):
    with pytest.raises(PromptError, match="tool_format"):
        ChatSaffron(engine=engine, chat_template=CHATML).bind_tools([set_timer]).invoke("Hello!")


def test_bad_tools_are_refused_when_they_are_bound(chat: ChatSaffron):
    with pytest.raises(SettingsError, match="tool_choice"):
        chat.bind_tools([set_timer], tool_choice="no_such_tool")
    with pytest.raises(SettingsError, match="tools"):
        chat.bind_tools([3])
    with pytest.raises(ValidationError, match="tool_format"):
        ChatSaffron(engine=chat.engine, tool_format="smoke signals")


# --- structured output ---


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(
    "schema", [Ingredient, IngredientDict, Ingredient.model_json_schema()], ids=["class", "typed", "json"]
)
def test_structured_output_is_an_object_of_the_schema(chat: ChatSaffron, effort: str, method: Any, schema: Any):
    model = chat.with_structured_output(schema, method=method, effort=effort)
    value = model.invoke("Hello!")
    if schema is Ingredient:
        assert isinstance(value, Ingredient)
    else:
        validate(value, Ingredient.model_json_schema())
    *_, last = model.stream("Hello!")
    assert last == value


async def test_structured_output_async(chat: ChatSaffron):
    model = chat.with_structured_output(Ingredient)
    value = await model.ainvoke("Hello!")
    assert [one async for one in model.astream("Hello!")][-1] == value


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_half_a_document_is_an_error_that_says_so(chat: ChatSaffron, method: Any):
    model = chat.with_structured_output(Ingredient, method=method, max_tokens=25, effort="low")
    with pytest.raises(OutputParserException, match="max_tokens"):
        model.invoke("Hello!")
    with pytest.raises(OutputParserException, match="max_tokens"):
        list(model.stream("Hello!"))
    raw = chat.with_structured_output(Ingredient, method=method, include_raw=True, max_tokens=25, effort="low")
    found = raw.invoke("Hello!")
    assert found["parsed"] is None
    assert "max_tokens" in str(found["parsing_error"])
    assert isinstance(found["raw"], AIMessage)


def test_a_refused_document_is_a_refusal(chat: ChatSaffron):
    model = chat.with_structured_output(Ingredient, refusal_threshold=1e6, refusal_text="No.")
    with pytest.raises(ModelRefusalError, match=r"No\."):
        model.invoke("Hello!")


def test_include_raw_holds_the_message(chat: ChatSaffron):
    found = chat.with_structured_output(Ingredient, include_raw=True).invoke("Hello!")
    assert found["parsing_error"] is None
    assert found["parsed"] == Ingredient.model_validate_json(found["raw"].text)


def test_json_mode_needs_no_schema(chat: ChatSaffron):
    # a random model never closes an object of its own accord
    model = chat.with_structured_output(method="json_mode", include_raw=True, temperature=1.0, seed=1, top_p=1.0)
    found = model.invoke("Hello!")
    assert isinstance(found["parsed"], dict) or "JSON document" in str(found["parsing_error"])
    assert found["raw"].text.startswith("{")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Course, int, list[int], dict, int | str, Literal["x"] | None], ids=str)
def test_a_type_that_is_no_class_of_fields_is_told_how_to_be_one(chat: ChatSaffron, method: Any, schema: Any):
    """LangChain takes an enumeration for a function of `value`, which holds none of its members."""
    with pytest.raises(SettingsError, match=r"RootModel\["):
        chat.with_structured_output(schema, method=method)


def test_a_call_in_place_of_a_document_is_named():
    message = AIMessage("", tool_calls=[{"name": "set_timer", "args": {}, "id": "1"}])
    with pytest.raises(OutputParserException, match="the model calls set_timer first"):
        StructuredOutputParser(target=dict).parse_result([ChatGeneration(message=message)])


def test_unknown_methods_and_options_are_refused(chat: ChatSaffron):
    with pytest.raises(SettingsError, match="method"):
        chat.with_structured_output(Ingredient, method="telepathy")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="schema"):
        chat.with_structured_output()
    with pytest.raises(ValueError, match="efort"):
        chat.with_structured_output(Ingredient, efort="low").invoke("Hello!")


# --- response formats ---


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"type": "regex", "regex": r"[a-c]{3}-\d\d"}, r"[a-c]{3}-\d\d"),
        ({"type": "lark", "lark": 'start: "yes" | "no"'}, "yes|no"),
        (Grammar.regex("x{2,4}"), "x{2,4}"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, 2]}}}, "[12]"),
        ({"type": "boolean"}, "true|false"),
    ],
)
def test_answers_have_the_form_that_is_asked_for(chat: ChatSaffron, form: Any, pattern: str):
    assert re.fullmatch(pattern, chat.invoke("Hello!", response_format=form).text)
    assert re.fullmatch(
        pattern, ChatSaffron(engine=chat.engine, chat_template=CHATML, response_format=form).invoke("?").text
    )
    assert re.fullmatch(pattern, SaffronLLM(engine=chat.engine, max_tokens=20).invoke("Once", response_format=form))


def test_plain_text_is_no_form(chat: ChatSaffron):
    assert (
        chat.invoke("Hello!", response_format={"type": "text"}, max_tokens=9).text
        == chat.invoke("Hello!", max_tokens=9).text
    )


@pytest.mark.parametrize("form", [3, {"type": "json_schema"}, {"type": "regex"}, {"colour": "red"}, "json"])
def test_unknown_forms_are_refused_at_once(engine: SaffronEngine, form: Any):
    with pytest.raises(ValidationError, match="response_format"):
        ChatSaffron(engine=engine, response_format=form)


@pytest.mark.slow
def test_calls_or_a_document(chat: ChatSaffron):
    form = {"type": "json_schema", "json_schema": {"name": "d", "schema": IngredientSchema}}
    bound = chat.bind_tools(
        [set_timer], response_format=form, parallel_tool_calls=False, effort="off", temperature=3.0, top_p=1.0
    )
    kinds = set()
    for seed in range(12):
        answer = bound.invoke("Hello!", seed=seed)
        if answer.tool_calls:
            kinds.add("call")
            validate(answer.tool_calls[0]["args"], set_timer.args_schema.model_json_schema())
        else:
            kinds.add("document")
            validate(json.loads(answer.text), IngredientSchema)
    assert kinds == {"call", "document"}


IngredientSchema = {
    "type": "object",
    "properties": {"kind": {"enum": ["herb", "vegetable"]}, "fresh": {"type": "boolean"}},
    "required": ["kind", "fresh"],
}


# --- a budget over several calls ---


def test_calls_share_a_budget(engine: SaffronEngine):
    shared = SharedBudget(ComputeBudget(max_reward_calls=60), calls=3)
    chat = ChatSaffron(
        engine=engine, chat_template=CHATML, shared_budget=shared, max_tokens=8, min_tokens=8, effort="high"
    )
    spent = [chat.invoke("Hello!").response_metadata["saffron"]["reward_calls"] for _ in range(3)]
    assert sum(spent) == shared.spent.reward_calls <= 60
    assert min(spent) >= 8
    chunks = []
    try:
        chunks = list(chat.stream("Hello!"))
    except BudgetError:
        assert shared.left.reward_calls == 0
    assert shared.spent.reward_calls <= 60
    assert chat.get_num_tokens("Hello") > 0
    # what is left of it decides what an answer may cost
    assert chat._identifying_params["shared_budget"] is not None
    assert chunks is not None


async def test_a_cancelled_call_has_spent_its_share(engine: SaffronEngine):
    shared = SharedBudget(ComputeBudget(max_reward_calls=40), calls=2)
    chat = ChatSaffron(
        engine=engine, chat_template=CHATML, shared_budget=shared, max_tokens=19, min_tokens=19, effort="low"
    )
    stream = chat.astream("Hello!")
    await anext(stream)
    await stream.aclose()
    for _ in range(200):
        if shared.spent.reward_calls:
            break
        await asyncio.sleep(0.01)
    assert shared.spent.reward_calls == 20
    answer = await chat.ainvoke("Hello!")
    assert shared.spent.reward_calls == 20 + answer.response_metadata["saffron"]["reward_calls"]


# --- the profile ---


def test_profile_tells_what_is_there(chat: ChatSaffron):
    profile = ChatSaffron().profile
    assert [profile[name] for name in ("tool_calling", "tool_choice", "structured_output")] == [True] * 3
    assert ChatSaffron(chat_template=CHATML).profile["tool_calling"] is False
    assert ChatSaffron(chat_template=CHATML, tool_format="hermes").profile["tool_calling"] is True
    assert chat.profile["tool_calling"] is True
    assert chat.profile["max_input_tokens"] == 2048
    assert "tool_calling" not in ChatSaffron(model="some/model-on-the-hub", effort="off").profile
