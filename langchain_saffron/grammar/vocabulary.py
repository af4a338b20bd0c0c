"""What each token of a tokenizer writes, in bytes."""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from langchain_saffron.errors import GrammarError

METASPACE = "▁"
# printable ASCII, line breaks, and what UTF-8 is made of
_TEXT = (*b"\t\n", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5))
SAMPLE = '{"name": [1, -2.5], "ok": true} a <b>'


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """A vocabulary as bytes.

    Attributes:
        tokens: What each token writes; empty where it writes nothing or is no token.
        special: Control tokens by their text; they write nothing, and an answer's text leaves them out.
    """

    tokens: list[bytes]
    special: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether any text can be written, byte by byte if need be."""
        return {bytes([byte]) for byte in _TEXT} <= set(self.tokens)


def token_bytes(tokenizer: Any, size: int, excluded: Collection[int] = ()) -> TokenBytes:
    """Read a tokenizer.

    Added tokens that are not flagged special, such as `<tool_call>` in Qwen, write their text like ordinary ones.

    Args:
        tokenizer: A fast tokenizer of transformers.
        size: Width of the model's logits; rows without a token write nothing, tokens without a row do not count.
        excluded: Tokens that never count as text, such as end tokens.

    Raises:
        GrammarError: The tokenizer is of a kind whose tokens cannot be read one by one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise GrammarError(f"grammars need a fast tokenizer; {type(tokenizer).__name__} is not one")
    # the whole tokenizer as JSON would take seconds
    decoder = backend.decoder
    reader = _reader(None if decoder is None else json.loads(decoder.__getstate__()))
    if reader is None:
        raise GrammarError(
            "grammars need a tokenizer whose tokens stand for bytes: byte-level, or SentencePiece with '▁' for blanks"
        )
    added = backend.get_added_tokens_decoder()
    control = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    tokens = [b""] * size
    special: dict[str, int] = {}
    for name, i in backend.get_vocab(with_added_tokens=True).items():
        if i >= size or i in excluded:
            continue
        if i in control:
            special[name] = i
        else:
            tokens[i] = added[i].content.encode() if i in added else reader(name)
    _check(backend, tokens)
    return TokenBytes(tokens, special)


def _reader(decoder: dict[str, Any] | None) -> Callable[[str], bytes] | None:
    """How to read an ordinary token's name, if that depends on nothing else."""
    steps = list(_steps(decoder))
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        return _read_byte_level
    blanks = [step["pattern"]["String"] for step in steps if step["type"] == "Replace" and step["content"] == " "]
    blanks += [step.get("replacement", METASPACE) for step in steps if step["type"] == "Metaspace"]
    if not blanks or kinds & {"WordPiece", "BPEDecoder", "CTC"}:
        return None

    def read(name: str) -> bytes:
        if "ByteFallback" in kinds and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes([int(name[3:5], 16)])
        return name.replace(blanks[0], " ").encode()

    return read


def _steps(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if decoder is None:
        return
    for step in decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]:
        if step["type"] != "Replace" or "String" in step["pattern"]:
            yield step


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies, as GPT-2 chose them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_alphabet()


def _read_byte_level(name: str) -> bytes:
    try:
        return bytes(map(_BYTES.__getitem__, name))
    except KeyError:  # a placeholder that no text gives
        return b""


def _check(backend: Any, tokens: list[bytes]) -> None:
    """Read one text both ways.

    Raises:
        GrammarError: They differ.
    """
    ids = [i for i in backend.encode(SAMPLE, add_special_tokens=False).ids if i < len(tokens) and tokens[i]]
    written = b"".join(tokens[i] for i in ids)
    if written.strip() != backend.decode(ids, skip_special_tokens=True).strip().encode():
        raise GrammarError("grammars need a tokenizer that decodes token by token; this one rewrites what it decodes")
