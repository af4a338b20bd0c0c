"""How often the host looks at a GPU, and how often it sends something, counted on a simulated one."""

from collections import Counter
from collections.abc import Callable

import pytest

from langchain_saffron import ChatSaffron, SaffronEngine, SearchSettings
from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.models.recordings import capture_eagerly
from unit_tests.simulated_device import READS, UPLOADS, simulated
from unit_tests.tiny_models import PROMPTS, random_model, random_reward_model, tiny_tokenizer

SETTINGS = SearchSettings(width=4, max_tokens=12, min_tokens=12)


def engine() -> SaffronEngine:
    return SaffronEngine(random_model("llama"), tiny_tokenizer(), random_reward_model(shift=1.0))


def counting(tick: Callable[[], None], ticks: list[tuple[int, int]]) -> Callable[[], None]:
    def counted() -> None:
        before = READS.total(), UPLOADS.total()
        tick()
        ticks.append((READS.total() - before[0], UPLOADS.total() - before[1]))

    return counted


@pytest.mark.parametrize("captured", [False, True])
def test_what_a_step_reads_and_sends(captured: bool):
    """One read for all models' scores and one a request; a captured step is one upload a model."""
    alone = engine()
    expected = [alone.generate(prompt, settings=SETTINGS).token_ids for prompt in PROMPTS[:3]]
    alone.close()
    found = engine()
    assert found.reward_model is not None
    decoders = found.policy, found.reward_model.decoder
    with simulated(found):
        if captured:
            assert [capture_eagerly(decoder) for decoder in decoders] == [None, None]
        # the first time captures
        for _ in range(2):
            for decoder in decoders:
                decoder.forest.drop_kept()
            for count in (1, 3):
                ticks: list[tuple[int, int]] = []
                found.scheduler.tick = counting(type(found.scheduler).tick.__get__(found.scheduler), ticks)  # type: ignore[method-assign]
                handles = [found.submit(prompt, settings=SETTINGS) for prompt in PROMPTS[:count]]
                assert [handle.result().token_ids for handle in handles] == expected[:count]
                # how many run together at the beginning and the end depends on when they came
                reads, uploads = Counter(ticks).most_common(1)[0][0]
                assert reads == 1 + count
                # what ranks candidates sends four small things a request
                assert not captured or uploads == len(decoders) + 4 * count
    if captured:
        for decoder in decoders:
            assert decoder.graphs is not None
            assert decoder.graphs.failure is None
            assert decoder.graphs.counts.replayed > 20
    found.close()


def test_graphs_are_left_out_where_that_is_asked(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr(TrieDecoder, "capture_steps", lambda decoder: asked.append(decoder.name))
    engine().close()
    assert asked == ["policy", "reward model"]
    SaffronEngine(random_model("llama"), tiny_tokenizer(), random_reward_model(), enforce_eager=True).close()
    # no engine that other tests share
    own = {"max_cache_tokens": 1777, "max_tokens": 1}
    chat = ChatSaffron(enforce_eager=True, **own)
    assert chat.invoke("Hi").text is not None
    assert asked == ["policy", "reward model"]
    ChatSaffron(**own).invoke("Hi")
    assert sorted(asked[2:]) == ["policy", "reward model"]


def test_a_cpu_keeps_its_own_way():
    found = engine()
    assert found.reward_model is not None
    assert found.policy.graphs is found.reward_model.decoder.graphs is None
    found.close()
