"""What may go wrong while requests run: nothing hangs, nothing leaks, nobody else notices."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from langchain_saffron import ChatSaffron, SaffronEngine, SearchSettings
from langchain_saffron.cache import kv_pool
from langchain_saffron.engine.handle import Handle
from langchain_saffron.errors import ContextOverflowError, ModelMemoryError, RequestCancelledError
from langchain_saffron.models import loading
from unit_tests.engine.slots import slots_in_use, wait_until
from unit_tests.tiny_models import random_engine, random_model, random_reward_model, tiny_tokenizer

PROMPT = [5, 6, 7, 8, 9]


@contextmanager
def after_ticks(engine: SaffronEngine, count: int, act: Callable[[], None]) -> Iterator[None]:
    """Do something on the engine's thread after so many of its steps."""
    tick, done = engine.scheduler.tick, []

    def counting() -> None:
        tick()
        done.append(True)
        if len(done) == count:
            act()

    engine.scheduler.tick = counting
    try:
        yield
    finally:
        engine.scheduler.tick = tick


@pytest.mark.parametrize("search", ["saffron", "greedy", "sample"])
def test_a_request_cancelled_at_any_step_gives_its_slots_back(search: str):
    engine = random_engine("llama", random_reward_model(shift=2.0))
    settings = SearchSettings(search=search, width=3, max_tokens=12, min_tokens=12, commit_lag=2, seed=0)
    expected = engine.generate(PROMPT, settings=settings).token_ids
    decoders = [engine.policy, engine.reward_model.decoder]
    levels = [decoder.forest.used for decoder in decoders]
    for step in range(1, 12):
        handles: list[Handle] = []
        with after_ticks(engine, step, lambda handles=handles: handles[0].cancelled.set()):
            # handed in on the engine's own thread: no step comes before the handle is there
            engine.call(lambda handles=handles: handles.append(engine.submit(PROMPT, settings=settings)))
            with pytest.raises(RequestCancelledError):
                handles[0].result()
            wait_until(lambda: not engine.scheduler.busy)
        assert [decoder.forest.used for decoder in decoders] == levels, step
    assert engine.generate(PROMPT, settings=settings).token_ids == expected
    assert slots_in_use(engine) == 0


@pytest.mark.slow
def test_a_hundred_prompts_give_the_same_alone_and_sixteen_at_a_time():
    rng = random.Random(4)
    engine = random_engine("qwen3", random_reward_model(shift=1.0))
    lengths = [rng.randint(1, 60) for _ in range(100)]
    # few tokens, so that many prompts share their beginnings
    prompts = [rng.choices(range(3, 3 + rng.choice([2, 200])), k=length) for length in lengths]
    kinds = [SearchSettings(width=width, max_tokens=10) for width in (1, 2, 4)]
    kinds += [
        SearchSettings(search="greedy", max_tokens=10),
        SearchSettings(width=2, max_tokens=10, temperature=1.0, seed=3),
    ]
    jobs = [(prompt, rng.choice(kinds)) for prompt in prompts]
    alone = [engine.generate(p, settings=s, cache_salt=f"alone {i}").token_ids for i, (p, s) in enumerate(jobs)]
    together = []
    for start in range(0, len(jobs), 16):
        handles = [engine.submit(p, settings=s, cache_salt="shared") for p, s in jobs[start : start + 16]]
        together += [handle.result().token_ids for handle in handles]
    assert together == alone


def test_a_forward_that_does_not_fit_into_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch):
    engine = random_engine("llama", random_reward_model())
    settings = SearchSettings(width=2, max_tokens=8)
    expected = engine.generate(PROMPT, settings=settings).token_ids
    real = engine.policy.model.forward

    def forward(*args: object, input_ids: torch.Tensor, **kwargs: object) -> object:
        if input_ids.shape[1] > 100:
            # what the allocator says: no machine has this much
            torch.empty(2**55)
        return real(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(engine.policy.model, "forward", forward)
    with pytest.raises(ModelMemoryError, match=r"policy .*lower max_cache_tokens"):
        engine.generate([i % 300 for i in range(130)], settings=settings)
    assert engine.generate(PROMPT, settings=settings).token_ids == expected
    assert slots_in_use(engine) == 0


def test_a_pool_that_cannot_grow_works_on_at_its_old_size(monkeypatch: pytest.MonkeyPatch):
    engine = random_engine("llama", random_reward_model())
    settings = SearchSettings(width=2, max_tokens=8)
    expected = engine.generate(PROMPT, settings=settings).token_ids
    real, grown = kv_pool._longer, []

    def longer(old: torch.Tensor, slots: int, dimension: int) -> torch.Tensor:
        grown.append(slots)
        # memory runs out in the middle of the layers
        return real(old, slots, dimension) if len(grown) < 3 else torch.empty(2**55)

    monkeypatch.setattr(kv_pool, "_longer", longer)
    fill = [i % 300 for i in range(240)]
    with pytest.raises(ModelMemoryError):
        engine.generate(fill, settings=SearchSettings(width=16, top_p=1.0, max_tokens=15, min_tokens=15))
    assert len(grown) == 3
    assert engine.generate(PROMPT, settings=settings).token_ids == expected
    monkeypatch.setattr(kv_pool, "_longer", real)
    assert len(engine.generate(fill, settings=SearchSettings(width=16, top_p=1.0, max_tokens=15)).token_ids) > 0


def test_a_model_that_does_not_fit_into_memory_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path):
    random_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)

    def load(*args: object, **options: object) -> None:
        torch.empty(2**55)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(ModelMemoryError, match=r"policy .*device_map"):
        SaffronEngine.from_pretrained(tmp_path)


def test_an_overflow_names_both_numbers():
    engine = random_engine("llama", random_reward_model())
    with pytest.raises(ContextOverflowError, match=r"300 tokens.* 256 "):
        engine.generate([3 + i % 100 for i in range(300)])


@pytest.mark.parametrize(
    "text",
    [
        "emoji 👩‍🚀🇩🇪 and skin tones 👍🏽",
        "漢字かな交じり文、한국어, 中文。",
        "combining e\u0301 a\u0308 ก็ ๆ",
        "right to left שלום مرحبا \u202e",
        "zero width \u200b\u200d\ufeff and nul \x00",
        "a lone surrogate \ud83d in between",
    ],
)
def test_text_of_all_kinds_goes_in_and_comes_out(text: str):
    chat = ChatSaffron(effort="low", max_tokens=12)
    answer = chat.invoke([("system", text), ("human", text)])
    pieces = [chunk.text for chunk in chat.stream([("system", text), ("human", text), ("ai", text)])]
    for said in (answer.text, "".join(pieces)):
        # whatever was said can be written to a file
        said.encode("utf-8")
    assert all(char < "\ud800" or char > "\udfff" for char in answer.text)
