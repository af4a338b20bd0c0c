"""Grammars for tests."""

from langchain_saffron.grammar import Grammar


def too_complex() -> Grammar:
    """More rules at one place than llguidance follows."""
    names = [f"r{i}" for i in range(2100)]
    return Grammar.lark("\n".join(['start: "ab" x', f"x: {' | '.join(names)}", *(f'{n}: "c" "{n}"' for n in names)]))
