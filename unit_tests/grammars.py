"""Grammars for tests."""

from typing import Any

from langchain_saffron.errors import GrammarError
from langchain_saffron.grammar import Grammar


def too_complex() -> Grammar:
    """More rules at one place than llguidance follows."""
    names = [f"r{i}" for i in range(2100)]
    return Grammar.lark("\n".join(['start: "ab" x', f"x: {' | '.join(names)}", *(f'{n}: "c" "{n}"' for n in names)]))


def accepts(tokenizer: Any, root: Any, text: str) -> bool:
    """Whether a text, as the tokenizer writes it, is a whole answer from a state on."""
    state = root
    try:
        for token in tokenizer(text, add_special_tokens=False).input_ids:
            state = state.advance(token)
    except GrammarError:
        return False
    return state.accepting
