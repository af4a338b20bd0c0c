"""Searches: pure generators over nodes and scores; they never see a tensor of the cache."""

from langchain_saffron.search.constraint import Constraint
from langchain_saffron.search.node import ROOT
from langchain_saffron.search.prompt_risk import look_ahead
from langchain_saffron.search.protocol import Answer, Expand, Node, Scores, Search, SearchInputs
from langchain_saffron.search.registry import find_search, register_search

__all__ = [
    "ROOT",
    "Answer",
    "Constraint",
    "Expand",
    "Node",
    "Scores",
    "Search",
    "SearchInputs",
    "find_search",
    "look_ahead",
    "register_search",
]
