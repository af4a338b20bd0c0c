"""The engine: models, cache and searches behind one queue of requests."""

from langchain_saffron.engine.engine import SaffronEngine
from langchain_saffron.engine.result import Outlook, RefusalText, SearchResult, SearchStats

__all__ = ["Outlook", "RefusalText", "SaffronEngine", "SearchResult", "SearchStats"]
