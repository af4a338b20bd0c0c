"""What tells two answers apart: every field, every option, everything that an engine computes with."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.caches import BaseCache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel, create_model

from langchain_saffron import ChatSaffron, ComputeBudget, SaffronEngine, SaffronLLM
from langchain_saffron.engine import registry
from langchain_saffron.engine.registry import shared_engine
from langchain_saffron.grammar import Grammar
from langchain_saffron.interface.response_format import read_response_format
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.models.guard_function import conversation_guard
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.shared_budget import SharedBudget
from unit_tests.builders import CHATML
from unit_tests.tiny_models import random_model, random_prm, random_reward_model, tiny_tokenizer

KINDS = [ChatSaffron, SaffronLLM]
NAMED = {"model": "some/policy", "reward_model": "some/mrm", "process_reward_model": "some/guard"}

# another value of every field that an answer depends on
OTHER: dict[str, Any] = {
    "model": "other/policy", "reward_model": "other/mrm", "reward_base": "other/base",
    "process_reward_model": "other/guard", "tokenizer": "other/tokenizer", "device": "cuda:7", "dtype": "bfloat16",
    "device_map": "auto", "attn_implementation": "eager", "quantization_config": {"load_in_8bit": True},
    "revision": "v2", "trust_remote_code": True, "chat_template": CHATML, "temperature": 0.5, "top_p": 0.5,
    "max_tokens": 7, "min_tokens": 2, "stop": ["x"], "seed": 7, "search": "rebase", "effort": "high", "width": 3,
    "min_width": 2, "width_floor": 2,
    "ranking": "paper", "mask": "soft", "safety_threshold": 1.5, "safety_weight": 1.0, "refusal_threshold": 0.0,
    "refusal_text": "No.", "step_back": True, "verify": "prm", "commit_lag": 3, "max_tflops": 1.0, "max_seconds": 1.0,
    "max_reward_calls": 5, "on_budget": "stop", "cache_salt": "alice",
    "response_format": {"type": "json_object"}, "output_version": "v1",
    "shared_budget": SharedBudget(ComputeBudget(max_tflops=1.0)), "tool_format": "hermes",
    "chat_template_kwargs": {"enable_thinking": False}, "max_cache_tokens": 999, "reward_thoughts": False,
    "quantization": "int8", "enforce_eager": True,
    "engine": None,
}  # fmt: skip
# fields that no answer depends on: a new field has to be in one of the two
NO_PART = {
    "timeout", "max_retries", "streaming", "hf_token", "cache", "verbose", "callbacks", "tags", "metadata", "name",
    "custom_get_token_ids", "rate_limiter", "disable_streaming", "profile", "callback_manager",
}  # fmt: skip


class Keys(BaseCache):
    """A cache that has everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def lookup(self, prompt: str, llm_string: str) -> Any:
        self.asked.append(llm_string)
        return [ChatGeneration(message=AIMessage("")) if "saffron-chat" in llm_string else Generation(text="")]

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        raise AssertionError("nothing is computed")

    def clear(self, **kwargs: Any) -> None:
        self.asked.clear()


def key(kind: Callable[..., Any], fields: dict[str, Any], **options: Any) -> str:
    """What LangChain looks up for a call."""
    cache = Keys()
    kind(cache=cache, **fields).invoke("Hello!", **options)
    return cache.asked[0]


def changes(kind: type[BaseModel]) -> list[str]:
    return [name for name in OTHER if name in kind.model_fields and name != "engine"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_its_place(kind):
    assert set(kind.model_fields) - NO_PART == {name for name in OTHER if name in kind.model_fields}
    assert not NO_PART & set(OTHER)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in changes(kind)])
async def test_every_field_and_option_that_changes_an_answer_is_part_of_its_key(kind, name):
    base, changed = key(kind, NAMED), key(kind, {**NAMED, name: OTHER[name]})
    optional = key(kind, NAMED, **{name: OTHER[name]})
    assert base == key(kind, NAMED)
    assert base not in (changed, optional)
    cache = Keys()
    await kind(cache=cache, **NAMED).ainvoke("Hello!", **{name: OTHER[name]})
    assert cache.asked == [optional]


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_mean_the_same_share_a_key(kind):
    assert key(kind, NAMED, max_new_tokens=7) == key(kind, {**NAMED, "max_tokens": 7})
    assert key(kind, {**NAMED, "effort": "high", "commit_lag": 16}) == key(kind, {**NAMED, "effort": "high"})
    assert key(kind, {**NAMED, "timeout": 3.0, "streaming": True, "max_retries": 2}) == key(kind, NAMED)
    assert key(kind, NAMED, stop_sequences=["a"]) not in (key(kind, NAMED), key(kind, NAMED, stop_sequences=["b"]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_in_place_of_a_field_is_told_from_a_field_of_its_own(kind):
    """An explicit `commit_lag` stays what it is when the call raises its effort; one that was not set does not."""
    given = {**NAMED, "effort": "high", "commit_lag": 16}
    assert key(kind, given, effort="max") != key(kind, {**NAMED, "effort": "high"}, effort="max")
    set_all = kind(**NAMED).configurable_fields(effort=ConfigurableField("effort"))
    chosen, _ = set_all.prepare({"configurable": {"effort": "max"}})
    assert chosen.search_settings() == kind(**NAMED, effort="max").search_settings()
    assert chosen.search_settings().commit_lag == 32
    assert "commit_lag" not in repr(chosen)


class Answer(BaseModel):
    """A document."""

    soup: str


FORMATS = [
    {"type": "regex", "regex": "start: /a/"},
    {"type": "lark", "lark": "start: /a/"},
    Answer,
    create_model("Answer", cake=(str, ...)),
    # the same grammar without its instruction in the prompt
    read_response_format(Answer).grammar,
    Grammar.regex("a+"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_response_formats_share_a_key(kind):
    assert len({key(kind, NAMED, response_format=form) for form in FORMATS}) == len(FORMATS)
    assert len({key(kind, {**NAMED, "response_format": form}) for form in FORMATS}) == len(FORMATS)
    assert key(kind, NAMED, response_format=Answer) == key(kind, {**NAMED, "response_format": Answer})


def test_tools_are_part_of_a_key_by_what_they_say():
    other = create_model("Answer", __doc__="A document.", cake=(str, ...))
    calls = [{"tools": [Answer]}, {"tools": [other]}, {"tools": [Answer, create_model("B", b=(int, ...))]}]
    calls += [{"tools": [Answer], **more} for more in ({"tool_choice": "any"}, {"parallel_tool_calls": False})]
    calls.append({"tools": [Answer], "tool_choice": "none"})
    assert len({key(ChatSaffron, NAMED, **call) for call in [{}, *calls]}) == len(calls) + 1
    assert key(ChatSaffron, NAMED, tools=[Answer]) == key(ChatSaffron, NAMED, tools=[Answer], tool_choice="auto")


def test_a_field_of_a_subclass_counts():
    class Louder(ChatSaffron):
        volume: int = 1

    assert key(Louder, NAMED) != key(Louder, {**NAMED, "volume": 2})


# --- engines ---


def parts(**changed: Any) -> dict[str, Any]:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return {
        "model": random_model("llama"), "tokenizer": tokenizer, "reward_model": random_reward_model(),
        "process_reward_model": random_prm(), **changed,
    }  # fmt: skip


def fingerprint_of(change: Callable[[dict[str, Any]], Any] = lambda parts: None, after: Any = None) -> str:
    """That of an engine of always the same parts, one of them changed."""
    made = parts()
    change(made)
    engine = SaffronEngine(**made)
    try:
        if after is not None:
            after(engine)
        return fingerprint(engine)
    finally:
        engine.close()


def with_weight(place: Callable[[dict[str, Any]], torch.Tensor]) -> Callable[[dict[str, Any]], None]:
    """Changes one number, none of those that a glance falls on."""

    def change(made: dict[str, Any]) -> None:
        with torch.no_grad():
            place(made).view(-1)[3] += 0.5

    return change


def flip_seen(made: dict[str, Any]) -> None:
    made["reward_model"].seen[3] ^= True


def own_normalizer(tokenizer: Any) -> None:
    from tokenizers.normalizers import Lowercase

    tokenizer.backend_tokenizer.normalizer = Lowercase()


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a weight of the policy": with_weight(lambda made: made["model"].model.layers[0].mlp.up_proj.weight),
    "a weight of the MRM": with_weight(
        lambda made: made["reward_model"].decoder.model.model.layers[0].input_layernorm.weight
    ),
    "a weight of the PRM": with_weight(
        lambda made: made["process_reward_model"].decoder.model.model.layers[0].input_layernorm.weight
    ),
    "a bias": with_weight(lambda made: made["reward_model"].bias),
    "a seen token": flip_seen,
    "a threshold": lambda made: setattr(made["reward_model"], "safety_threshold", 0.123),
    "the policy's dtype": lambda made: made["model"].to(torch.float64),
    "the policy's chat template": lambda made: setattr(made["tokenizer"], "chat_template", "{{ 1 }}"),
    "the policy's normalizer": lambda made: own_normalizer(made["tokenizer"]),
    "the MRM's normalizer": lambda made: own_normalizer(made["reward_model"].tokenizer),
    "the PRM's normalizer": lambda made: own_normalizer(made["process_reward_model"].tokenizer),
    "a repetition penalty": lambda made: setattr(made["model"].generation_config, "repetition_penalty", 1.3),
    "a longest answer": lambda made: setattr(made["model"].generation_config, "max_new_tokens", 77),
    "no MRM": lambda made: made.update(reward_model=None),
    "no PRM": lambda made: made.update(process_reward_model=None),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_engine_is_known_by_all_that_it_computes_with(change):
    assert fingerprint_of(change) != fingerprint_of()
    # the same change is the same engine
    assert fingerprint_of(change) == fingerprint_of(change)


def test_end_tokens_are_part_of_an_engine():
    assert fingerprint_of(after=lambda engine: setattr(engine, "end_tokens", (1, 2))) != fingerprint_of()


def test_functions_are_never_taken_for_each_other():
    def guard(reward: float) -> Any:
        def score(prompt: str, answer: str) -> float:
            return reward

        return score

    @conversation_guard
    def batch(conversations: list[Any]) -> list[float]:
        return [1.0] * len(conversations)

    first, second = guard(1.0), guard(-1.0)
    prms = [ProcessRewardModel.from_function(one, tiny_tokenizer()) for one in (first, second, batch, first)]
    prints = [fingerprint(prm) for prm in prms]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3


def test_a_weight_that_changes_in_place_is_seen_although_others_are_remembered():
    model = random_model("llama")
    before = fingerprint(model)
    assert fingerprint(model) == before
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 3] += 1
    changed = fingerprint(model)
    assert changed != before
    model.lm_head.weight.data.mul_(2)
    assert fingerprint(model) not in (before, changed)
    assert fingerprint(model, weights=False) == fingerprint(random_model("llama", seed=3), weights=False)


# --- engines that are shared ---


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registry", registry._Registry())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save(tmp_path / "policy")
    return tmp_path / "policy"


def save(path: Path, seed: int = 0) -> None:
    random_model("llama", seed).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)


@pytest.mark.usefixtures("own_registry")
def test_who_asks_for_the_same_in_other_words_shares_an_engine(directory: Path, monkeypatch: pytest.MonkeyPatch):
    first = shared_engine(model=str(directory), dtype="float32", device_map={"": "cpu"})
    assert shared_engine(model=directory, dtype=torch.float32, device_map={"": "cpu"}) is first
    assert shared_engine(model=directory, dtype="float64", device_map={"": "cpu"}) is not first
    monkeypatch.chdir(directory.parent)
    assert shared_engine(model="policy", dtype="float32", device_map={"": "cpu"}) is first


@pytest.mark.usefixtures("own_registry")
def test_a_relative_path_means_what_it_says_where_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for seed, name in enumerate(("here", "there")):
        save(tmp_path / name / "policy", seed)
    answers = []
    for name in ("here", "there"):
        monkeypatch.chdir(tmp_path / name)
        chat = ChatSaffron(model="policy", effort="off", max_tokens=5, chat_template=CHATML)
        answers.append((chat.load(), str(chat.identity())))
    assert answers[0][0] is not answers[1][0]
    assert answers[0][1] != answers[1][1]


@pytest.mark.usefixtures("own_registry")
def test_a_model_that_was_trained_again_into_its_directory_is_another(directory: Path):
    def chat() -> ChatSaffron:
        return ChatSaffron(model=directory, effort="off", max_tokens=5)

    old = chat()
    assert old.load() is chat().load()
    named = old.identity()
    save(directory, seed=5)
    os.utime(directory / "model.safetensors", (1, 1))
    new = chat()
    assert new.load() is not old.load()
    # what answers by the old weights says so
    assert old.identity() == named != new.identity()


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("how", ["copied", "assigned", "changed in place"])
def test_an_engine_is_left_for_another_when_its_fields_change(directory: Path, tmp_path: Path, how: str):
    save(tmp_path / "other", seed=5)
    chat = ChatSaffron(model=directory, effort="off", max_tokens=5, device_map={"": "cpu"})
    before = chat.load()
    if how == "copied":
        chat = chat.model_copy(update={"model": tmp_path / "other"})
    elif how == "assigned":
        chat.model = tmp_path / "other"
    else:
        chat.device_map["lm_head"] = "cpu"
    assert chat.load() is not before
    assert chat.load() is chat.load()
