"""Prompt and beams are read as one span where they lie, strangers in it hidden by the mask."""

import numpy as np
import pytest
import torch

from langchain_saffron import SaffronEngine, SearchSettings
from langchain_saffron.cache.attention_plan import Batch, Group
from langchain_saffron.models.decoder import TrieDecoder
from unit_tests.families import VOCABULARY
from unit_tests.models.trees import history
from unit_tests.tiny_models import plain_logits, random_model, random_reward_model, tiny_tokenizer


def prompt_of(length: int, seed: int) -> list[int]:
    """Tokens; with another seed, others from the first on."""
    return [seed + 3, *((7 * i + 31 * seed) % (VOCABULARY - 10) + 3 for i in range(1, length))]


def wide(width: int, tokens: int = 30) -> SearchSettings:
    return SearchSettings(width=width, max_tokens=tokens, min_tokens=tokens)


@pytest.fixture
def engine():
    made = SaffronEngine(random_model("llama"), tiny_tokenizer(), random_reward_model(shift=2.0))
    yield made
    made.close()


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Group | Batch]:
    """What all forwards from now on read, as it is planned."""
    planned: list[Group | Batch] = []
    plain = TrieDecoder.forward_context

    def noted(self: TrieDecoder, slots: np.ndarray, counts: list[int]):
        context = plain(self, slots, counts)
        assert context.plan is not None
        planned.extend(context.plan.groups["full_attention"])
        return context

    monkeypatch.setattr(TrieDecoder, "forward_context", noted)
    return planned


def test_after_many_searches_at_once_every_step_of_the_next_reads_one_span(
    engine: SaffronEngine, groups: list[Group | Batch]
):
    widths = (4, 16, 1, 16, 4, 4)
    handles = [engine.submit(prompt_of(25 + 9 * i, i), settings=wide(width)) for i, width in enumerate(widths)]
    for handle in handles:
        handle.result()
    for seed, width in ((20, 1), (21, 4), (22, 16)):
        groups.clear()
        prompt = prompt_of(150, seed)
        answer = engine.generate(prompt, settings=wide(width)).token_ids
        assert len(groups) >= 60
        assert all(isinstance(group, Group) and len(group.parts) == 1 for group in groups)
        nodes = engine.policy.forest.match(prompt)
        assert nodes == list(range(nodes[0], nodes[0] + 150))
        # and the next turn
        groups.clear()
        engine.generate([*prompt, *answer, *prompt_of(20, seed + 9)], settings=wide(1))
        assert all(isinstance(group, Group) and len(group.parts) == 1 for group in groups)


def test_beams_of_requests_side_by_side_stay_in_their_own_room(engine: SaffronEngine, groups: list[Group | Batch]):
    # too long to be put together with others
    prompts = [prompt_of(180, seed) for seed in range(3)]
    engine.call(lambda: [decoder.clear() for decoder in engine.scheduler._decoders.values()])
    handles = [engine.submit(prompt, settings=wide(4, 24)) for prompt in prompts]
    alone = [handle.result().token_ids for handle in handles]
    spans = [group for group in groups if isinstance(group, Group)]
    assert all(len(group.parts) == 1 for group in spans)
    engine.call(lambda: [decoder.clear() for decoder in engine.scheduler._decoders.values()])
    assert [engine.generate(prompt, settings=wide(4, 24)).token_ids for prompt in prompts] == alone


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_strangers_within_the_span_are_not_read_whatever_they_held(family: str):
    """Two requests with one prompt grow side by side; one has computed NaN, which is wiped."""
    model = random_model(family, 7)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    forest = decoder.forest
    prompt = forest.insert(prompt_of(120, 0))
    decoder.forward(prompt, [])
    tips = [prompt[-1]] * 2
    for step in range(12):
        tips = [forest.insert([40 + 2 * step + i], parent=tip)[-1] for i, tip in enumerate(tips)]
        decoder.forward(tips, [], [1, 1])
    damaged = [slot for slot in forest.path(tips[1]).tolist() if slot not in prompt]
    with torch.inference_mode():
        for layer in range(model.config.num_hidden_layers):
            store = decoder.pool.layer(layer)
            store.keys[:, damaged], store.values[:, damaged] = torch.nan, torch.nan
    decoder.forget(damaged)
    forest.release(tips[1])
    node = forest.insert([99], parent=tips[0])
    context = decoder.forward_context(np.array(node), [1])
    assert context.plan is not None
    (group,) = context.plan.groups[decoder._kinds[0]]
    assert isinstance(group, Group)
    assert len(group.parts) == 1
    assert int((group.mask == -torch.inf).sum()) >= 4
    logits = decoder.forward(node, [0])
    assert torch.allclose(logits[0], plain_logits(model, history(decoder, node[0])), atol=1e-4)


def test_a_beginning_that_lies_before_and_behind_its_longest_run_is_one_span():
    """What a conversation began with, a longer turn behind it, and beams behind that."""
    model = random_model("llama", 7)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=400)
    forest = decoder.forest
    first = forest.insert(prompt_of(30, 0))
    between = forest.insert([3, 4, 5], parent=first[-1])
    other = forest.insert([6], parent=first[-1])
    turn = forest.insert([*prompt_of(30, 0), 6, *prompt_of(60, 1)])
    assert [*first, *between, *other, *turn[31:]] == list(range(94))
    decoder.forward([*first, *between, *turn[30:]], [])
    tips = [forest.insert([token], parent=turn[-1])[-1] for token in (7, 8)]
    context = decoder.forward_context(np.array(tips), [2])
    assert context.plan is not None
    (group,) = context.plan.groups["full_attention"]
    assert isinstance(group, Group)
    assert group.parts == [slice(0, tips[-1] + 1)]
    for tip, row in zip(tips, decoder.forward(tips, [0, 1]), strict=True):
        assert torch.allclose(row, plain_logits(model, history(decoder, tip)), atol=1e-4)


def test_a_beginning_that_lies_far_from_the_rest_is_read_where_it_lies():
    """Many prompts begin alike; the next one goes on elsewhere, longer than what it shares."""
    model = random_model("llama", 7)
    decoder = TrieDecoder(model, "policy", max_cache_tokens=800)
    forest = decoder.forest
    first = forest.insert(prompt_of(30, 0))
    forest.insert(prompt_of(200, 5))
    mine = forest.insert([*prompt_of(20, 0), *prompt_of(60, 1)])
    assert mine[:20] == first[:20]
    assert mine[20] == 230
    decoder.forward([*first, *mine[20:]], [], [30, 60])
    tips = [forest.insert([token], parent=mine[-1])[-1] for token in (7, 8)]
    context = decoder.forward_context(np.array(tips), [2])
    assert context.plan is not None
    (group,) = context.plan.groups["full_attention"]
    assert isinstance(group, Group)
    assert group.parts == [slice(0, 20), slice(230, 292)]
    for tip, row in zip(tips, decoder.forward(tips, [0, 1]), strict=True):
        assert torch.allclose(row, plain_logits(model, history(decoder, tip)), atol=1e-4)
