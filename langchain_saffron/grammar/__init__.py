"""Grammars that an answer has to follow, and what compiles and matches them."""

from langchain_saffron.grammar.grammar import Grammar, Tag

__all__ = ["Grammar", "Tag"]
