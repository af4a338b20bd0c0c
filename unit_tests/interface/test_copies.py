"""Copies, pickles and caches: what is shared, what is loaded again, and what tells two answers apart."""

import copy
import pickle

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from pydantic import ValidationError

from langchain_saffron import ChatSaffron, ComputeBudget, SaffronEngine, SaffronLLM
from langchain_saffron.errors import SettingsError
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.shared_budget import SharedBudget
from unit_tests.builders import CHATML
from unit_tests.tiny_models import random_model, random_prm, random_reward_model, tiny_tokenizer


@pytest.fixture(scope="module")
def engine() -> SaffronEngine:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return SaffronEngine(random_model("llama"), tokenizer, random_reward_model(shift=2.0))


@pytest.mark.parametrize("kind", [ChatSaffron, SaffronLLM])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: one.model_copy(deep=True), copy.copy])
def test_a_copy_shares_the_engine_also_after_use(engine: SaffronEngine, kind: type, copied):
    model = kind(engine=engine, max_tokens=4, stop=["x"], shared_budget=SharedBudget(ComputeBudget(max_tflops=1.0)))
    for _ in range(2):
        other = copied(model)
        assert other is not model
        assert other.load() is engine
        assert other.shared_budget is model.shared_budget
        assert other.stop == ["x"]
        model.invoke("Hello!")


@pytest.mark.filterwarnings("ignore:no model= was given")
@pytest.mark.parametrize("kind", [ChatSaffron, SaffronLLM])
def test_a_pickle_loads_by_name_and_refuses_what_belongs_to_the_process(engine: SaffronEngine, kind: type):
    model = kind(max_tokens=3, effort="low")
    expected = model.invoke("Hello!")
    again = pickle.loads(pickle.dumps(model))
    assert again._loaded is None
    assert again == kind(max_tokens=3, effort="low")
    answer = again.invoke("Hello!")
    assert getattr(answer, "text", answer) == getattr(expected, "text", expected)
    for options in ({"engine": engine}, {"shared_budget": SharedBudget(ComputeBudget(max_tflops=1.0))}):
        with pytest.raises(SettingsError, match="cannot be pickled"):
            pickle.dumps(kind(**options))


@pytest.mark.parametrize(("name", "field"), [
    ("max_new_tokens", "max_tokens"), ("max_completion_tokens", "max_tokens"), ("stop_sequences", "stop"),
])  # fmt: skip
def test_fields_go_by_their_usual_names_too(engine: SaffronEngine, name: str, field: str):
    value = ["x"] if field == "stop" else 2
    model = ChatSaffron(engine=engine, **{name: value})
    assert getattr(model, field) == value
    assert getattr(model.with_options({name: value}), field) == value
    with pytest.raises(ValidationError, match=f"{name} is another name of {field}"):
        ChatSaffron(engine=engine, **{name: value, field: value})


def test_a_call_may_use_either_name(engine: SaffronEngine):
    model = ChatSaffron(engine=engine, max_tokens=6, min_tokens=6, effort="off")
    assert model.invoke("Hi", max_new_tokens=2, min_tokens=2).usage_metadata["output_tokens"] == 2


def test_an_unknown_field_is_told_what_it_may_have_meant(engine: SaffronEngine):
    with pytest.raises(ValidationError, match="no field 'efort': did you mean 'effort'"):
        ChatSaffron(engine=engine, efort="low")
    with pytest.raises(SettingsError, match="did you mean 'max_tokens'"):
        ChatSaffron(engine=engine).invoke("Hi", max_token=3)
    with pytest.raises(ValidationError, match="zzz"):
        ChatSaffron(engine=engine, zzz=1)


OPTIONS = [
    ({"cache_salt": "alice"}, {"cache_salt": "bob"}),
    ({"effort": "off"}, {"effort": "high"}),
    ({"effort": "off", "temperature": 1.0, "seed": 1}, {"effort": "off", "temperature": 1.0, "seed": 2}),
    ({"max_tokens": 2}, {"max_tokens": 3}),
    ({}, {"refusal_threshold": 0.0}),
    ({"mask": "strict"}, {"mask": "soft"}),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ChatSaffron, SaffronLLM])
@pytest.mark.parametrize(("first", "second"), OPTIONS)
async def test_a_cache_tells_calls_apart_by_their_options(engine: SaffronEngine, monkeypatch, kind, first, second):
    asked = []
    submit = engine._submit
    monkeypatch.setattr(engine, "_submit", lambda *args, **kwargs: (asked.append(1), submit(*args, **kwargs)))
    model = kind(engine=engine, max_tokens=4)
    set_llm_cache(InMemoryCache())
    try:
        for options in (first, second):
            model.invoke("Hello!", **options)
        assert len(asked) == 2
        # the same again, by either way of asking, is in the cache
        model.invoke("Hello!", **first)
        await model.ainvoke("Hello!", **second)
        assert len(asked) == 2
    finally:
        set_llm_cache(None)


@pytest.mark.slow
def test_an_engine_s_fingerprint_is_of_all_that_answers_depend_on():
    def made(
        template: str = CHATML, prm: int | None = None, reward: int = 1, policy: int = 0, record: object = None
    ) -> str:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        mrm = random_reward_model(reward)
        # what mask="auto" goes by
        mrm.details = {"training": {"held_out": record}}
        engine = SaffronEngine(
            random_model("llama", policy),
            tokenizer,
            mrm,
            process_reward_model=None if prm is None else random_prm(prm),
        )
        try:
            return fingerprint(engine)
        finally:
            engine.close()

    one = made()
    assert made() == one
    others = [made(template=CHATML + " "), made(prm=1), made(prm=2), made(reward=2), made(policy=1)]
    others.append(made(record={"seen_share": 0.5}))
    assert len({one, *others}) == 7


@pytest.mark.filterwarnings("ignore:no model= was given")
def test_its_repr_names_the_model_and_what_was_set(engine: SaffronEngine):
    assert repr(ChatSaffron(max_tokens=5, api_key="secret")) == "ChatSaffron(model='kitchen', max_tokens=5)"
    shown = repr(SaffronLLM(engine=engine, stop=["x"]))
    assert shown == f"SaffronLLM(model={engine.name!r}, engine=<SaffronEngine>, stop=['x'])"
