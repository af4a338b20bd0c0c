"""Middleware and decision models for LangChain's agents. Needs the `agents` extra."""

from typing import TYPE_CHECKING, Any

from langchain_saffron.agents.guard import ToolCallGuard
from langchain_saffron.agents.questions import EFFORT_NEEDED, RISKY_CALL, UnknownQuestionError
from langchain_saffron.agents.scoring import CallScorer, ToolCallBlockedError

if TYPE_CHECKING:
    from langchain_saffron.agents.decisions import SaffronDecisionModel

__all__ = [
    "EFFORT_NEEDED",
    "RISKY_CALL",
    "CallScorer",
    "SaffronDecisionModel",
    "ToolCallBlockedError",
    "ToolCallGuard",
    "UnknownQuestionError",
]


def __getattr__(name: str) -> Any:
    # the rest works with a langchain-core that has no decision models
    if name == "SaffronDecisionModel":
        from langchain_saffron.agents.decisions import SaffronDecisionModel

        return SaffronDecisionModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
