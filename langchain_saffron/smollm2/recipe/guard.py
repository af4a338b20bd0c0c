"""The guard: the base with an adapter and a head that says after every token of an answer how safe it is so far."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from langchain_saffron.models.adapted import save_head
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.prm_config import CONFIG_FILE, FORMAT
from langchain_saffron.runtime.files import write_json
from langchain_saffron.smollm2.recipe import corpus, sources, wordings
from langchain_saffron.smollm2.recipe.layers import SplitModel, cached_states
from langchain_saffron.smollm2.recipe.optimise import fit
from langchain_saffron.smollm2.recipe.sampling import read_jsonl
from langchain_saffron.smollm2.recipe.texts import Text, encode_text, plan, system_ids
from langchain_saffron.templates.reward_template import RewardTemplate

RANK, RATE, TOKENS, EPOCHS = 16, 7e-4, 1_536, 2
REPLIES = 9_100
# of benign answers, the share that begins as a harmful one would
OPENED = 0.4
_TOKENS = 56
# of a refusal and the like: what follows says nothing new
_SHORT = 28


def guard_template(tokenizer: Any) -> RewardTemplate:
    """The policy's own template with its default system prompt, which the base knows."""
    text = tokenizer.decode(system_ids(tokenizer))
    turn = "<|im_start|>{role}\n{{text}}<|im_end|>\n"
    system, user, assistant = (turn.format(role=role) for role in ("system", "user", "assistant"))
    return RewardTemplate(add_bos=False, preamble=text, system=system, user=user, assistant=assistant)


def guard_texts(tokenizer: Any, data: Path, work: Path, held_out: bool = False) -> list[Text]:
    """Answers with a label at every token: what becomes of them, and after a turn the other.

    Harmful answers of the model's own are unsafe from the first word on, and safe from where they turn; refusals,
    benign answers and warnings of harm are safe; replies of DiaSafety are what people labelled them.
    """
    texts = []

    def add(
        prompt: str, answer: str, unsafe_until: int | None, kind: str, most: int = _TOKENS, ended: bool = False
    ) -> None:
        texts.append(
            encode_text(tokenizer, prompt, answer, ended=ended, unsafe_until=unsafe_until, most=most, kind=kind)
        )

    without = sources.evaluation_prompts(data)
    for number, row in enumerate(corpus.harmful_answers(work, held_out)):
        rng = Random(f"guard/{row['prompt']}")
        said = row["opening"] + row["answer"]
        add(row["prompt"], said, len(said) + 1, "harmful", 72)
        if number % 2 == 0:
            said, until = corpus.turned(row, rng)
            add(row["prompt"], said, until, "turned", 96, ended=True)
        # a bad request that is answered well, and one that is refused behind the first words
        add(row["prompt"], wordings.refusal(rng), None, "refusal", _SHORT, ended=True)
    questions = sources.prompts_of(data, sources.HARMFUL, held_out, without)
    for question in questions[corpus.HARMFUL_ANSWERS :][:200] if not held_out else ():
        add(question, wordings.refusal(Random(f"guard/{question}")), None, "refusal", _SHORT, ended=True)
    for row in read_jsonl(work / "samples/benign.jsonl"):
        if row["held_out"] == held_out and row["answer"].strip():
            rng = Random(f"guard/{row['prompt']}")
            first = wordings.opening(row["prompt"], rng) + " " if rng.random() < OPENED else ""
            add(row["prompt"], first + row["answer"].lstrip(), None, "benign", 48)
    for row in read_jsonl(work / "samples/warnings.jsonl"):
        if row["held_out"] == held_out and row["answer"].strip():
            # the same topic without the harm, also where the harm was asked for
            for asked in (row["prompt"], row["question"]):
                add(asked, row["answer"], None, "warning")
    replies = sources.read_rows(data, "diasafety_val" if held_out else "diasafety_train")
    replies = sorted(replies, key=lambda row: sources.draw(row["prompt"] + row["response"]))
    for row in replies[: REPLIES if not held_out else 300]:
        if sources.normalise(row["prompt"]) not in without and row["response"].strip():
            unsafe = None if row["safe"] else len(row["response"]) + 1
            add(
                row["prompt"],
                row["response"],
                unsafe,
                f"reply {'safe' if row['safe'] else 'unsafe'}",
                _TOKENS,
                ended=True,
            )
    return texts


def train_guard(
    base: str, data: Path, work: Path, out: Path, seed: int = 0, named: str | None = None
) -> dict[str, Any]:
    """Train the adapter and the head, and write them; the arguments are those of `policy.train_policy`."""
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base, "guard")
    texts = guard_texts(tokenizer, data, work)
    model = SplitModel(load_causal_lm(base, "guard"), system_ids(tokenizer), RANK)
    head = nn.Linear(model.model.config.hidden_size, 1, bias=False)
    head.weight = nn.Parameter(torch.zeros_like(head.weight))
    *states, prefix = cached_states(model, texts, work / "states/guard")
    batches = list(plan(texts, TOKENS, EPOCHS, Random(seed)))

    def loss_of(chosen: list[int]) -> torch.Tensor:
        some = [texts[i] for i in chosen]
        hidden = torch.cat(model.upper_states(some, [states[i] for i in chosen], prefix))
        labels = torch.tensor([label for text in some for label in text.labels])
        # a long answer says more than a short one, but its tokens say nearly the same
        weights = torch.tensor([(len(text.ids) - text.answer) ** -0.5 for text in some for _ in text.ids])
        known = ~labels.isnan()
        rewards = head(hidden[known].float())[:, 0]
        losses = functional.binary_cross_entropy_with_logits(rewards, labels[known], reduction="none")
        return (weights[known] * losses).sum() / weights[known].sum()

    trained = [*model.adapter(), *head.parameters()]
    losses = fit(trained, loss_of, batches, RATE, work / "checkpoints/guard.pt", "guard")
    model.save_adapter(out, named or base, {"task_type": "SEQ_CLS", "id2label": {"0": "safe"}})
    save_head(out, head.weight)
    write_json(out / CONFIG_FILE, {"format": FORMAT, "template": guard_template(tokenizer).model_dump()})
    return {"texts": corpus.kinds_of(texts), "steps": len(batches), "loss": sum(losses[-20:]) / len(losses[-20:])}
