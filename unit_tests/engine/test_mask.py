"""Masks on whole models: what each is the same as, alone, together and streamed."""

import pytest
import torch

from langchain_saffron import ChatSaffron, SaffronEngine, SaffronLLM, SearchSettings
from langchain_saffron.models.mrm import MultifurcationRewardModel
from unit_tests.tiny_models import PROMPTS, VOCABULARY, random_model, random_reward_model, tiny_tokenizer

MASKS = ("strict", "soft", "off")


def engine_of(mrm: MultifurcationRewardModel) -> SaffronEngine:
    return SaffronEngine(random_model("llama", 0), tiny_tokenizer(), mrm)


def asked(mask: str, **changes: object) -> SearchSettings:
    return SearchSettings(**{"width": 4, "max_tokens": 10, "top_p": 0.95, "mask": mask, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def engine():
    made = engine_of(random_reward_model(1, unseen=VOCABULARY // 2))
    yield made
    made.close()


def answers(engine: SaffronEngine, mask: str, **changes: object) -> list[list[int]]:
    return [list(engine.generate(prompt, settings=asked(mask, **changes)).token_ids) for prompt in PROMPTS[:6]]


def test_the_masks_differ_and_each_answers_alike_alone_together_and_streamed(engine: SaffronEngine):
    alone = {mask: answers(engine, mask) for mask in MASKS}
    assert alone["strict"] != alone["soft"] != alone["off"] != alone["strict"]
    handles = [(mask, i, engine.submit(PROMPTS[i], settings=asked(mask))) for i in range(6) for mask in MASKS]
    for mask, i, handle in handles:
        assert list(handle.result().token_ids) == alone[mask][i]
    for i in range(6):
        *text, result = engine.stream(PROMPTS[i], settings=asked("soft"))
        assert list(result.token_ids) == alone["soft"][i]
        assert "".join(text) == result.text


@pytest.mark.parametrize("ranking", ["constrained", "paper"])
def test_without_a_mask_all_tokens_are_as_if_seen(engine: SaffronEngine, ranking: str):
    all_seen = engine_of(random_reward_model(1, unseen=0))
    try:
        expected = answers(all_seen, "strict", ranking=ranking)
        assert answers(engine, "off", ranking=ranking) == expected
        # where all is seen, no mask does anything
        assert answers(all_seen, "soft", ranking=ranking) == expected
    finally:
        all_seen.close()


def test_strict_says_nothing_unseen_and_soft_does(engine: SaffronEngine):
    assert engine.reward_model is not None
    ends = set(engine.end_tokens)
    seen = {mask: [engine.reward_model.seen[t] for row in answers(engine, mask) for t in row if t not in ends]
            for mask in ("strict", "soft")}  # fmt: skip
    assert all(seen["strict"])
    assert not all(seen["soft"])


@pytest.mark.parametrize(("known", "record", "mask"), [
    (0.5, {}, "strict"),
    (0.1, {}, "soft"),
    (0.5, {"seen_share": 0.999}, "strict"),
    (0.5, {"seen_share": 0.99}, "soft"),
    (0.1, {"seen_share": 1.0}, "soft"),
    (0.5, {"seen_share": "damaged"}, "strict"),
])  # fmt: skip
def test_auto_goes_by_what_training_showed(known: float, record: dict, mask: str):
    mrm = random_reward_model(1, unseen=round((1 - known) * VOCABULARY))
    mrm.details = {"training": {"held_out": record}}
    made = engine_of(mrm)
    try:
        assert mrm.mask == mask
        assert made.resolve(asked("auto"), 5).mask == mask
        assert made.resolve(asked("off"), 5).mask == "off"
        assert answers(made, "auto") == answers(made, mask)
    finally:
        made.close()


def test_a_chat_model_s_mask_is_an_option_of_a_call_and_part_of_its_identity(engine: SaffronEngine):
    chat = ChatSaffron(engine=engine)
    assert chat.search_settings().mask == "auto"
    assert chat.with_options({"mask": "soft"}).search_settings().mask == "soft"
    identities = {str(ChatSaffron(engine=engine, mask=mask).identity()) for mask in ("auto", *MASKS)}
    assert len(identities) == 4
    llm = SaffronLLM(engine=engine, max_tokens=10, top_p=0.1)
    texts = {mask: tuple(llm.invoke(word, mask=mask) for word in ("Hello", "there", "Yes")) for mask in MASKS}
    assert texts["strict"] == tuple(map(llm.invoke, ("Hello", "there", "Yes")))
    assert len(set(texts.values())) == 3
    with pytest.raises(ValueError, match="mask"):
        llm.invoke("Hello there", mask="hard")


def test_the_risk_of_a_prompt_is_that_of_seen_tokens_whatever_the_mask(engine: SaffronEngine):
    assert engine.reward_model is not None
    assert not torch.all(engine.reward_model.seen)
    strict, soft = (engine.look_ahead(PROMPTS[3], settings=asked(mask)).expected for mask in ("strict", "soft"))
    assert soft == pytest.approx(strict, abs=1e-4)


def test_seen_tokens_are_counted_once_however_many_ask(monkeypatch: pytest.MonkeyPatch):
    made = engine_of(random_reward_model(1, unseen=VOCABULARY // 2))
    counted: list[int] = []
    count = MultifurcationRewardModel.seen_tokens.fget
    assert count is not None
    monkeypatch.setattr(
        MultifurcationRewardModel, "seen_tokens", property(lambda mrm: (counted.append(1), count(mrm))[1])
    )
    for prompt in PROMPTS[:3]:
        made.generate(prompt, settings=asked("auto", max_tokens=2))
    assert len(counted) == 1
    made.close()
