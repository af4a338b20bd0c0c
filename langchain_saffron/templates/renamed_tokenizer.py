"""A tokenizer whose control tokens go by other names, so that no text can spell them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from langchain_saffron.errors import PromptError

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class RenamedTokenizer:
    """Encodes like another tokenizer, but knows its control tokens by their new names only, under the same ids.

    Attributes:
        unknown_id: The token that stands for unknown characters; `None` if there is none.
    """

    def __init__(self, backend: Tokenizer, added: Mapping[int, Any], names: Mapping[str, str]) -> None:
        """Builds it: in a moment where the vocabulary can be shared, else in seconds.

        Args:
            backend: The other one.
            added: All its added tokens by id.
            names: The new names of control tokens, by the old ones.

        Raises:
            PromptError: The control tokens cannot be told from ordinary ones.
        """
        self._ids: dict[int, int] = {}
        shared = _shared(backend, added, names)
        if shared is not None:
            self._copy, self._ids = shared
            unknown = backend.model.unk_token
            self.unknown_id = None if unknown is None else backend.token_to_id(unknown)
            return
        config = json.loads(backend.to_str())
        unknown = config["model"].get("unk_token")
        self.unknown_id = config["model"].get("unk_id") if unknown is None else backend.token_to_id(unknown)
        self._copy = _rewritten(config, {i: token for i, token in added.items() if token.content in names}, names)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, and nothing around it."""
        ids: list[int] = self._copy.encode(text, add_special_tokens=False).ids
        return [self._ids.get(i, i) for i in ids] if self._ids else ids

    @property
    def opening(self) -> list[int]:
        """What the tokenizer puts before a text by itself, or around it."""
        ids: list[int] = self._copy.encode("", add_special_tokens=True).ids
        return ids


def _shared(
    backend: Tokenizer, added: Mapping[int, Any], names: Mapping[str, str]
) -> tuple[Tokenizer, dict[int, int]] | None:
    """A tokenizer over the same vocabulary, in which added tokens have ids of their own, and what these stand for.

    `None` where the vocabulary alone could make a control token of text. Byte pair encoding merges within a token just
    as it does when there is nothing around it: what it does not make of a control string alone, it makes of no text.
    """
    model = backend.model
    if not isinstance(model, BPE) or model.dropout:
        return None
    if known := [name for name in names if model.token_to_id(name) is not None]:
        affixes = model.continuing_subword_prefix or model.end_of_word_suffix
        if affixes or model.ignore_merges or any(_BYTE.fullmatch(name) or len(name) == 1 for name in known):
            return None
        own = {name: model.token_to_id(name) for name in known}
        if any(token.id == own[name] for name in known for token in model.tokenize(name)):
            return None
    copy = Tokenizer(model)
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        if (value := getattr(backend, part)) is not None:
            setattr(copy, part, value)
    for special in (True, False):
        tokens = [_renamed(token, names) for _, token in sorted(added.items()) if token.special is special]
        (copy.add_special_tokens if special else copy.add_tokens)(tokens)
    ids: dict[int, int] = {}
    for original, token in added.items():
        own_id = copy.token_to_id(names.get(token.content, token.content))
        if own_id is None or own_id in ids:
            return None
        # an id of its own, or an ordinary token of the vocabulary
        if model.id_to_token(own_id) is not None and (own_id != original or token.content in names):
            return None
        ids[own_id] = original
    return copy, {own_id: original for own_id, original in ids.items() if own_id != original}


def _renamed(token: Any, names: Mapping[str, str]) -> Any:
    return type(token)(
        names.get(token.content, token.content),
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=token.special,
    )


def _rewritten(config: dict[str, Any], controls: Mapping[int, Any], names: Mapping[str, str]) -> Tokenizer:
    """A tokenizer of its own, whose vocabulary has the new names."""
    config["truncation"] = config["padding"] = None
    for token in config["added_tokens"]:
        if token["id"] in controls:
            token["content"] = names[token["content"]]
    model = config["model"]
    byte_level = "ByteLevel" in json.dumps([config["normalizer"], config["pre_tokenizer"]])
    if byte_level and (shared := names.keys() & set(ByteLevel.alphabet())):
        raise PromptError(f"the special tokens {sorted(shared)} are also how this tokenizer writes single bytes")
    # Often the vocabulary itself has the control strings, and the model could assemble them from characters.
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(t, t) if i in controls else t: i for t, i in model["vocab"].items()}
    else:
        model["vocab"] = [
            [names.get(piece, piece) if index in controls else piece, score]
            for index, (piece, score) in enumerate(model["vocab"])
        ]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, names)]
    copy = Tokenizer.from_str(json.dumps(config, ensure_ascii=False))
    moved = [t.content for index, t in controls.items() if copy.token_to_id(names[t.content]) != index]
    if moved:
        raise PromptError(f"the tokenizer's added tokens cannot be copied: {moved[:5]} would change ids")
    return copy


def _touches(merge: str | Sequence[str], names: Mapping[str, str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left + right in names or left in names or right in names
