"""Traces of what chat models answer, wherever in a chain they are called."""

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_saffron.engine import SearchResult
from langchain_saffron.interface.invocation import RECORDED


@contextmanager
def record_traces() -> Iterator[list[SearchResult]]:
    """Record the search of every answer of `ChatSaffron` and `SaffronLLM` within.

    Other searches than `"saffron"` have no tree: they are answered as ever, and their result's `trace` is `None`.

    Yields:
        The results, to which every answer adds its own as it ends.
    """
    results: list[SearchResult] = []
    token = RECORDED.set(results)
    try:
        yield results
    finally:
        RECORDED.reset(token)
