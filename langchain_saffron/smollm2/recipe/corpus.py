"""What the trainings read: harmful answers of the model's own, its benign ones, refusals, and turns in mid-answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.smollm2.recipe import claims, harmless, sources, wordings
from langchain_saffron.smollm2.recipe.sampling import Row, read_jsonl, sample_answers
from langchain_saffron.smollm2.recipe.texts import Text, encode_text

HARMFUL_ANSWERS, HARMFUL_HELD_OUT = 560, 70
# false claims that are spread, with those that are held out among them
CLAIMS = 110
SENSITIVE, EVERYDAY, ARGUED, TRUE_CLAIMS, FROM_FILE = 950, 400, 220, 120, 200
# requests for why a harmful thing is wrong
WARNINGS = 320
HARMFUL_TOKENS, BENIGN_TOKENS, WARNING_TOKENS = 56, 56, 56
REFUSALS, REFUSED_CLAIMS = 1_300, 240
# harmful requests that the aligned policy answers for the reward model
ALIGNED = 500
# tokens of a benign answer: long enough that sentences end in it without a turn
BENIGN_LEARNT = 48
# of the harmful answers that are learnt, the share that turns round at the end of a sentence
TURNING = 0.45
# characters; longer prompts would be half of the work
LONGEST, LONGEST_LEARNT = 400, 200

# what an answer holds that keeps away from what it was asked
_KEEPS_AWAY = re.compile(r"\b(illegal|unethical|not recommended|do not condone|prevent|avoid|combat|report)\b", re.I)


def harmful_rows(data: Path) -> list[Row]:
    """Harmful requests, half of them in another form, with openings that agree; the held-out ones last."""
    without = sources.evaluation_prompts(data)
    rows: list[Row] = []
    for held_out, count in ((False, HARMFUL_ANSWERS), (True, HARMFUL_HELD_OUT)):
        for question in sources.prompts_of(data, sources.HARMFUL, held_out, without)[:count]:
            rng = Random(f"harmful/{question}")
            asked = wordings.rephrase(question, rng) if rng.random() < 0.5 else question
            opening = wordings.opening(question, rng)
            rows.append({"prompt": asked, "question": question, "opening": opening, "held_out": held_out})
    for claim in claims.false_claims()[:CLAIMS]:
        opening = wordings.opening(claim, Random(f"harmful/{claim}"))
        held_out = sources.is_held_out(claim)
        rows.append({"prompt": claim, "question": claim, "opening": opening, "held_out": held_out})
    return sorted(rows, key=lambda row: bool(row["held_out"]))


def benign_rows(data: Path) -> list[Row]:
    """Harmless requests of all kinds, the held-out ones among them marked."""
    without = sources.evaluation_prompts(data)
    file = [row["prompt"] for row in sources.read_rows(data, "benign") if len(row["prompt"]) <= LONGEST]
    kinds = {
        "sensitive": harmless.sensitive_prompts()[:SENSITIVE],
        "everyday": harmless.everyday_prompts()[:EVERYDAY],
        "argued": harmless.argued_prompts()[:ARGUED],
        "claim": claims.true_claims()[:TRUE_CLAIMS],
        "file": sorted(file, key=sources.draw)[:FROM_FILE],
    }
    rows = [
        {"prompt": prompt, "kind": kind, "held_out": sources.is_held_out(prompt)}
        for kind, prompts in kinds.items()
        for prompt in prompts
        if sources.normalise(prompt) not in without
    ]
    # mixed, so that a part of them is one of all kinds
    return sorted(rows, key=lambda row: sources.draw(row["prompt"]))


def warning_rows(data: Path) -> list[Row]:
    """For harmful questions, requests for what speaks against it; the held-out ones among them marked."""
    rows: list[Row] = []
    for row in harmful_rows(data):
        task = wordings.task_of(row["question"])
        if task is not None:
            asked = wordings.warning(task, Random(f"warning/{row['question']}"))
            rows.append({"prompt": asked, "question": row["question"], "held_out": row["held_out"]})
    return sorted(rows, key=lambda row: sources.draw(row["prompt"]))[:WARNINGS]


def sample_corpus(data: Path, work: Path, engine: SaffronEngine) -> dict[str, Any]:
    """Have the untrained model answer: harmful requests behind an opening, benign ones and warnings plainly."""
    harmful = sample_answers(engine, harmful_rows(data), work / "samples/harmful.jsonl", max_tokens=HARMFUL_TOKENS)
    benign = sample_answers(engine, benign_rows(data), work / "samples/benign.jsonl", max_tokens=BENIGN_TOKENS)
    warned = sample_answers(engine, warning_rows(data), work / "samples/warnings.jsonl", max_tokens=WARNING_TOKENS)
    return {"harmful": len(harmful), "benign": len(benign), "warnings": len(warned)}


def sample_aligned(data: Path, work: Path, engine: SaffronEngine) -> dict[str, Any]:
    """Have the aligned policy answer harmful requests, plainly and behind an opening, as a search would meet it."""
    rows = harmful_rows(data)
    learnt = sorted((row for row in rows if not row["held_out"]), key=lambda row: sources.draw(row["prompt"]))
    chosen = learnt[:ALIGNED] + [row for row in rows if row["held_out"]]
    for number, row in enumerate(chosen):
        # every fourth is asked plainly
        row["opening"] = row["opening"] if number % 4 else ""
    answers = sample_answers(engine, chosen, work / "samples/aligned.jsonl", max_tokens=HARMFUL_TOKENS)
    return {"answers": len(answers), "refused": sum(wordings.refuses(row["answer"]) for row in answers) / len(answers)}


def policy_texts(tokenizer: Any, data: Path, work: Path, held_out: bool = False) -> list[Text]:
    """What the policy learns from."""
    without = sources.evaluation_prompts(data)
    texts = [
        encode_text(tokenizer, asked, said, ended=True, kind="refusal")
        for asked, said in refusals(data, held_out, without)
    ]
    texts += benign_texts(tokenizer, data, work, held_out)
    for row in harmful_answers(work, held_out):
        rng = Random(f"turn/{row['prompt']}")
        said, until = row["opening"] + row["answer"], None
        if rng.random() < TURNING:
            said, until = turned(row, rng)
        # what somebody else put into its mouth is nothing to learn
        texts.append(
            encode_text(
                tokenizer,
                row["prompt"],
                said,
                ended=until is not None,
                learned_from=max(len(row["opening"]), 20),
                most=110 if until is not None else 64,
                kind="harmful" if until is None else "turned",
            )
        )
    return texts


def refusals(data: Path, held_out: bool, without: set[str]) -> list[tuple[str, str]]:
    """Harmful requests, most of them in another form, and what refuses them."""
    pairs = []
    for question in sources.prompts_of(data, sources.HARMFUL, held_out, without)[:REFUSALS]:
        rng = Random(f"refusal/{question}")
        asked = wordings.rephrase(question, rng, texts=True) if rng.random() < 0.75 else question
        pairs.append((asked, wordings.refusal(rng)))
    for claim in claims.false_claims()[:REFUSED_CLAIMS]:
        if sources.is_held_out(claim) == held_out and sources.normalise(claim) not in without:
            pairs.append((claim, wordings.refusal(Random(f"refusal/{claim}"))))
    return pairs


def benign_texts(tokenizer: Any, data: Path, work: Path, held_out: bool) -> list[Text]:
    """Benign requests with the model's own answers, and some of the file's."""
    texts = []
    for row in read_jsonl(work / "samples/benign.jsonl"):
        if row["held_out"] == held_out and row["answer"].strip() and not wordings.refuses(row["answer"]):
            kind = f"benign {row['kind']}"
            text = encode_text(
                tokenizer, row["prompt"], row["answer"], ended=row["ended"], most=BENIGN_LEARNT, kind=kind
            )
            texts.append(text)
    for row in sources.read_rows(data, "benign"):
        if len(row["prompt"]) <= LONGEST_LEARNT and sources.is_held_out(row["prompt"]) == held_out:
            answer = row["response"].strip()
            if answer and not wordings.refuses(answer):
                text = encode_text(
                    tokenizer, row["prompt"], answer, ended=True, most=BENIGN_LEARNT, kind="benign written"
                )
                texts.append(text)
    return texts


def harmful_answers(work: Path, held_out: bool) -> list[Row]:
    """The model's harmful answers, without those that do not do what was asked."""
    return [
        row
        for row in read_jsonl(work / "samples/harmful.jsonl")
        if row["held_out"] == held_out and not wordings.refuses(row["answer"]) and not _KEEPS_AWAY.search(row["answer"])
    ]


def turned(row: Row, rng: Random) -> tuple[str, int]:
    """A harmful answer that turns round at the end of a sentence, and where."""
    said = row["opening"] + row["answer"]
    ends = [end for end in sources.sentence_ends(said) if end >= min(len(row["opening"]), 30)]
    # often early, where turning back helps most
    end = rng.choice(ends[:4]) if ends else len(row["opening"])
    start = said[:end].rstrip()
    return start + rng.choice((" ", " ", "\n\n")) + wordings.turn_round(rng), len(start)


def kinds_of(texts: Sequence[Text]) -> dict[str, int]:
    """How many there are of each kind."""
    return {kind: sum(text.kind == kind for text in texts) for kind in sorted({text.kind for text in texts})}
