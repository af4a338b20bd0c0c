"""Middleware for LangChain's agents. Needs the `agents` extra."""

from langchain_saffron.agents.guard import ToolCallGuard
from langchain_saffron.agents.scoring import CallScorer, ToolCallBlockedError

__all__ = ["CallScorer", "ToolCallBlockedError", "ToolCallGuard"]
