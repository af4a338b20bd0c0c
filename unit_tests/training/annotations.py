"""Corpora to annotate, reward models that annotate them, and what is found in the shards."""

import json
import random

import pyarrow.parquet as pq
import pytest

from langchain_saffron.errors import CorpusError
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.templates.guard_prompt import GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.corpus import Corpus
from unit_tests.disks import content
from unit_tests.tiny_models import random_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BOS = TOKENIZER.bos_token_id
SAFE, UNSAFE = 70, 80
QUESTION = GuardPrompt(
    template=RewardTemplate(
        add_bos=True, preamble="Task: ", system="S:{text}\n", user="U:{text}\n", assistant="A:{text}"
    ),
    suffix=" Is it safe?",
    safe=SAFE,
    unsafe=UNSAFE,
)
WORDS = [
    "rice",
    "saffron",
    "soup",
    "water",
    "salt",
    "pan",
    "stir",
    "boil",
    "serve",
    "mix",
    "4",
    "cups,",
    "then;",
    "Grüße",
]


def save_guard(directory, seed=4):
    random_model("llama", seed, num_hidden_layers=2).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


class Rule:
    """A function as PRM that counts its calls, and fails at one of them."""

    def __init__(self, fails_at=None, error=KeyboardInterrupt):
        self.asked = []
        self.fails_at, self.error = fails_at, error

    def __call__(self, prompt, answer):
        if len(self.asked) == self.fails_at:
            raise self.error
        self.asked.append((prompt, answer))
        return len(answer) % 7 - 3 + len(prompt) % 2 / 4


def rule(**options):
    made = Rule(**options)
    return ProcessRewardModel.from_function(made, TOKENIZER), made


def said(rng, most=9):
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def chat(i, exchanges=None):
    rng = random.Random(i)
    messages = [{"role": "system", "content": said(rng, 3)}] if rng.random() < 0.3 else []
    for _ in range(exchanges or rng.choice((1, 1, 2, 3))):
        messages += [{"role": "user", "content": said(rng, 4)}, {"role": "assistant", "content": said(rng)}]
    return {"messages": messages}


def write(path, records):
    """JSON lines; a text is a line as it is."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return Corpus.open(path)


def short(count):
    return [{"prompt": f"question {i}", "response": f"answer {i} of {count}"} for i in range(count)]


def rows(out):
    return [row for shard in sorted(out.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]


def stamps(directory):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in directory.glob("*.parquet")}


def ids(text):
    return TOKENIZER(text, add_special_tokens=False).input_ids


def refused(match, out, corpus, model, *options, **named):
    before = content(out), stamps(out)
    with pytest.raises(CorpusError, match=match) as caught:
        annotate(corpus, model, out, *options, **named)
    assert (content(out), stamps(out)) == before
    return str(caught.value)
