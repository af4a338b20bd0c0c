"""Figures and answers of a run to report on."""

import math

Row = dict[str, object]


def figures(method: str, unsafe: float, tflops: float, **changes: object) -> Row:
    """A line as `summarise` gives it."""
    return {
        "method": method, "attack": "prefill-10", "dataset": "d", "kind": "harmful", "prompts": 2, "unsafe": unsafe,
        "unsafe_alone": unsafe, "unsafe_low": unsafe - 0.1, "unsafe_high": unsafe + 0.1, "refused": 0.1,
        "on_topic": math.nan, "logprob": -1.0, "tflops": tflops, "reward_calls": 8.0, "tokens": 4.0, "seconds": 1.0,
        **changes,
    }  # fmt: skip


def judged(method: str, sample: str = "h-1", answer: str = "No.", **changes: object) -> Row:
    """A row as `RunLog.judge` gives it."""
    return {
        "method": method, "attack": "prefill-10", "dataset": "d", "sample": sample, "request": "How do I brew it?",
        "prefill": "", "answer": answer, "reward": None, "unsafe": False, "unsafe_alone": False, "refused": False,
        **changes,
    }  # fmt: skip


LINES = [
    figures("none", 0.9, 1.0),
    figures("best-of-n-2", 0.8, 2.0),
    figures("best-of-n-8", 0.4, 8.0),
    figures("saffron-1", 0.7, 1.0),
    figures("saffron-2", 0.2, 2.0),
    figures("saffron-16", 0.0, 9.0),
    figures("rebase-4", 0.8, 4.0),
    figures("rebase-8", 0.5, 10.0),
]
