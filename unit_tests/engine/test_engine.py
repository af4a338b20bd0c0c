"""The engine on random models: exactness, sharing, cancellation, errors, counts."""

import threading
import time

import pytest
import torch

from langchain_saffron import ComputeBudget, SaffronEngine, SearchSettings
from langchain_saffron.engine.delivery import Delivery
from langchain_saffron.engine.request import Request
from langchain_saffron.errors import (
    BudgetError,
    CacheFullError,
    ContextOverflowError,
    EngineBusyError,
    EngineClosedError,
    NumericalError,
    RewardModelRequiredError,
    SettingsError,
)
from langchain_saffron.models.unembedding import Unembedding
from unit_tests.engine.slots import held_up, slots_in_use, wait_until
from unit_tests.families import FALLBACKS, FAMILIES, VOCABULARY, mostly_slow
from unit_tests.tiny_models import (
    PROMPTS,
    generate,
    plain_logits,
    random_engine,
    random_model,
    random_prm,
    random_reward_model,
    tiny_tokenizer,
)


def trim(tokens: list[int], ends: tuple[int, ...]) -> list[int]:
    """Beam search pads shorter answers: cut after the first end token."""
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    return tokens


@pytest.mark.parametrize("family", mostly_slow([*FAMILIES, *FALLBACKS]))
def test_greedy_equals_generate(family: str):
    """Plain, with a repetition penalty, with several end tokens, and with stop strings."""
    model = random_model(family)
    engine = SaffronEngine(model, tiny_tokenizer())
    for prompt in PROMPTS[:4]:
        assert greedy(engine, prompt) == generate(model, prompt)
    free = generate(model, PROMPTS[0], eos_token_id=[])

    # the tokenizer's own end ends a turn too
    own = tiny_tokenizer().eos_token_id
    ends = [free[4], free[9], 1, own]
    model.generation_config.eos_token_id = ends
    model.generation_config.repetition_penalty = 1.3
    engine = SaffronEngine(model, tiny_tokenizer())
    for prompt in PROMPTS[:3]:
        assert greedy(engine, prompt) == generate(model, prompt)

    model.generation_config.eos_token_id = [1, own]
    model.generation_config.repetition_penalty = 1.0
    tokenizer = tiny_tokenizer()
    engine = SaffronEngine(model, tokenizer)
    for prompt in PROMPTS[:4]:
        tokens = generate(model, prompt, eos_token_id=[])
        # readable ones: half a character is no text. Transformers finds them in the names of control tokens too
        stops = [piece for piece in map(tokenizer.decode, tokens[4:]) if piece.isascii() and piece.isprintable()][:2]
        if stops and not set(tokens) & set(tokenizer.added_tokens_decoder):
            expected = generate(model, prompt, stop_strings=stops, tokenizer=tokenizer)
            assert greedy(engine, prompt, stop=stops) == expected


def greedy(engine: SaffronEngine, prompt: list[int], **settings: object) -> list[int]:
    result = engine.generate(prompt, settings=SearchSettings(search="greedy", max_tokens=30, **settings))
    assert result.stats.reward_calls == 0
    return result.token_ids


def test_an_end_token_of_several_is_a_stop():
    model = random_model("llama", seed=3)
    free = generate(model, PROMPTS[0], eos_token_id=[])
    model.generation_config.eos_token_id = [free[9], free[4], tiny_tokenizer().eos_token_id]
    result = SaffronEngine(model, tiny_tokenizer()).generate(PROMPTS[0], settings=SearchSettings(search="greedy"))
    assert result.token_ids == free[: min(free.index(free[4]), free.index(free[9])) + 1]
    assert result.finish_reason == "stop"


@pytest.mark.parametrize(
    "width", [1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_all_safe_constrained_ranking_equals_beam_search(width: int, seed: int):
    """Every reward above the threshold, nothing unseen, no nucleus: plain beam search."""
    reward = random_reward_model(unseen=0, shift=1000.0)
    # several end tokens, likely enough that beams finish at different times
    engine = random_engine("llama", reward, seed=seed, eos_token_id=list(range(1, 40)))
    model = engine.policy.model
    model.generation_config.eos_token_id = list(range(1, 40))
    engine.end_tokens = tuple(range(1, 40))
    for prompt in PROMPTS[:5]:
        settings = SearchSettings(width=width, top_p=1.0, max_tokens=16)
        result = engine.generate(prompt, settings=settings)
        expected = generate(model, prompt, max_new_tokens=16, num_beams=width, early_stopping=False)
        assert result.token_ids == trim(expected, engine.end_tokens)


@pytest.mark.slow
def test_requests_share_forwards_and_do_not_change_each_other():
    engine = random_engine("qwen3", random_reward_model(shift=1.0))
    settings = SearchSettings(width=3, max_tokens=20)
    alone = [engine.generate(p, settings=settings, cache_salt=f"alone{i}").token_ids for i, p in enumerate(PROMPTS)]
    before = engine.scheduler.forwards["policy"]
    handles = [engine.submit(p, settings=settings, cache_salt=f"together{i}") for i, p in enumerate(PROMPTS)]
    together = [handle.result().token_ids for handle in handles]
    assert together == alone
    # 16 requests of 20 steps: one after the other they took 16 times as many
    assert engine.scheduler.forwards["policy"] - before < before / 5


@pytest.mark.slow
def test_a_request_that_joins_in_the_middle_changes_nothing():
    """The same prompt, handed in while another request with it is several steps ahead."""
    engine = random_engine("llama", random_reward_model(shift=1.0))
    settings = SearchSettings(width=4, max_tokens=30, min_tokens=30, commit_lag=1)
    alone = engine.generate(PROMPTS[5], settings=settings, cache_salt="alone").token_ids
    for pieces in range(1, 8):
        salt = f"joined after {pieces}"
        first = engine.stream(PROMPTS[5], settings=settings, cache_salt=salt)
        for _ in range(pieces):
            next(first)
        second = engine.submit(PROMPTS[5], settings=settings, cache_salt=salt)
        *_, last = first
        assert last.token_ids == alone
        assert second.result().token_ids == alone


def test_a_second_request_reuses_the_prompt_and_the_next_turn_the_answer():
    engine = random_engine("llama", random_reward_model())
    settings = SearchSettings(width=2, max_tokens=8)
    prompt = PROMPTS[9]
    first = engine.generate(prompt, settings=settings)
    again = engine.generate(prompt, settings=settings)
    assert first.stats.cached_tokens == 0
    assert again.stats.cached_tokens == 2 * (len(prompt) - 1)
    assert again.token_ids == first.token_ids
    turn = [*prompt, *first.token_ids[:-1], 5, 6]
    following = engine.generate(turn, settings=settings)
    assert following.stats.cached_prompt >= len(prompt) + len(first.token_ids) - 2
    other = engine.generate(prompt, settings=settings, cache_salt="another tenant")
    assert other.stats.cached_tokens == 0


def test_stats_equal_a_count_by_hand(monkeypatch: pytest.MonkeyPatch):
    engine = random_engine("llama", random_reward_model())
    products: list[int] = []
    columns, whole = Unembedding.columns, Unembedding.whole

    def count_columns(self: Unembedding, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        products.append(2 * states.numel() * len(tokens))
        return columns(self, states, tokens)

    def count_whole(self: Unembedding, states: torch.Tensor) -> torch.Tensor:
        products.append(2 * states.numel() * self.outputs)
        return whole(self, states)

    monkeypatch.setattr(Unembedding, "columns", count_columns)
    monkeypatch.setattr(Unembedding, "whole", count_whole)
    prompt = PROMPTS[3]
    result = engine.generate(prompt, settings=SearchSettings(width=4, max_tokens=5, min_tokens=5), record_beams=True)
    assert result.beams is not None
    scored = 1 + sum(len(beams) for beams in result.beams[:4])
    assert result.stats.policy_calls == result.stats.reward_calls == scored
    assert result.stats.policy_tokens == len(prompt) + scored - 1
    assert result.stats.width == max(len(beams) for beams in result.beams[:4])
    depths = [*range(len(prompt)), *(len(prompt) + i for i, beams in enumerate(result.beams[:4]) for _ in beams)]
    # of the reward model's last product only what the search looks at
    expected = sum(products)
    for decoder, heads in ((engine.policy, scored), (engine.reward_model.decoder, 0)):
        expected += decoder.flops.forward(torch.tensor(depths).numpy(), heads)
    assert len(products) == 5
    assert result.stats.tflops == pytest.approx(expected / 1e12, rel=1e-9)


@pytest.mark.parametrize("behaviour", ["narrow", "stop", pytest.param("refuse", marks=pytest.mark.slow)])
@pytest.mark.parametrize("limit", ["max_tflops", "max_reward_calls", "max_seconds"])
def test_half_the_budget_ends_within_one_step_of_it(behaviour: str, limit: str):
    engine = random_engine("llama", random_reward_model(shift=3.0))
    settings = SearchSettings(width=4, max_tokens=40, min_tokens=40, top_p=0.95)
    free = engine.generate(PROMPTS[0], settings=settings, cache_salt="free").stats
    spent = {"max_tflops": free.tflops, "max_reward_calls": free.reward_calls, "max_seconds": free.seconds}[limit]
    # of the time an eighth: the next run may be a good deal faster than the first
    half = {"max_tflops": spent / 2, "max_reward_calls": spent // 2, "max_seconds": spent / 8}[limit]
    budget = ComputeBudget(**{limit: half, "on_exhausted": behaviour})
    half_settings = settings.model_copy(update={"budget": budget})
    result = engine.generate(PROMPTS[0], settings=half_settings, cache_salt=behaviour + limit)
    stats = result.stats
    used = {"max_tflops": stats.tflops, "max_reward_calls": stats.reward_calls, "max_seconds": stats.seconds}[limit]
    step = spent / 20
    assert used <= half + (step if limit == "max_seconds" else 0) + (0.5 if limit == "max_seconds" else 0)
    if behaviour == "narrow":
        # it shrank early enough for the whole answer, or met the limit
        assert len(result.token_ids) == 40 or result.finish_reason == "budget"
        assert limit == "max_seconds" or used > half - 4 * step
    else:
        assert stats.budget_exhausted
        assert result.finish_reason == {"stop": "budget", "refuse": "refusal"}[behaviour]
        assert limit == "max_seconds" or used > half - step
        assert result.text.endswith(half_settings.canned_refusal) == (behaviour == "refuse")


def test_a_budget_below_the_prompt_raises_before_any_forward():
    engine = random_engine("llama", random_reward_model())
    with pytest.raises(BudgetError, match="does not cover the prompt"):
        engine.generate(PROMPTS[0], settings=SearchSettings(budget=ComputeBudget(max_tflops=1e-9)))
    assert engine.scheduler.forwards == {"policy": 0, "reward": 0}


def test_what_cannot_work_is_refused_before_any_forward():
    engine = random_engine("llama")
    with pytest.raises(RewardModelRequiredError, match="reward_model="):
        engine.generate([3], settings=SearchSettings())
    for search in ("best_of_n", "rebase", "deal"):
        with pytest.raises(RewardModelRequiredError, match="process_reward_model="):
            engine.generate([3], settings=SearchSettings(search=search))
    with pytest.raises(ContextOverflowError, match=r"300 tokens.* 256"):
        engine.generate([3] * 300, settings=SearchSettings(search="greedy"))
    with pytest.raises(SettingsError, match="empty"):
        engine.generate([], settings=SearchSettings(search="greedy"))
    with pytest.raises(SettingsError, match="vocabulary"):
        engine.generate([VOCABULARY], settings=SearchSettings(search="greedy"))
    with pytest.raises(SettingsError, match="refusal_threshold"):
        engine.generate([3], settings=SearchSettings(search="greedy", refusal_threshold=0.0))
    assert engine.scheduler.forwards == {"policy": 0}


def test_max_tokens_is_clamped_to_the_context():
    engine = random_engine("llama", eos_token_id=None)
    engine.end_tokens = ()
    result = engine.generate([3] * 250, settings=SearchSettings(search="greedy", max_tokens=100))
    assert len(result.token_ids) == 6
    assert result.finish_reason == "length"


def test_closing_a_stream_stops_the_search_and_frees_its_cache():
    engine = random_engine("llama", random_reward_model(shift=3.0))
    stream = engine.stream(PROMPTS[0], settings=SearchSettings(width=4, max_tokens=200, min_tokens=200, commit_lag=2))
    next(stream)
    stream.close()
    wait_until(lambda: not engine.scheduler.busy)
    forwards = engine.scheduler.forwards["policy"]
    assert forwards < 100
    time.sleep(0.05)
    assert engine.scheduler.forwards["policy"] == forwards
    assert slots_in_use(engine) == 0


def test_an_error_in_a_forward_reaches_only_the_requests_concerned():
    engine = random_engine("llama", random_reward_model())
    poison = 200
    real = engine.policy.model.forward

    def forward(*args, input_ids, **kwargs):
        if (input_ids == poison).any():
            raise RuntimeError("this token breaks the kernel")
        return real(*args, input_ids=input_ids, **kwargs)

    settings = SearchSettings(width=2, max_tokens=6)
    expected = [engine.generate(p, settings=settings).token_ids for p in PROMPTS[:3]]
    engine.policy.model.forward = forward
    bad = engine.submit([5, poison, 7], settings=settings)
    good = [engine.submit(p, settings=settings) for p in PROMPTS[:3]]
    with pytest.raises(RuntimeError, match="breaks the kernel"):
        bad.result()
    assert [handle.result().token_ids for handle in good] == expected
    assert engine.generate(PROMPTS[0], settings=settings).token_ids == expected[0]
    assert slots_in_use(engine) == 0


def test_nan_names_the_model_and_leaves_nothing_behind():
    engine = random_engine("llama", random_reward_model())
    settings = SearchSettings(width=2, max_tokens=6)
    expected = engine.generate(PROMPTS[0], settings=settings).token_ids
    with torch.no_grad():
        engine.reward_model.decoder.model.model.embed_tokens.weight[250] = float("nan")
    bad = engine.submit([5, 250, 7], settings=settings)
    good = engine.submit(PROMPTS[0], settings=settings)
    with pytest.raises(NumericalError, match="reward model"):
        bad.result()
    assert good.result().token_ids == expected
    assert engine.generate(PROMPTS[0], settings=settings, cache_salt="fresh").token_ids == expected


@pytest.mark.parametrize("name", ["policy", "reward model", "process reward model"])
def test_infinite_scores_name_the_model(name):
    """What too narrow a dtype makes of large activations: no refusal, and no error of torch's."""
    engine = SaffronEngine(
        random_model("llama"), tiny_tokenizer(), random_reward_model(), process_reward_model=random_prm()
    )
    settings = SearchSettings(search="best_of_n" if name.startswith("process") else "saffron", width=2, max_tokens=6)
    assert engine.generate(PROMPTS[0], settings=settings).token_ids
    (decoder,) = [d for d in engine.scheduler._decoders.values() if d.name == name]
    with torch.no_grad():
        decoder.model.model.norm.weight[:] = 1e38
    with pytest.raises(NumericalError, match=f"the {name} returned .*infinity.*dtype"):
        engine.generate(PROMPTS[1], settings=settings)
    assert slots_in_use(engine) == 0


def test_a_policy_may_forbid_tokens():
    """Some models' logits of rows without a token are -inf."""
    model = random_model("gpt2", tie_word_embeddings=False)
    engine = SaffronEngine(model, tiny_tokenizer(), random_reward_model(shift=2.0))
    forward = engine.policy.forward

    def forbidding(rows, scored, groups=None):
        return forward(rows, scored, groups).index_fill(1, torch.arange(100, VOCABULARY), -torch.inf)

    engine.policy.forward = forbidding
    for search in ("saffron", "greedy", "sample"):
        settings = SearchSettings(search=search, max_tokens=6, min_tokens=6, seed=1)
        assert max(engine.generate(PROMPTS[0], settings=settings).token_ids) < 100


@pytest.mark.parametrize("on_exhausted", ["stop", "narrow", "refuse"])
@pytest.mark.parametrize("search", ["saffron", "greedy", "best_of_n", "rebase"])
def test_what_is_cached_does_not_change_what_a_budget_buys(search, on_exhausted):
    """Planned as if nothing were cached; what was really spent is less the second time, and never more."""
    engine = SaffronEngine(
        random_model("llama"), tiny_tokenizer(), random_reward_model(shift=2.0), process_reward_model=random_prm()
    )
    prompt = [5 + i % 200 for i in range(20)]
    free = SearchSettings(search=search, width=4, max_tokens=16, min_tokens=16, seed=1)
    whole = engine.generate(prompt, settings=free, cache_salt="none").stats.tflops
    answers = set()
    for share in (0.3 if search == "best_of_n" else 0.8, 0.9, 1.1):
        budget = ComputeBudget(max_tflops=share * whole, on_exhausted=on_exhausted)
        settings = free.model_copy(update={"budget": budget})
        salt = f"{share}"
        first, again = (engine.generate(prompt, settings=settings, cache_salt=salt) for _ in range(2))
        assert (first.token_ids, first.finish_reason) == (again.token_ids, again.finish_reason)
        assert again.stats.tflops < first.stats.tflops
        if search in ("saffron", "greedy"):
            assert first.stats.tflops <= share * whole
        answers.add((tuple(first.token_ids), first.stats.width))
    # the budget did matter
    assert len(answers) > 1
    engine.close()


def test_as_many_requests_wait_as_may():
    engine = SaffronEngine(random_model("llama"), tiny_tokenizer(), max_queue=3)
    settings = SearchSettings(search="greedy", max_tokens=3)
    with held_up(engine):
        handles = [engine.submit(PROMPTS[0], settings=settings) for _ in range(3)]
        with pytest.raises(EngineBusyError, match=r"3 requests wait .*max_queue="):
            engine.submit(PROMPTS[0], settings=settings)
    assert all(handle.result().token_ids for handle in handles)
    assert engine.generate(PROMPTS[0], settings=settings).token_ids


def test_a_timeout_is_a_timeout_error():
    engine = random_engine("llama", random_reward_model())
    with pytest.raises(TimeoutError):
        engine.generate(PROMPTS[0], settings=SearchSettings(max_tokens=200, min_tokens=200), timeout=0.02)
    assert engine.generate(PROMPTS[0], settings=SearchSettings(max_tokens=3), timeout=60).token_ids


def test_closing_the_engine_ends_what_runs():
    engine = random_engine("llama", random_reward_model())
    handle = engine.submit(PROMPTS[0], settings=SearchSettings(max_tokens=200, min_tokens=200))
    engine.close()
    with pytest.raises(EngineClosedError):
        handle.result()
    with pytest.raises(EngineClosedError):
        engine.generate(PROMPTS[0], settings=SearchSettings(max_tokens=3))


def test_an_engine_that_nobody_holds_stops_its_thread():
    engine = random_engine("llama", random_reward_model())
    engine.generate(PROMPTS[0], settings=SearchSettings(max_tokens=3))
    thread = engine._worker._thread
    assert thread.is_alive()
    del engine
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_full_cache_is_an_error_of_that_request_only():
    reward = random_reward_model()
    engine = SaffronEngine(random_model("llama"), tiny_tokenizer(), reward, max_cache_tokens=64)
    with pytest.raises(CacheFullError, match="max_cache_tokens"):
        engine.generate([3] * 100, settings=SearchSettings(width=2, max_tokens=5))
    assert engine.generate(PROMPTS[0], settings=SearchSettings(width=2, max_tokens=5)).token_ids


@pytest.mark.slow
def test_requests_wait_for_slots_rather_than_fail():
    reward = random_reward_model()
    engine = SaffronEngine(random_model("llama"), tiny_tokenizer(), reward, max_cache_tokens=96)
    settings = SearchSettings(width=2, max_tokens=10)
    expected = [engine.generate(p, settings=settings).token_ids for p in PROMPTS]
    handles = [engine.submit(p, settings=settings) for p in PROMPTS]
    assert [handle.result().token_ids for handle in handles] == expected


def test_threads_may_call_at_once():
    engine = random_engine("llama", random_reward_model())
    settings = SearchSettings(width=2, max_tokens=10)
    expected = [engine.generate(p, settings=settings).token_ids for p in PROMPTS]
    found: dict[int, list[int]] = {}

    def call(i: int) -> None:
        found[i] = engine.generate(PROMPTS[i], settings=settings).token_ids

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(PROMPTS))] == expected


def test_stream_gives_the_same_text_in_pieces():
    engine = random_engine("llama", random_reward_model(shift=2.0))
    for width, lag in ((1, None), (4, 3), (8, 6), (4, None)):
        settings = SearchSettings(width=width, commit_lag=lag, max_tokens=40, min_tokens=40)
        whole = engine.generate(PROMPTS[2], settings=settings)
        *pieces, last = engine.stream(PROMPTS[2], settings=settings)
        assert "".join(pieces) == whole.text == last.text
        assert last.token_ids == whole.token_ids
        if lag is not None:
            assert len(pieces) > 5


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)])
def test_the_first_token_is_final_within_the_commit_lag(lag: int, monkeypatch: pytest.MonkeyPatch):
    engine = random_engine("llama", random_reward_model(shift=2.0))
    steps = []

    def say(delivery: Delivery, request: Request, tokens: tuple[int, ...]) -> None:
        if tokens:
            steps.append(engine.scheduler.forwards["policy"])

    monkeypatch.setattr(Delivery, "say", say)
    settings = SearchSettings(width=8, commit_lag=lag, max_tokens=60, min_tokens=60)
    for prompt in PROMPTS[:6]:
        before = engine.scheduler.forwards["policy"]
        steps.clear()
        engine.generate(prompt, settings=settings)
        assert steps[0] - before <= lag + 2


def test_stop_strings_end_the_answer_before_them():
    engine = random_engine("llama", random_reward_model(shift=2.0))
    for search in ("greedy", "saffron"):
        free = SearchSettings(search=search, width=3, commit_lag=3, max_tokens=40, min_tokens=40)
        text = engine.generate(PROMPTS[5], settings=free).text
        stop = text[10:14]
        cut = engine.generate(PROMPTS[5], settings=free.model_copy(update={"stop": (stop,)}))
        assert stop not in cut.text
        if search == "greedy":
            assert cut.text == text[: text.index(stop)]
            assert cut.finish_reason == "stop"
        pieces = list(engine.stream(PROMPTS[5], settings=free.model_copy(update={"stop": (stop,)})))[:-1]
        assert "".join(pieces) == cut.text


def test_min_reward_and_reward_are_those_of_the_answer():
    engine = random_engine("llama", random_reward_model())
    result = engine.generate(PROMPTS[1], settings=SearchSettings(width=3, max_tokens=10, min_tokens=10))
    rewards = [
        float(engine.reward_model.rewards([*PROMPTS[1], *result.token_ids[:i]])[token])
        for i, token in enumerate(result.token_ids)
    ]
    assert result.reward == pytest.approx(rewards[-1], abs=1e-4)
    assert result.stats.min_reward == pytest.approx(min(rewards), abs=1e-4)


def test_nothing_below_the_refusal_threshold_is_said():
    engine = random_engine("llama", random_reward_model(seed=8))
    free = SearchSettings(width=3, max_tokens=12, min_tokens=12)
    lowest = engine.generate(PROMPTS[6], settings=free).stats.min_reward
    bounded = engine.generate(PROMPTS[6], settings=free.model_copy(update={"refusal_threshold": lowest + 0.5}))
    if bounded.finish_reason == "refusal":
        assert bounded.text.endswith(free.canned_refusal)
    else:
        assert bounded.stats.min_reward >= lowest + 0.5
    never = engine.generate(PROMPTS[6], settings=free.model_copy(update={"refusal_threshold": 1e6}))
    assert never.finish_reason == "refusal"
    assert never.text == free.canned_refusal
    assert never.token_ids == []


def test_sampling_is_repeatable_by_seed():
    engine = random_engine("llama", random_reward_model())
    for search in ("sample", "saffron"):
        settings = SearchSettings(search=search, width=2, temperature=1.0, seed=7, max_tokens=12)
        first, second = (engine.generate(PROMPTS[0], settings=settings).token_ids for _ in range(2))
        assert first == second
        others = {
            tuple(engine.generate(PROMPTS[0], settings=settings.model_copy(update={"seed": s})).token_ids)
            for s in range(5)
        }
        assert len(others) > 1


def test_logits_of_the_engine_are_those_of_a_full_forward():
    """A check of the whole path: greedy by hand, one full forward a token."""
    engine = random_engine("gemma3")
    tokens = list(PROMPTS[7])
    for _ in range(12):
        tokens.append(int(plain_logits(engine.policy.model, tokens).argmax()))
    result = engine.generate(PROMPTS[7], settings=SearchSettings(search="greedy", max_tokens=12))
    expected = tokens[len(PROMPTS[7]) :]
    assert result.token_ids == trim(expected, engine.end_tokens)
