"""From grammars to matchers, for one model."""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from langchain_saffron.errors import GrammarError, RequestTimeoutError
from langchain_saffron.extras import GRAMMARS
from langchain_saffron.grammar.answer_closing import AnswerCloser
from langchain_saffron.grammar.grammar import Grammar
from langchain_saffron.grammar.lark import lark
from langchain_saffron.grammar.matcher import GrammarMatcher, Tokens, readable
from langchain_saffron.grammar.parts import PartsLark
from langchain_saffron.grammar.trial import SECONDS, needs_trial, try_out
from langchain_saffron.grammar.vocabulary import TokenBytes, token_bytes
from langchain_saffron.runtime.forks import ForkSafeLock, renew_after_fork

_LATE = "the request ran into its timeout while its grammar was compiled: raise timeout=, or use a simpler grammar"


class GrammarCompiler:
    """Compiles grammars over the tokens of one model, and keeps the latest ones. Safe to use from many threads."""

    def __init__(self, tokenizer: Any, vocabulary: int, end_tokens: Sequence[int], kept: int = 64) -> None:
        """Take a model's tokens; nothing is read before the first grammar.

        Args:
            tokenizer: A fast tokenizer.
            vocabulary: Width of the model's logits. Rows without a token are never allowed.
            end_tokens: Tokens that are allowed exactly where an answer is whole.
            kept: How many compiled grammars are kept.
        """
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self.end_tokens = tuple(end_tokens)
        self._kept = kept
        self._lock = ForkSafeLock()
        self._roots: OrderedDict[Grammar, GrammarMatcher] = OrderedDict()
        self._begun: dict[Grammar, threading.Event] = {}
        self._library: Any = None
        self._tokens: TokenBytes | None = None
        self._ll_tokenizer: Any = None
        self._wrapper: Any = None
        renew_after_fork(self)

    def compile(self, grammar: Grammar, timeout: float | None = None) -> GrammarMatcher:
        """The matcher of the empty response. One that takes long holds nobody up who asks for another.

        Args:
            grammar: The grammar.
            timeout: Seconds that it may take; by default `trial.SECONDS`.

        Raises:
            ExtraRequiredError: llguidance is not installed.
            GrammarError: The grammar cannot be read, has no answer in these tokens, or is too complex.
            RequestTimeoutError: The timeout passed before it was known.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if root := self._roots.get(grammar):
                    self._roots.move_to_end(grammar)
                    return root.copy()
                tokens = self._prepare()
                begun = self._begun.get(grammar)
                if begun is None:
                    self._begun[grammar] = threading.Event()
            if begun is None:
                return self._compile_first(grammar, tokens, ends)
            # somebody else is at it; should that fail, it is tried again here, with this caller's time
            if not begun.wait(_left(ends)):
                raise RequestTimeoutError(_LATE)

    def written(self) -> TokenBytes:
        """What each token of the model writes.

        Raises:
            ExtraRequiredError: llguidance is not installed.
            GrammarError: The tokenizer's tokens cannot be read one by one.
        """
        with self._lock:
            return self._prepare()

    def renew(self) -> None:
        """In a forked child: what other threads were compiling will not be finished."""
        self._begun.clear()

    def _compile_first(self, grammar: Grammar, tokens: TokenBytes, ends: float | None) -> GrammarMatcher:
        """Compile what nobody has yet, and tell those who wait for it."""
        try:
            root = self._compiled(grammar, tokens, ends)
            with self._lock:
                self._roots[grammar] = root
                while len(self._roots) > self._kept:
                    self._roots.popitem(last=False)
                return root.copy()
        finally:
            with self._lock:
                begun = self._begun.pop(grammar, None)
            # none in a forked child, where nobody waits
            if begun is not None:
                begun.set()

    def _compiled(self, grammar: Grammar, tokens: TokenBytes, ends: float | None) -> GrammarMatcher:
        library = self._library
        parts = grammar.kind == "parts"
        source = PartsLark(grammar.source, tokens.special).text() if parts else lark(grammar, tokens.special)
        if not tokens.whole:
            # what is forced is written in the tokenizer's own tokens, and some of it might have none
            source += '\n%llguidance {"no_forcing": true}\n'
        if needs_trial(source):
            self._try_out(grammar, source, _left(ends))
        limits = library.LLParserLimits(verbose_errors=False)
        matcher = library.LLMatcher(self._ll_tokenizer, source, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(f"the {_NAMES[grammar.kind]} cannot be used: {_reason(grammar, readable(matcher))}")
        wrapper = self._wrapper
        closer = AnswerCloser(grammar, tokens.special, library, wrapper.tokens, wrapper, wrapper.longest_first)
        known = Tokens(self._vocabulary, list(self.end_tokens), self._ll_tokenizer, closer)
        root = GrammarMatcher(known, matcher)
        # a grammar that these tokens cannot even begin is refused before any forward
        root.copy().allowed([root])
        # what is known of ends is found out here, in the caller's thread
        root.shortest()
        return root

    def _try_out(self, grammar: Grammar, source: str, left: float | None) -> None:
        try:
            try_out(source, SECONDS if left is None else min(SECONDS, left))
        except GrammarError as error:
            if left is not None and left < SECONDS:
                raise RequestTimeoutError(_LATE) from error
            raise GrammarError(f"the {_NAMES[grammar.kind]} {error}") from None

    def _prepare(self) -> TokenBytes:
        if self._tokens is None:
            self._library = GRAMMARS.load("llguidance")
            tokens = token_bytes(self._tokenizer, self._vocabulary, self.end_tokens)
            self._wrapper = _Wrapper(self._tokenizer.backend_tokenizer, tokens)
            self._ll_tokenizer = self._library.LLTokenizer(self._wrapper)
            self._tokens = tokens
        return self._tokens


def _left(ends: float | None) -> float | None:
    return None if ends is None else max(0.0, ends - time.monotonic())


def _reason(grammar: Grammar, error: str) -> str:
    """An error without the places in Lark that the user has not written."""
    if grammar.kind == "lark":
        return error
    error = re.split(r"\n\s*\d+ \| ", error)[0]
    return re.sub(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?", "", error)


_NAMES = {
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "lark": "grammar",
    "tagged": "tools' grammar",
    "parts": "tools' grammar",
}


class _Wrapper:
    """A tokenizer in the shape that llguidance takes.

    Its end token is one beyond the vocabulary, so that any number of real end tokens can be allowed where it is.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, backend: Any, tokens: TokenBytes) -> None:
        self.eos_token_id = len(tokens.tokens)
        self.tokens = [*tokens.tokens, b""]
        self.special_token_ids = sorted(tokens.special.values())
        for name, i in tokens.special.items():
            self.tokens[i] = name.encode()
        self._backend = backend
        self._written = tokens.tokens
        longest: dict[int, dict[bytes, int]] = {}
        for i, written in enumerate(tokens.tokens):
            if written:
                longest.setdefault(written[0], {}).setdefault(written, i)
        self._by_start = longest
        # beams that stand at the same place of a document ask the same
        self._encoded = lru_cache(maxsize=4096)(self._encode)

    def __call__(self, text: str) -> list[int]:
        """The tokens that a model would write `text` with: forced parts of an answer are written so."""
        return self._encoded(text)

    def _encode(self, text: str) -> list[int]:
        utf8 = text.encode()
        # a word before it, for tokenizers that put a blank before the first
        for before in ("", "\n"):
            try:
                ids = self._backend.encode(before + text, add_special_tokens=False).ids
            except Exception:  # the tokenizer is in use in another thread; this must not fail
                break
            rest = self._behind(ids, before.encode())
            if rest is not None and b"".join(self._written[i] for i in rest) == utf8:
                return rest
        return self.longest_first(utf8)

    def _behind(self, ids: list[int], before: bytes) -> list[int] | None:
        """What of `ids` comes after the text `before`; `None` where that is no boundary between tokens."""
        if any(i >= len(self._written) or not self._written[i] for i in ids):
            return None
        if not before:
            return ids
        written = b""
        for place, i in enumerate(ids):
            written += self._written[i]
            if written.lstrip(b" ") == before:
                return ids[place + 1 :]
        return None

    def longest_first(self, utf8: bytes) -> list[int]:
        """Tokens that write some bytes, each as long as can be."""
        ids = []
        place = 0
        while place < len(utf8):
            known = self._by_start.get(utf8[place], {})
            size = next((n for n in range(len(utf8) - place, 0, -1) if utf8[place : place + n] in known), 0)
            if size:
                ids.append(known[utf8[place : place + size]])
            place += size or 1
        return ids
