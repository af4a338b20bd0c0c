"""A search on one HTML page, on which a person walks it."""

from langchain_saffron.explain.page import trace_page
from langchain_saffron.explain.recording import record_traces

__all__ = ["record_traces", "trace_page"]
