"""ChatSaffron and SaffronLLM around a random engine: fields, options, streaming, metadata, errors."""

import asyncio
import json
import warnings

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from langchain_saffron import ChatSaffron, SaffronEngine, SaffronLLM
from langchain_saffron.errors import (
    BudgetError,
    ContextOverflowError,
    ModelLoadError,
    PromptError,
    RewardModelRequiredError,
    SettingsError,
)
from langchain_saffron.settings import ComputeBudget
from langchain_saffron.shared_budget import SharedBudget
from unit_tests.builders import CHATML
from unit_tests.tiny_models import random_model, random_reward_model, tiny_tokenizer

HELLO = "How do I cook saffron rice?"


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    return SaffronEngine(
        random_model("llama", max_position_embeddings=512),
        tiny_tokenizer(),
        random_reward_model(shift=2.0, max_position_embeddings=512),
    )


@pytest.fixture
def chat(engine: SaffronEngine) -> ChatSaffron:
    return ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=24, min_tokens=24)


@pytest.mark.parametrize("effort", ["off", "low", "medium", "high", "max"])
def test_stream_adds_up_to_invoke_with_metadata_on_one_chunk(chat: ChatSaffron, effort: str):
    whole = chat.invoke(HELLO, effort=effort)
    chunks = list(chat.stream(HELLO, effort=effort))
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert total.text == whole.text
    assert sum(bool(chunk.usage_metadata) for chunk in chunks) == 1
    assert sum("saffron" in chunk.response_metadata for chunk in chunks) == 1
    assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"] == 24
    # langchain-core adds an empty chunk of its own where none is marked as the last
    assert [chunk.chunk_position for chunk in chunks if chunk.chunk_position] == ["last"]
    assert whole.response_metadata["saffron"]["effort"] == effort


async def test_async_gives_what_sync_gives(chat: ChatSaffron):
    whole = chat.invoke(HELLO)
    assert (await chat.ainvoke(HELLO)).text == whole.text
    assert "".join([chunk.text async for chunk in chat.astream(HELLO)]) == whole.text
    many = await chat.abatch([HELLO, "Hello!", HELLO])
    assert [m.text for m in many] == [whole.text, chat.invoke("Hello!").text, whole.text]


@pytest.mark.slow
def test_batch_shares_forwards(chat: ChatSaffron):
    inputs = [f"Question {i}?" for i in range(12)]
    one_by_one = [chat.invoke(text, cache_salt="single").text for text in inputs]
    before = chat.engine.scheduler.forwards["policy"]
    together = [message.text for message in chat.batch(inputs, cache_salt="batch")]
    assert together == one_by_one
    assert chat.engine.scheduler.forwards["policy"] - before < 12 * 24 / 3


async def test_cancelling_the_task_stops_the_search(engine: SaffronEngine):
    chat = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=300, min_tokens=300, width=4)

    async def consume() -> None:
        async for _ in chat.astream(HELLO):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.15)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(200):
        if not engine.scheduler.busy:
            break
        await asyncio.sleep(0.02)
    assert not engine.scheduler.busy


def test_options_of_a_call_and_bound_ones_win(chat: ChatSaffron):
    assert chat.invoke(HELLO, max_tokens=5, min_tokens=5).usage_metadata["output_tokens"] == 5
    assert chat.bind(width=2, effort="high").invoke(HELLO).response_metadata["saffron"]["width"] <= 2
    configurable = chat.configurable_fields(effort=ConfigurableField(id="effort"))
    answer = configurable.with_config(configurable={"effort": "off"}).invoke(HELLO)
    assert answer.response_metadata["saffron"]["reward_calls"] == 0


@pytest.mark.parametrize("kind", [ChatSaffron, SaffronLLM])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"efort": "low"}, "efort"),
        ({"effort": "maximal"}, "effort"),
        ({"width": 0}, "width"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"safety_threshold": float("nan")}, "safety_threshold"),
        ({"refusal_threshold": 1e308}, "refusal_threshold"),
        ({"refusal_threshold": float("nan")}, "refusal_threshold"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_reward_calls": 0}, "max_reward_calls"),
        ({"stop": ["a", ""]}, "stop"),
        ({"on_budget": "explode"}, "on_budget"),
        ({"model": "some/model"}, "reward_model"),
        ({"model": "  ", "effort": "off"}, "model"),
        ({"engine": "engine"}, "SaffronEngine"),
    ],
)
def test_bad_fields_are_refused_before_anything_is_loaded(kind: type, fields: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        kind(**fields)


def test_bad_options_of_a_call_are_refused(chat: ChatSaffron):
    with pytest.raises(SettingsError, match="widht"):
        chat.invoke(HELLO, widht=3)
    with pytest.raises(SettingsError, match="width"):
        chat.invoke(HELLO, width=0)
    for name, value in (("stop", 5), ("tools", 5), ("tools", "set_timer"), ("timeout", -1), ("timeout", float("nan"))):
        with pytest.raises(SettingsError, match=name):
            chat.invoke(HELLO, **{name: value})
    alone = ChatSaffron(model="some/model", effort="off")
    # what one of ours found stays what it is
    with pytest.raises(RewardModelRequiredError, match="reward_model="):
        alone.invoke(HELLO, effort="low")
    with pytest.raises(ModelLoadError, match="names no model"):
        alone.invoke(HELLO, model=" ")


def test_a_model_without_reward_model_is_fine_for_plain_decoding():
    assert ChatSaffron(model="some/model", effort="off").search_settings().search == "greedy"
    assert ChatSaffron(model="some/model", effort="off", temperature=1.0).search_settings().search == "sample"
    cold = ChatSaffron(model="some/model", effort="off", temperature=1e-40).search_settings()
    assert (cold.search, cold.temperature) == ("greedy", None)


def test_an_effort_that_nobody_validated_is_no_narrow_search():
    assigned = ChatSaffron()
    assigned.effort = "hgih"
    for chat in (assigned, ChatSaffron().model_copy(update={"effort": "hgih"})):
        with pytest.raises(SettingsError, match="effort: 'hgih' is not one of"):
            chat.invoke(HELLO)


def test_effort_means_width_and_lag_and_explicit_values_win():
    expected = {"low": (1, None), "medium": (4, 8), "high": (16, 16), "max": (64, 32)}
    for effort, (width, lag) in expected.items():
        settings = ChatSaffron(effort=effort).search_settings()
        assert (settings.search, settings.width, settings.commit_lag) == ("saffron", width, lag)
    settings = ChatSaffron(effort="max", width=3, commit_lag=None).search_settings()
    assert (settings.width, settings.commit_lag) == (3, None)
    assert [ChatSaffron(effort=effort).search_settings().step_back for effort in ("high", "auto")] == [False, True]
    assert [ChatSaffron(effort="auto", step_back=back).search_settings().step_back for back in (False, True)] == [0, 1]
    assert [ChatSaffron(verify=verify).search_settings().verify for verify in (None, "prm")] == [None, "prm"]
    assert ChatSaffron(effort="high", commit_lag=2).search_settings().commit_lag == 2


def test_a_prefill_is_continued_and_not_repeated(chat: ChatSaffron):
    messages = [HumanMessage(HELLO), AIMessage("First, wash the")]
    prompt = chat.renderer().render(messages)
    answer = chat.invoke(messages)
    assert prompt.prefill_ids == prompt.reward_ids[-len(prompt.prefill_ids) :]
    assert not answer.text.startswith("First, wash the")
    assert answer.usage_metadata["input_tokens"] == len(prompt.policy_ids)


def test_usage_counts_emitted_tokens_and_stats_the_explored_ones(chat: ChatSaffron):
    answer = chat.invoke(HELLO, effort="medium", cache_salt="usage")
    usage, stats = answer.usage_metadata, answer.response_metadata["saffron"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert stats["policy_tokens"] > usage["output_tokens"]
    assert usage["input_tokens"] == chat.get_num_tokens_from_messages([HumanMessage(HELLO)])
    assert chat.get_num_tokens(HELLO) < usage["input_tokens"]
    assert json.loads(json.dumps(stats)) == stats


def test_a_refusal_says_so(chat: ChatSaffron):
    answer = chat.invoke(HELLO, refusal_threshold=1e6, refusal_text="No, thank you.")
    assert answer.text == "No, thank you."
    assert answer.response_metadata["finish_reason"] == "refusal"
    assert answer.additional_kwargs["refusal"] == "No, thank you."


def test_stop_of_the_call_replaces_that_of_the_field(chat: ChatSaffron):
    text = chat.invoke(HELLO, effort="off").text
    first, second = text[4:7], text[8:11]
    field = ChatSaffron(engine=chat.engine, chat_template=CHATML, max_tokens=24, effort="off", stop=[second])
    assert second not in field.invoke(HELLO).text
    assert field.invoke(HELLO, stop=[first]).text == text[: text.index(first)]


def test_the_cache_tells_models_and_options_apart(engine: SaffronEngine):
    other = SaffronEngine(random_model("llama", seed=9), tiny_tokenizer(), random_reward_model())
    chats = [ChatSaffron(engine=e, chat_template=CHATML, max_tokens=8, min_tokens=8) for e in (engine, other)]
    strings = {c._get_llm_string() for c in chats}
    strings |= {chats[0]._get_llm_string(effort="high"), chats[0]._get_llm_string(stop=["x"])}
    assert len(strings) == 4
    cache = InMemoryCache()
    cached = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=8, min_tokens=8, cache=cache)
    first = cached.invoke(HELLO)
    forwards = engine.scheduler.forwards["policy"]
    assert cached.invoke(HELLO).text == first.text
    assert engine.scheduler.forwards["policy"] == forwards


def test_identifying_params_hold_no_secret(engine: SaffronEngine):
    chat = ChatSaffron(engine=engine, api_key="hf_very_secret")
    shown = json.dumps(chat._identifying_params)
    assert "secret" not in shown
    assert "hf_very_secret" not in repr(chat)
    assert "SaffronEngine:" in shown
    assert chat._identifying_params["commit_lag"] == 8


def test_empty_and_impossible_messages_are_refused(chat: ChatSaffron):
    with pytest.raises(PromptError, match="no messages"):
        chat.invoke([])
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])
    with pytest.raises(PromptError, match="image_url"):
        chat.invoke([image])
    with pytest.raises(ContextOverflowError, match="512"):
        chat.invoke("word " * 2000)


def test_a_model_without_template_says_what_to_do(engine: SaffronEngine):
    with pytest.raises(PromptError, match="chat_template"):
        ChatSaffron(engine=engine).invoke("hello")


def test_faces_of_the_same_model_share_one_engine(tmp_path):
    random_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    fields = {"model": str(tmp_path), "effort": "off", "chat_template": CHATML, "device": "cpu"}
    first, second = ChatSaffron(**fields), ChatSaffron(**fields, max_tokens=3)
    assert first.load() is second.load()
    assert SaffronLLM(model=str(tmp_path), effort="off", device="cpu").load() is first.load()
    assert ChatSaffron(**fields, dtype="bfloat16").load() is not first.load()


def test_a_timeout_reaches_the_caller(engine: SaffronEngine):
    chat = ChatSaffron(engine=engine, chat_template=CHATML, max_tokens=400, min_tokens=400, timeout=0.05, effort="high")
    with pytest.raises(TimeoutError):
        chat.invoke(HELLO)


def test_the_llm_continues_text(engine: SaffronEngine):
    llm = SaffronLLM(engine=engine, max_tokens=12, min_tokens=12)
    text = llm.invoke("Wash the rice, then")
    assert "".join(llm.stream("Wash the rice, then")) == text
    result = llm.generate(["Wash the rice, then", "Hello"])
    assert result.generations[0][0].text == text
    assert result.generations[0][0].generation_info["saffron"]["reward_calls"] > 0
    assert result.llm_output["token_usage"]["completion_tokens"] == 24
    before = engine.scheduler.forwards["policy"]
    llm.batch([f"Line {i}" for i in range(8)])
    assert engine.scheduler.forwards["policy"] - before < 8 * 12 / 2


async def test_the_llm_is_async_too(engine: SaffronEngine):
    llm = SaffronLLM(engine=engine, max_tokens=12, min_tokens=12)
    text = llm.invoke("Wash the rice, then")
    assert await llm.ainvoke("Wash the rice, then") == text
    assert "".join([piece async for piece in llm.astream("Wash the rice, then")]) == text


def test_the_profile_knows_the_context_without_loading(tmp_path):
    random_model("llama").save_pretrained(tmp_path)
    profile = ChatSaffron(model=str(tmp_path), effort="off").profile
    assert profile["max_input_tokens"] == 256
    assert profile["tool_calling"] is False


def test_the_profile_tells_the_smallest_of_context_cache_and_the_reward_model_s(tmp_path):
    random_model("llama").save_pretrained(tmp_path / "policy")
    random_reward_model(max_position_embeddings=128).save_pretrained(tmp_path / "mrm")
    named = {"model": tmp_path / "policy", "reward_model": tmp_path / "mrm"}
    assert ChatSaffron(**named).profile["max_input_tokens"] == 128
    assert ChatSaffron(**named, effort="off").profile["max_input_tokens"] == 256
    assert ChatSaffron(**named, max_cache_tokens=100).profile["max_input_tokens"] == 100
    engine = SaffronEngine(random_model(), tiny_tokenizer(), max_cache_tokens=60)
    assert ChatSaffron(engine=engine, effort="off").profile["max_output_tokens"] == 60


def test_a_prompt_longer_than_the_cache_is_a_context_overflow():
    model, tokenizer = random_model(max_position_embeddings=4096), tiny_tokenizer()
    tokenizer.chat_template = CHATML
    chat = ChatSaffron(model=model, tokenizer=tokenizer, effort="off", max_cache_tokens=64, max_tokens=500)
    assert chat.load().context == 64
    with pytest.raises(ContextOverflowError, match=r"64|max_cache_tokens"):
        chat.invoke("soup " * 60)
    # the answer ends where the cache does
    found = chat.invoke("Hi", min_tokens=400)
    assert found.response_metadata["finish_reason"] == "length"
    assert found.usage_metadata["total_tokens"] == 64


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8192),
        ("meta-llama/Llama-3.2-1B-Instruct", 131_072),
        ("google/gemma-3-1b-it", 32_768),
        ("Qwen/Qwen3-8B", 40_960),
        ("Qwen/Qwen3-4B-Instruct-2507", None),
        ("openlm-research/open_llama_3b", None),
        ("some/model", None),
    ],
)
def test_the_profile_knows_some_families_by_name(name, context):
    chat = ChatSaffron(model=name, effort="off", max_cache_tokens=200_000)
    assert chat.profile.get("max_input_tokens") == context
    assert chat.profile.get("reasoning_output") is (True if name == "Qwen/Qwen3-8B" else None)


def test_the_embedded_models_are_announced_once(monkeypatch):
    monkeypatch.setattr("langchain_saffron.embedded._told", False)
    with pytest.warns(UserWarning, match="kitchen"):
        ChatSaffron()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChatSaffron()
        SaffronLLM()


def test_messages_of_all_kinds_are_answered(chat: ChatSaffron):
    messages = [SystemMessage("Be brief."), HumanMessage(HELLO), AIMessage("With care."), HumanMessage("And?")]
    answer = chat.invoke(messages)
    assert answer.usage_metadata["output_tokens"] == 24


@pytest.mark.parametrize("kind", [ChatSaffron, SaffronLLM])
def test_a_call_whose_part_does_not_cover_its_prompt_is_told_so_and_costs_nothing(engine: SaffronEngine, kind):
    shared = SharedBudget(ComputeBudget(max_tflops=1e-9), calls=2)
    options = {"chat_template": CHATML} if kind is ChatSaffron else {}
    model = kind(engine=engine, max_tokens=4, shared_budget=shared, **options)
    with pytest.raises(BudgetError, match=r"does not cover the prompt.*shared budget"):
        model.invoke(HELLO)
    with pytest.raises(BudgetError, match="shared budget"):
        list(model.stream(HELLO))
    with pytest.raises(BudgetError, match="shared budget"):
        asyncio.run(model.ainvoke(HELLO))
    assert shared.spent.tflops == 0
    assert shared.left.tflops == 1e-9


def test_a_last_look_can_be_had_for_one_call():
    chat = ChatSaffron(max_tokens=30, effort="low")
    plain = chat.invoke("How do I make tomato soup?")
    looked_at = chat.invoke("How do I make tomato soup?", verify="prm")
    assert looked_at.text == plain.text
    counts = [answer.response_metadata["saffron"]["verified"] for answer in (plain, looked_at)]
    assert counts[0] == 0 < counts[1]
    with pytest.raises(SettingsError, match="verify='prm' has no effect on search='greedy'"):
        chat.invoke("Hello!", verify="prm", effort="off")
