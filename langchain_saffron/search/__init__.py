"""Searches: pure generators over nodes and scores; they never see a tensor of the cache."""

from langchain_saffron.search.best_of_n import best_of_n_search
from langchain_saffron.search.constraint import Constraint
from langchain_saffron.search.deal import deal_search
from langchain_saffron.search.decoding import plain_search
from langchain_saffron.search.prompt_risk import look_ahead
from langchain_saffron.search.protocol import ROOT, Answer, Expand, Node, Scores, Search, SearchInputs
from langchain_saffron.search.rebase import rebase_search
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
    "best_of_n_search",
    "deal_search",
    "look_ahead",
    "plain_search",
    "rebase_search",
    "saffron_search",
]
