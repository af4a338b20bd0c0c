"""What a report says of the runs that it is about."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.evaluation.judges import Judge
from langchain_saffron.evaluation.log import RunLog

Facts = tuple[tuple[str, str], ...]

UNKNOWN = "not recorded"

# where the package keeps its models is nobody's business
_EMBEDDED = re.compile(r".*[/\\]langchain_saffron[/\\](kitchen|smollm2)[/\\]weights[/\\](.+)")
_LIMITS = (
    ("limit", "at most {} prompts of each dataset"),
    ("max_tokens", "{} tokens an answer"),
    ("top_p", "a nucleus of {}"),
)


def begin_notes(engine: SaffronEngine, reward_model: Any, prm: str) -> dict[str, str]:
    """What the record of a run keeps for its report: when it begins, by which version, and the reward models.

    Args:
        engine: What answers.
        reward_model: The MRM's name, or itself; `None` where the engine was handed in with it.
        prm: The PRM's name, where one was given.
    """
    found, asked = engine.reward_model, engine.process_reward_model
    mrm = _plain(str(reward_model)) if isinstance(reward_model, str | Path) else "a loaded one"
    return {
        "begun": _now(),
        "reward_model": "none" if found is None else mrm,
        "prm": prm or ("none" if asked is None else _plain(asked.name) or "a loaded one"),
    }


def describe_runs(logs: Sequence[RunLog], judges: Sequence[Judge]) -> Facts:
    """Titles and values: models, judge, data, methods, seeds, limits and dates.

    Args:
        logs: The runs; what differs between them stands together.
        judges: Who has judged their answers now.
    """
    of_runs = [_describe(log) for log in logs]
    facts = {title: "; ".join(dict.fromkeys(one[title] for one in of_runs)) for title in of_runs[0]}
    who = [one.name if one.source in ("", one.name) else f"{one.name} ({_plain(one.source)})" for one in judges]
    models = ("Model", "Reward model (MRM)", "Process reward model (PRM)")
    return (
        *((title, facts.pop(title)) for title in models),
        ("Judge" if len(who) == 1 else "Judges", ", ".join(map(_plain, who))),
        *facts.items(),
        ("Judged", _now()),
    )


def _describe(log: RunLog) -> dict[str, str]:
    settings = log.settings

    def named(key: str) -> str:
        return _plain(str(log.notes.get(key) or settings.get(key) or UNKNOWN))

    asked = "".join(f", {name}: {settings[name]}" for name in ("guard", "safe", "unsafe") if name in settings)
    limits = [text.format(settings[name]) for name, text in _LIMITS if settings.get(name) is not None]
    if settings.get("hide_prefill"):
        limits.append("the prefill hidden from reward models")
    seeds = settings.get("seeds")
    return {
        "Model": named("model") + (f", {settings['quantization']}" if "quantization" in settings else ""),
        "Reward model (MRM)": named("reward_model"),
        "Process reward model (PRM)": named("prm") + asked,
        "Datasets": _listed(settings.get("data")),
        "Attacks": _listed(settings.get("attacks")),
        "Methods": _listed(settings.get("methods")),
        "Seeds": f"{seeds}, each an answer of every sampling method to every prompt" if seeds else UNKNOWN,
        "Limits": ", ".join(limits) or UNKNOWN,
        "Begun": named("begun"),
    }


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, by langchain-saffron {version('langchain-saffron')}"


def _plain(name: str) -> str:
    embedded = _EMBEDDED.fullmatch(name)
    return f"the {embedded[1]}'s {embedded[2]}" if embedded else name


def _listed(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) and values else UNKNOWN
