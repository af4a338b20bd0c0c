"""What the safe decoding did to answers, one JSON object a line; no text of prompts or answers unless asked for."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from langchain_saffron.errors import SettingsError
from langchain_saffron.server.rules import Asker

# from here on, an answer's risk is worth a line though nothing was refused
NOTEWORTHY_RISK = 0.5
_FIGURES = (
    "effort", "width", "narrowest_width", "reward", "min_reward", "risk", "highest_risk", "unseen_fallbacks",
    "overruled", "tflops", "seconds",
)  # fmt: skip


class AuditLog:
    """Appends to a file, which other programs may move away."""

    def __init__(self, file: Path, texts: bool = False) -> None:
        """Check that the file can be written.

        Args:
            file: Where to.
            texts: Whether lines hold the answers.

        Raises:
            SettingsError: It cannot be written.
        """
        self._file, self._texts = file, texts
        try:
            with file.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise SettingsError(f"audit_log: {file} cannot be written: {error.strerror or error}") from error

    def note(self, asker: Asker, rules: Sequence[str], info: dict[str, Any], tokens: int | None, text: str) -> None:
        """Write a line, if the decoding stepped in or nearly did.

        Args:
            asker: Who was answered.
            rules: The names of the rules that held.
            info: The answer's metadata.
            tokens: The answer's length, or where it was cut.
            text: The answer.
        """
        why = reasons(info)
        if not why:
            return
        figures = info.get("saffron", {})
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "route": asker.route,
            "tenant": asker.tenant,
            "rules": list(rules),
            "why": why,
            "finish_reason": info.get("finish_reason"),
            "tokens": tokens,
            **{name: figures[name] for name in _FIGURES if figures.get(name) is not None},
        }
        if self._texts:
            line["answer"] = text
        written = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        # one write: lines of several routes, or processes, do not mix
        with self._file.open("ab", buffering=0) as file:
            file.write(written)


def reasons(info: dict[str, Any]) -> list[str]:
    """Why an answer is worth a line.

    Returns:
        `refused`, `budget`, `unsafe` (a token below 0 was said), `overruled` (by the PRM), `risk`, `narrowed` (the KV
        cache had no room for all beams).
    """
    figures = info.get("saffron", {})
    found = []
    if info.get("finish_reason") == "refusal":
        found.append("refused")
    if info.get("finish_reason") == "budget" or figures.get("budget_exhausted"):
        found.append("budget")
    if (lowest := figures.get("min_reward")) is not None and lowest < 0:
        found.append("unsafe")
    if figures.get("overruled"):
        found.append("overruled")
    if (highest := figures.get("highest_risk")) is not None and highest >= NOTEWORTHY_RISK:
        found.append("risk")
    if figures.get("narrowed"):
        found.append("narrowed")
    return found
