"""A recorded search as one HTML file that asks nothing of the network."""

import html
import json
from pathlib import Path
from typing import Any

from langchain_saffron.engine import SearchResult
from langchain_saffron.errors import SettingsError

TEMPLATE = Path(__file__).with_name("page.html")
# numbers are rounded to so many digits
DIGITS = 4


def trace_page(result: SearchResult, tokenizer: Any, title: str = "saffron trace") -> str:
    """The page of an answer whose search was recorded.

    It holds the answer's text and all that the search looked at, which may be what nobody should read; no prompt.

    Args:
        result: The answer.
        tokenizer: The policy's.
        title: What the page is called.

    Raises:
        SettingsError: The search was not recorded.
    """
    if result.trace is None:
        raise SettingsError("trace_page: the search was not recorded: ask with record_trace=True")
    before, after = TEMPLATE.read_text(encoding="utf-8").split("{data}")
    return before.replace("{title}", html.escape(title)) + _embedded(_data(result, tokenizer)) + after


def _data(result: SearchResult, tokenizer: Any) -> dict[str, Any]:
    trace = result.trace
    assert trace is not None
    texts: dict[str, int] = {}
    nodes = [
        [
            node.parent,
            texts.setdefault(text, len(texts)),
            node.token,
            node.step,
            _round(node.logprob),
            _round(node.reward),
            _round(node.score),
            node.fate,
            node.gone,
            node.reopened,
        ]
        for node, text in zip(trace.nodes, trace.texts(tokenizer), strict=True)
    ]
    steps = [
        [
            step.length,
            step.live,
            step.width,
            step.most,
            _round(step.risk),
            step.committed,
            step.stepped_back,
            step.reopened,
            step.fallbacks,
            int(step.refusing),
            step.given_up,
            step.verified,
            step.overruled,
        ]
        for step in trace.steps
    ]
    totals = {"reward": result.reward, **result.stats.as_dict(), **trace.totals}
    return {
        "nodes": nodes,
        "texts": list(texts),
        "steps": steps,
        "answer": trace.answer,
        "refusal_at": trace.refusal_at,
        "refusal": result.refusal,
        "finish": result.finish_reason,
        "threshold": trace.threshold,
        "refusal_threshold": trace.refusal_threshold,
        "is_cut": trace.is_cut,
        "changes": [[one.position, one.instead_of] for one in trace.interventions()],
        "totals": {name: _round(value) for name, value in totals.items()},
    }


def _embedded(data: dict[str, Any]) -> str:
    """JSON that no text in it can end, inside a script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _round(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
