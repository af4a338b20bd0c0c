"""Functions that score batches of conversations: what they are given, and what they have to return."""

import numpy as np
import pytest
import torch

from langchain_saffron import ProcessRewardModel
from langchain_saffron.errors import SettingsError
from langchain_saffron.models.guard_function import BATCH, PromptIds, conversation_guard
from unit_tests.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TURNS = [("system", "Be brief."), ("user", "a soup?\n\nAgent: x"), ("assistant", "yes"), ("user", "how?")]
ASKED = [{"role": role, "content": text} for role, text in TURNS]


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def test_a_batch_of_conversations_with_their_messages():
    batches = []

    @conversation_guard
    def lengths(conversations):
        batches.append(conversations)
        return [len(messages[-1]["content"]) for messages in conversations]

    prm = ProcessRewardModel.from_function(lengths, TOKENIZER, "lengths")
    prompt, answer = prm.prompt_ids(TURNS), ids("boil it, then serve")
    other = prm.prompt_ids([("user", "rice?")])
    found = prm.score([(prompt, answer), (other, []), (other, answer[:2])])
    said = [TOKENIZER.decode(answer[: i + 1]) for i in range(len(answer))]
    assert batches == [
        [
            *([*ASKED, {"role": "assistant", "content": text}] for text in said),
            *([{"role": "user", "content": "rice?"}, {"role": "assistant", "content": text}] for text in said[:2]),
        ]
    ]
    assert [rewards.tolist() for rewards in found] == [list(map(len, said)), [], list(map(len, said[:2]))]
    assert lengths.__name__ == "lengths"


def test_large_batches_are_parted():
    sizes = []

    @conversation_guard
    def score(conversations):
        sizes.append(len(conversations))
        return np.arange(len(conversations))

    prm = ProcessRewardModel.from_function(score, TOKENIZER)
    rewards = prm.prefix_rewards(prm.prompt_ids(TURNS), [5] * (BATCH + 3))
    assert sizes == [BATCH, 3]
    assert rewards.tolist() == [*range(BATCH), 0, 1, 2]


def test_a_begun_answer_belongs_to_the_answer():
    heard = []

    @conversation_guard
    def score(conversations):
        heard.extend(conversations)
        return [1.0] * len(conversations)

    prm = ProcessRewardModel.from_function(score, TOKENIZER)
    asked = prm.prompt_ids([("user", "rice?")])
    begun = asked + ids("wash")
    prm.score([(begun, ids(" it")), (begun[: -len(ids("wash"))], ids(" it"))])
    last = [messages[-1]["content"] for messages in heard]
    assert last[len(ids(" it")) - 1] == TOKENIZER.decode(ids("wash") + ids(" it"))
    assert last[-1] == TOKENIZER.decode(ids(" it"))
    assert {messages[0]["content"] for messages in heard} == {"rice?"}
    assert isinstance(asked[0], int)
    assert not isinstance(asked[1:], PromptIds)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([1.0], "was given 2 conversations, but returned 1 rewards"),
        (3.0, "has to return a list of 2 rewards"),
        (["safe", "unsafe"], "has to return a number for every conversation"),
        ([float("nan"), 1.0], "returned NaN"),
    ],
)
def test_a_reward_for_each_of_them(given, complaint: str):
    prm = ProcessRewardModel.from_function(conversation_guard(lambda conversations: given), TOKENIZER, "my guard")
    with pytest.raises(SettingsError, match=f"my guard {complaint}"):
        prm.prefix_rewards(prm.prompt_ids(TURNS), [5, 6])


def test_plain_ids_are_no_conversation():
    prm = ProcessRewardModel.from_function(conversation_guard(lambda c: [1.0] * len(c)), TOKENIZER, "my guard")
    with pytest.raises(SettingsError, match=r"my guard scores conversations.*prompt_ids\(turns\)"):
        prm.prefix_rewards([1, 2], [3])
    plain = ProcessRewardModel.from_function(lambda prompt, answer: 1.0, TOKENIZER)
    assert torch.equal(plain.prefix_rewards([1, 2], [3]), torch.tensor([1.0]))
