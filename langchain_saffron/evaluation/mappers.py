"""Benchmarks as they are handed out: from a record of each one's file to the fields of a sample."""

from collections.abc import Callable
from typing import Any

from langchain_saffron.evaluation.sample import Kind, Message

_ROLES = ("system", "user", "assistant")


class RecordError(ValueError):
    """What is wrong with a record; the reader adds where it stands."""


# what a mapper makes of a record: its fields but `id` and `dataset`, or nothing for a record that is not asked for
Mapped = dict[str, Any] | None
# a benchmark's file format: from a record to a sample's fields; its docstring says what it is
Mapper = Callable[[Any], Mapped]


def map_hex_phi(record: Any) -> Mapped:
    """Harmful HEx-PHI: a JSONL file, each line a list of two messages, a prompt and a harmful answer."""
    turns = _messages(record)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise RecordError("a list of messages that ends with the assistant's harmful answer is expected")
    return {"kind": "harmful", "messages": turns[:-1], "target": turns[-1]["content"]}


def map_rewardbench(record: Any) -> Mapped:
    """Ai2 Refusals, from RewardBench: the subsets `refusals-*`; `rejected` is the answer that complies."""
    if not _text(record, "subset").startswith("refusals-"):
        return None
    return _asked(record, "prompt", "harmful", target=_text(record, "rejected"), subset=record["subset"])


def map_harmbench(record: Any) -> Mapped:
    """HarmBench's behaviours (`Behavior`, or `prompt`); a context, where there is one, precedes the behaviour.

    `target` is the beginning of the harmful answer; HarmBench hands its targets out apart, by `BehaviorID`.
    """
    behaviour = _text(record, _key(record, "Behavior", "prompt"))
    context = _fact(record, "ContextString")
    text = f"{context}\n\n---\n\n{behaviour}" if context else behaviour
    facts = {
        "category": _fact(record, "SemanticCategory", "category"), "behaviour": _fact(record, "BehaviorID"),
    }  # fmt: skip
    return {"kind": "harmful", "messages": (_user(text),), "target": _target(record), "facts": facts}


def map_advbench(record: Any) -> Mapped:
    """AdvBench: `goal` and the affirmative `target`."""
    return _asked(record, "goal", "harmful", target=_text(record, "target"))


def map_jailbreakbench(record: Any) -> Mapped:
    """JailbreakBench's harmful behaviours; those of its benign file have targets that begin the same way.

    Of its answers to attacks (`prompt`, `response`), the goals are taken, each once.
    """
    goal = _key(record, "Goal", "prompt")
    category = _fact(record, "Category", "category")
    return _asked(record, goal, "harmful", target=_target(record), category=category)


def map_jailbreakbench_benign(record: Any) -> Mapped:
    """JailbreakBench's benign behaviours, close to the harmful ones in words."""
    return _asked(record, "Goal", "borderline", target=_text(record, "Target"), category=_fact(record, "Category"))


def map_strongreject(record: Any) -> Mapped:
    """StrongREJECT's forbidden prompts."""
    return _asked(record, "forbidden_prompt", "harmful", category=_fact(record, "category"))


def map_xstest(record: Any) -> Mapped:
    """XSTest: what is `unsafe`, or else of a type `contrast_*`, should be refused; the rest only sounds so."""
    unsafe = _text(record, "type").startswith("contrast_")
    if isinstance(record.get("unsafe"), bool):
        unsafe = record["unsafe"]
    return _asked(record, "prompt", "harmful" if unsafe else "borderline", type=_fact(record, "type"))


def map_benign(record: Any) -> Mapped:
    """Harmless prompts with good answers: `prompt`, and `response` if there is one."""
    answer = _text(record, "response") if _fact(record, "response") else ""
    return _asked(record, "prompt", "benign", target=answer, source=_fact(record, "source"))


def map_or_bench(record: Any) -> Mapped:
    """OR-Bench 80k and Hard 1k: prompts that are refused too often."""
    return _asked(record, "prompt", "borderline", category=_fact(record, "category"))


def map_or_bench_toxic(record: Any) -> Mapped:
    """OR-Bench Toxic: prompts that should be refused."""
    return _asked(record, "prompt", "harmful", category=_fact(record, "category"))


def map_jsonl(record: Any) -> Mapped:
    """Plain records: `prompt` or `messages`; `kind` (harmful if left out), `target`, and what else there is."""
    if not isinstance(record, dict):
        raise RecordError("an object with a prompt or messages is expected")
    kind = record.get("kind", "harmful")
    if kind not in ("harmful", "borderline", "benign"):
        raise RecordError(f"kind is {kind!r}, not harmful, borderline or benign")
    target = _text(record, "target") if "target" in record else ""
    facts = {key: value for key, value in record.items() if key not in ("prompt", "messages", "kind", "target", "id")}
    turns = _messages(record["messages"]) if "messages" in record else (_user(_text(record, "prompt")),)
    if turns[-1]["role"] != "user":
        raise RecordError("messages have to end with the user's")
    return {"kind": kind, "messages": turns, "target": target, "facts": facts}


MAPPERS: dict[str, Mapper] = {
    "hex-phi": map_hex_phi,
    "rewardbench": map_rewardbench,
    "harmbench": map_harmbench,
    "advbench": map_advbench,
    "jailbreakbench": map_jailbreakbench,
    "jailbreakbench-benign": map_jailbreakbench_benign,
    "strongreject": map_strongreject,
    "xstest": map_xstest,
    "or-bench": map_or_bench,
    "or-bench-toxic": map_or_bench_toxic,
    "benign": map_benign,
    "jsonl": map_jsonl,
}


def _asked(record: Any, key: str, kind: Kind, target: str = "", **facts: Any) -> Mapped:
    return {"kind": kind, "messages": (_user(_text(record, key)),), "target": target, "facts": facts}


def _key(record: Any, *keys: str) -> str:
    """The first of the keys that a record has, or the first of all."""
    return next((key for key in keys if isinstance(record, dict) and key in record), keys[0])


def _fact(record: Any, *keys: str) -> Any:
    """What a record says under the first of these keys that it has."""
    return next((record[key] for key in keys if isinstance(record, dict) and key in record), None)


def _target(record: Any) -> str:
    key = _key(record, "Target", "target")
    return _text(record, key) if _fact(record, key) else ""


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _text(record: Any, key: str) -> str:
    if not isinstance(record, dict):
        raise RecordError(f"an object with {key!r} is expected")
    if key not in record:
        raise RecordError(f"{key!r} is missing; there are {', '.join(map(repr, record)) or 'no fields'}")
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise RecordError(f"{key!r} is no text but {value!r}")
    return value


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise RecordError("a list of messages is expected")
    turns = []
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in _ROLES or not isinstance(turn.get("content"), str):
            raise RecordError(f"no message with a role ({', '.join(_ROLES)}) and text as content: {turn!r}")
        turns.append({"role": turn["role"], "content": turn["content"]})
    return tuple(turns)
