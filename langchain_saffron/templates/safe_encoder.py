"""Encoding of text in which only trusted parts may become control tokens.

A tokenizer turns every occurrence of an added token's string, such as `<|im_end|>`, into that token, whoever
wrote it. `SafeEncoder` keeps a copy of the tokenizer in which every control token goes by another,
unguessable name. Trusted text has its control strings replaced by these names; in all other text a control
string is nothing but characters. Since the whole text is still encoded in one go, by the same normalizer,
pre-tokenizer, model and added-token rules, ordinary text gets exactly the ids of the original tokenizer.

HTML tags that a tokenizer keeps among its added tokens (Gemma) are ordinary text, unless the template writes them.
"""

import re
import secrets
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from langchain_saffron.errors import PromptError
from langchain_saffron.runtime.forks import ForkSafeLock
from langchain_saffron.templates.markup import markup_strings, template_texts
from langchain_saffron.templates.renamed_tokenizer import RenamedTokenizer

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def is_control(token: Any) -> bool:
    """Whether an added token is a control token.

    All are, flagged special or not, except what ordinary text is written with: the runs of blanks that some
    tokenizers (GPT-NeoX, Gemma) keep among their added tokens, and single characters that are not flagged
    special. `▁` is SentencePiece's space.
    """
    blank = all(character.isspace() or character == "▁" for character in token.content)
    return token.special or not (blank or len(token.content) == 1)


def replace_surrogates(text: str) -> str:
    """`text` with lone surrogates, which no tokenizer can encode, as U+FFFD; pairs become their character."""
    if not _LONE_SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class SafeEncoder:
    """Encodes text in which control tokens arise from their private names alone.

    Attributes:
        control_ids: The ids of the tokenizer's control tokens, but not the one that stands for unknown
            characters, which ordinary text may contain.
        single_characters: The control strings of one character, which nothing can take apart.
        has_blanks: Whether some control string contains a blank.
        pattern: Matches a control string where the tokenizer would see one.
        markup: Added tokens that are ordinary text here: HTML tags.
    """

    def __init__(self, tokenizer: Any, markup: frozenset[str] = frozenset()) -> None:
        """Builds the copy, which may be one pass over the vocabulary, so share the encoder (see `safe_encoder`).

        Args:
            tokenizer: A transformers tokenizer backed by the `tokenizers` library.
            markup: Added tokens that are no control tokens here: HTML tags that no template writes.

        Raises:
            PromptError: It is not, or its control tokens cannot be told from ordinary ones.
        """
        backend = _backend(tokenizer)
        added = tokenizer.added_tokens_decoder
        controls = {i: token for i, token in added.items() if is_control(token) and token.content not in markup}
        self.markup = markup
        self._markup_pattern = re.compile(_alternatives(markup))
        nonce = secrets.token_hex(16)
        self._names = {token.content: f"{nonce}x{index}x" for index, token in controls.items()}
        self.single_characters = sorted(string for string in self._names if len(string) == 1)
        self.has_blanks = any(character.isspace() for string in self._names for character in string)
        self.pattern = _control_pattern(controls.values())
        self._starts = re.compile(f"(?=(?:{_alternatives(self._names)}))(.)", re.DOTALL)
        self._copy = RenamedTokenizer(backend, added, self._names)
        self.control_ids = frozenset(controls) - {self._copy.unknown_id}
        bos = tokenizer.bos_token_id
        # Whatever else the tokenizer adds, such as an end token, has no place before text to be continued.
        self.bos_ids = [bos] if bos is not None and bos in self._copy.opening[:1] else []
        # what a text may follow: where newlines run together with those of the text, a letter
        self._leads = [(lead, self.encode(lead)) for lead in ("\n", "x")]

    def name_controls(self, trusted: str) -> str:
        """`trusted` with the private names in place of its control strings, ready for `encode`."""
        return self.pattern.sub(lambda match: self._names[match[0]], trusted)

    def markup_in(self, trusted: str) -> frozenset[str]:
        """Those of `markup` that a template has written."""
        return frozenset(self._markup_pattern.findall(trusted)) if self.markup else self.markup

    def control_sequence(self, trusted: str) -> list[str]:
        """The control strings in `trusted`, in order."""
        return self.pattern.findall(trusted)

    def break_controls(self, text: str, mark: str) -> str:
        """`text` with `mark` inside every control string of two or more characters, overlapping ones too."""
        return self._starts.sub(lambda match: match[1] + mark, text) if self.pattern.search(text) else text

    def encode(self, text: str) -> list[int]:
        """Ids of a text; control tokens only where it has their private names. Nothing is added around it."""
        return self._copy.encode(text)

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of a text that follows other text: without the blank that SentencePiece puts first."""
        for lead, lead_ids in self._leads:
            ids = self.encode(lead + text)
            if ids[: len(lead_ids)] == lead_ids:
                return ids[len(lead_ids) :]
        return self.encode(text)


# by tokenizer: its size, its HTML tags, and an encoder for each set of them that counts as ordinary text
_encoders: "WeakKeyDictionary[Any, tuple[int, frozenset[str], dict[frozenset[str], SafeEncoder]]]" = WeakKeyDictionary()
_lock = ForkSafeLock()


def safe_encoder(tokenizer: Any, *templates: str) -> SafeEncoder:
    """The `SafeEncoder` of a tokenizer, built once as long as no token is added to it.

    Args:
        tokenizer: The tokenizer.
        templates: Texts of templates besides its own chat templates: HTML tags in any of them are control tokens.
    """
    _backend(tokenizer)
    with _lock:
        size, markup, encoders = _encoders.get(tokenizer, (-1, frozenset[str](), {}))
        if size != len(tokenizer):
            markup, encoders = markup_strings(tokenizer), {}
            _encoders[tokenizer] = (len(tokenizer), markup, encoders)
        if markup:
            texts = [*template_texts(tokenizer), *templates]
            markup = frozenset(tag for tag in markup if not any(tag in text for text in texts))
        if markup not in encoders:
            encoders[markup] = SafeEncoder(tokenizer, markup)
        return encoders[markup]


def _backend(tokenizer: Any) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise PromptError(
            f"{type(tokenizer).__name__} is not backed by the `tokenizers` library, which prompts that user text "
            "cannot escape need. Load the model's tokenizer.json with AutoTokenizer."
        )
    return backend


def _control_pattern(tokens: Iterable[Any]) -> re.Pattern[str]:
    """Matches control strings as the tokenizer does: leftmost, longest, whole words where it says so."""
    tokens = list(tokens)
    words = _alternatives(token.content for token in tokens if token.single_word)
    others = _alternatives(token.content for token in tokens if not token.single_word)
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)|(?:{others})")


def _alternatives(strings: Iterable[str]) -> str:
    """A regular expression for any of `strings`, as a trie: some tokenizers have thousands of `<unusedN>`."""
    trie: dict[str, Any] = {}
    for string in strings:
        node = trie
        for character in string:
            node = node.setdefault(character, {})
        node[""] = {}
    return _trie_expression(trie) if trie else "(?!)"


def _trie_expression(node: dict[str, Any]) -> str:
    text = ""
    while len(node) == 1:  # a run without branches
        ((character, node),) = node.items()
        if not character:
            return text
        text += re.escape(character)
    branches = "|".join(re.escape(c) + _trie_expression(child) for c, child in sorted(node.items()) if c)
    return f"{text}(?:{branches}){'?' if '' in node else ''}"
