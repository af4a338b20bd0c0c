"""A corpus that a policy writes itself: its answers to prompts, plain and behind prefills."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from langchain_saffron.errors import CorpusError
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.fingerprint import fingerprint
from langchain_saffron.runtime.files import read_json, whole, write_json
from langchain_saffron.runtime.threads import threads_for
from langchain_saffron.templates.safe_encoder import replace_surrogates, safe_encoder
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.corpus.formats import prompt_of
from langchain_saffron.training.corpus.messages import Message, ShapeError
from langchain_saffron.training.policy_prompts import policy_prompt_ids
from langchain_saffron.training.settings import AnswerSettings

FORMAT = 1
_RECORD = "answers.json"
_FILES = "answers"


def read_prompts(path: str | Path) -> list[list[Message]]:
    """The prompts of a file: a line each where it ends in `.txt`, else what comes before each record's answer.

    Raises:
        CorpusError: There are none, or the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{path} cannot be read: {error}") from error
        prompts = [[{"role": "user", "content": line.strip()}] for line in lines if line.strip()]
    else:
        prompts = []
        for record in Corpus.open(path).read():
            with suppress(ShapeError):
                prompts.append(prompt_of(record.data or {}))
    if not prompts:
        raise CorpusError(f"{path} holds no prompt: give one a line (.txt), or records with prompt or messages")
    return prompts


def write_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[Message]],
    out: Path,
    settings: AnswerSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Sample a policy's answers and write them as conversations; a killed run goes on, with the same result.

    Args:
        model: The policy, a causal LM.
        tokenizer: Its tokenizer.
        prompts: The turns before each answer.
        out: A directory, new or of the same run.
        settings: Which answers.
        progress: Called with the prompts done and the answers written.

    Returns:
        A directory of JSONL files with `messages`.

    Raises:
        CorpusError: `out` holds answers of another run, or no answer says anything.
        StorageError: A file could not be written.
    """
    digest = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
    record = {"prompts": digest, "policy": fingerprint(model), "settings": settings.model_dump(mode="json")}
    known = read_json(out / _RECORD, FORMAT, CorpusError)
    if known is None:
        write_json(out / _RECORD, {"format": FORMAT, **record})
    elif differing := [key for key, value in record.items() if known.get(key) != value]:
        raise CorpusError(
            f"{out} holds answers of another run (other {', '.join(differing)}): choose another directory, or delete it"
        )
    writer = _Writer(model, tokenizer, settings)
    written = 0
    with threads_for(model):
        for start in range(0, len(prompts), settings.shard_size):
            path = out / _FILES / f"answers-{start // settings.shard_size:05d}.jsonl"
            part = prompts[start : start + settings.shard_size]
            if not path.exists():
                lines = [json.dumps({"messages": one}, ensure_ascii=False) for one in writer.answers(part, start)]
                with whole(path) as partial:
                    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            written += path.read_bytes().count(b"\n")
            if progress:
                progress(min(start + settings.shard_size, len(prompts)), written)
    if not written:
        raise CorpusError(f"none of the policy's answers to {len(prompts)} prompts says anything")
    return out / _FILES


class _Writer:
    """Samples answers in batches, whose random numbers depend on nothing but the seed and the place."""

    def __init__(self, model: Any, tokenizer: Any, settings: AnswerSettings) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._settings = settings
        self._encoder = safe_encoder(tokenizer)
        self._ends = list(end_token_ids(model, tokenizer))

    def answers(self, prompts: Sequence[list[Message]], first: int) -> list[list[Message]]:
        """The conversations; those without a word left out."""
        openings = ("", *self._settings.prefills)
        asked = [
            (turns, self._prompt_ids(turns), opening)
            for turns in prompts
            for opening in openings
            for _ in range(self._settings.samples)
        ]
        size = self._settings.batch_size
        found = []
        for start in range(0, len(asked), size):
            torch.manual_seed(self._settings.seed * 1_000_003 + first * 10_007 + start)
            part = asked[start : start + size]
            texts = self._sample([(ids, opening) for _, ids, opening in part])
            found += [
                [*turns, {"role": "assistant", "content": text}]
                for (turns, _, _), text in zip(part, texts, strict=True)
                if text.strip()
            ]
        return found

    @torch.inference_mode()
    def _sample(self, prompts: list[tuple[list[int], str]]) -> list[str]:
        begun = [self._encoder.encode(replace_surrogates(opening)) if opening else [] for _, opening in prompts]
        rows = [[*ids, *said] for (ids, _), said in zip(prompts, begun, strict=True)]
        width = max(map(len, rows))
        pad = self._ends[0] if self._ends else 0
        device = self._model.get_input_embeddings().weight.device
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=self._settings.max_tokens,
            do_sample=True,
            temperature=self._settings.temperature,
            top_p=self._settings.top_p,
            top_k=0,
            eos_token_id=self._ends or None,
            pad_token_id=pad,
        )
        texts = []
        for said, row in zip(begun, output[:, width:].tolist(), strict=True):
            end = next((i for i, token in enumerate(row) if token in self._ends), len(row))
            answer = [*said, *row[:end]][: self._settings.max_tokens]
            texts.append(self._tokenizer.decode(answer, skip_special_tokens=True).rstrip("\ufffd"))
        return texts

    def _prompt_ids(self, turns: list[Message]) -> list[int]:
        said = [(turn["role"], turn["content"]) for turn in turns]
        return policy_prompt_ids(self._tokenizer, self._encoder, said)
