"""Searches: pure generators over nodes and scores; they never see a tensor of the cache."""

from langchain_saffron.search.base import ROOT, Answer, Expand, Node, Scores, Search, SearchInputs
from langchain_saffron.search.constraint import Constraint
from langchain_saffron.search.outlook import look_ahead
from langchain_saffron.search.plain import plain_search
from langchain_saffron.search.saffron import saffron_search

__all__ = [
    "ROOT",
    "Answer",
    "Constraint",
    "Expand",
    "Node",
    "Scores",
    "Search",
    "SearchInputs",
    "look_ahead",
    "plain_search",
    "saffron_search",
]
