"""The engine: models, cache and searches behind one queue of requests."""

from langchain_saffron.engine.engine import SaffronEngine
from langchain_saffron.engine.result import MarkerText, PromptRisk, RefusalText, SearchResult, SearchStats, ThoughtText

__all__ = ["MarkerText", "PromptRisk", "RefusalText", "SaffronEngine", "SearchResult", "SearchStats", "ThoughtText"]
