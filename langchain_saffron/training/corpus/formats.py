"""The shapes in which records hold conversations, and how they are told apart."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_saffron.templates.tool_call_text import call_json

# role and content, and for an assistant that calls tools `tool_calls`: one call a line, as JSON
Message = dict[str, str]
# conversations by the names of the fields that hold them
Conversations = dict[str, list[Message]]
# from a record's fields, those that are null left out, to its conversations; `None` for a record of another form
ReadForm = Callable[[Mapping[str, Any]], Conversations | None]

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatbot"), "assistant"),
    # what a tool returns is input to the model, as what a user says
    **dict.fromkeys(("tool", "function"), "user"),
}
_MESSAGES = ("messages", "conversation", "conversations", "chat")
_CANDIDATES = ("chosen", "rejected")
_PROMPTS = ("prompt", "question", "instruction", "query", "user")
_RESPONSES = ("response", "answer", "output", "completion", "assistant")
_INPUTS = ("input", "context")
_SYSTEMS = ("system", "system_prompt")
_TRANSCRIPTS = ("transcript", "text")

# what a field must be to say which shape a record has; `chat` may also be the number of a chat
_FITS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_MESSAGES, (list,)),
    **dict.fromkeys(_CANDIDATES, (str, list)),
    **dict.fromkeys((*_PROMPTS, *_RESPONSES), (object,)),
    **dict.fromkeys(_TRANSCRIPTS, (str,)),
}

_TURN = re.compile(r"\n\n(Human|Assistant):")
_TRANSCRIPT_START = re.compile(r"\s*\n\n(?:Human|Assistant):")
_BARE_START = re.compile(r"\s*(Human|Assistant):")


class ShapeError(ValueError):
    """A record of no known shape; the message says what it has."""


def kind_of(value: Any) -> str:
    """What a JSON value is, in the words of a message: "a list", "null"."""
    if value is None:
        return "null"
    kinds = ((bool, "a boolean"), (str, "a text"), (int | float, "a number"), (list, "a list"), (Mapping, "an object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def conversations_of(data: Mapping[str, Any]) -> list[list[Message]]:
    """All conversations of a record: one, or the chosen and the rejected one.

    Args:
        data: The record, as JSON, Parquet or `datasets` hold it. A field that is null counts as absent: a table
            has all columns in every row.

    Returns:
        Messages with the roles system, user and assistant; every conversation has an assistant turn with text.

    Raises:
        ShapeError: The record has no known shape, or its fields do not hold what the shape wants.
    """
    if not isinstance(data, Mapping):
        raise ShapeError(f"not an object but {kind_of(data)}")
    fields = {name: value for name, value in data.items() if value is not None}
    conversations: list[list[Message]] = []
    for field, turns in _conversations(fields, data).items():
        if not any(is_answer(turn) for turn in turns):
            raise ShapeError(f"no assistant turn with any text in {field}")
        if turns not in conversations:
            conversations.append(turns)
    return conversations


def prompt_of(data: Mapping[str, Any]) -> list[Message]:
    """What comes before the answer of a record, which may have none: messages, or the fields of a prompt.

    Raises:
        ShapeError: There is none, or it has no known shape.
    """
    fields = {name: value for name, value in data.items() if value is not None}
    if name := _first(fields, _MESSAGES):
        turns = _messages(fields[name], name)
    elif prompt := _prompt(fields):
        turns = prompt[0]
    else:
        turns = next(iter(_conversations(fields, data).values()))
    end = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in turns[:end]):
        raise ShapeError("no user turn with any text")
    return turns[:end]


def register_record_form(name: str, read: ReadForm) -> None:
    """Add a form of records, which is asked before those that are known already.

    Example:
        ```python
        from langchain_saffron.training.corpus import register_record_form

        def read(fields):
            if "q" not in fields:
                return None
            turns = [{"role": "user", "content": fields["q"]}, {"role": "assistant", "content": fields["a"]}]
            return {"a": turns}

        register_record_form("q and a", read)
        ```

    Args:
        name: As errors call it.
        read: From the fields of a record to its conversations, by the names of the fields that hold them; `None` for a
            record of another form. What is wrong with a record of this form it raises as a `ShapeError`.
    """
    _FORMS.pop(name, None)
    _FORMS[name] = read


def is_answer(message: Message) -> bool:
    """Whether it is an assistant's and says something or calls a tool."""
    return message["role"] == "assistant" and bool(message["content"].strip() or message.get("tool_calls"))


def _conversations(fields: Mapping[str, Any], data: Mapping[str, Any]) -> Conversations:
    """The conversations below the names of the fields that hold them."""
    for read in reversed(_FORMS.values()):
        if (conversations := read(fields)) is not None:
            return conversations
    shown = [_shown(name) for name in data]
    has = f"the fields {', '.join(shown[:12])}{', …' * (len(shown) > 12)}" if shown else "no fields"
    unfit = [f"{name} is {kind_of(data[name])}" for name in _FITS if name in data and not _first(fields, (name,))]
    raise ShapeError(f"has {has}{''.join(f', {what}' for what in unfit)}; known are {', '.join(reversed(_FORMS))}")


def _read_messages(fields: Mapping[str, Any]) -> Conversations | None:
    name = _first(fields, _MESSAGES)
    return {name: _messages(fields[name], name)} if name else None


def _read_candidates(fields: Mapping[str, Any]) -> Conversations | None:
    if not _first(fields, _CANDIDATES):
        return None
    return {name: _candidate(fields, name) for name in _CANDIDATES if name in fields}


def _read_response(fields: Mapping[str, Any]) -> Conversations | None:
    response = _first(fields, _RESPONSES)
    if response and not _first(fields, _CANDIDATES) and (prompt := _prompt(fields)):
        if isinstance(fields[response], list):
            # TRL's conversational prompt and completion
            return {response: [*prompt[0], *_messages(fields[response], response)]}
        return {response: _answered(prompt, _text(fields[response], response))}
    return None


def _read_transcript(fields: Mapping[str, Any]) -> Conversations | None:
    name = _first(fields, _TRANSCRIPTS)
    return {name: _transcript(fields[name], name)} if name else None


# the last one is asked first: what a user's code adds comes before what is known here
_FORMS: dict[str, ReadForm] = {
    "transcript": _read_transcript,
    "chosen and rejected (HH-RLHF)": _read_candidates,
    "prompt and response": _read_response,
    "messages": _read_messages,
}


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in fields and isinstance(fields[name], _FITS[name])), None)


def _prompt(fields: Mapping[str, Any]) -> tuple[list[Message], bool] | None:
    """The turns before a response, and whether they come from a transcript; None if the record has no prompt."""
    if (name := _first(fields, _PROMPTS)) is None:
        return None
    value, in_transcript = fields[name], False
    if isinstance(value, list):
        turns = _messages(value, name)
    elif _TRANSCRIPT_START.match(text := _text(value, name)):
        in_transcript = True
        turns = _transcript(text, name)
        if not turns[-1]["content"]:
            turns.pop()
    else:
        # Alpaca calls it input, Dolly context
        more_name = next((more for more in _INPUTS if more in fields), None) if name == "instruction" else None
        if more_name is not None and (more := _text(fields[more_name], more_name)).strip():
            text = f"{text}\n\n{more}" if text else more
        turns = [{"role": "user", "content": text}]
    system = next((name for name in _SYSTEMS if name in fields), None)
    if system and (text := _text(fields[system], system)).strip() and (not turns or turns[0]["role"] != "system"):
        turns = [{"role": "system", "content": text}, *turns]
    return turns, in_transcript


def _answered(prompt: tuple[list[Message], bool], response: str) -> list[Message]:
    turns, in_transcript = prompt
    # a transcript's prompt ends with "Assistant:", and the blank behind that begins the response
    return [*turns, {"role": "assistant", "content": response.strip() if in_transcript else response}]


def _candidate(fields: Mapping[str, Any], field: str) -> list[Message]:
    """The conversation in `chosen` or `rejected`, with the prompt where the field holds only what follows it."""
    value = fields[field]
    if isinstance(value, list):
        turns = _messages(value, field)
    else:
        text = _text(value, field)
        if not _TRANSCRIPT_START.match(text):
            if prompt := _prompt(fields):
                return _answered(prompt, text)
            if not _TURN.search(text):
                raise ShapeError(f"{field} is neither a transcript nor messages, and there is no prompt to it")
        turns = _transcript(text, field)
    if all(turn["role"] != "user" for turn in turns) and (prompt := _prompt(fields)):
        return [*prompt[0], *turns]
    return turns


def _transcript(text: str, field: str) -> list[Message]:
    """The turns of a transcript as HH-RLHF writes it; only the last one may be empty."""
    head, *pieces = _TURN.split(text)
    if not pieces:
        raise ShapeError(f'{field} has no turn that starts with "\\n\\nHuman:" or "\\n\\nAssistant:"')
    if head.strip():
        # copies of the corpus have often lost the newlines at their start
        if (start := _BARE_START.match(head)) is None:
            raise ShapeError(f"{field} has text before its first turn")
        pieces = [start[1], head[start.end() :], *pieces]
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    turns = [{"role": _ROLES[speaker.lower()], "content": said.strip()} for speaker, said in pairs]
    return [turn for turn in turns[:-1] if turn["content"]] + turns[-1:]


def _messages(values: Sequence[Any], field: str) -> list[Message]:
    if not values:
        raise ShapeError(f"{field} is empty")
    return [_message(value, f"{field}[{index}]") for index, value in enumerate(values)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise ShapeError(f"{where} is {kind_of(value)}, not a message")
    calls = value.get("tool_calls") or ()
    role, content = (
        next((name for name in names if value.get(name) is not None), next((n for n in names if n in value), None))
        for names in (("role", "from"), ("content", "value"))
    )
    if role is None or (content is None and not calls):
        raise ShapeError(f"{where} has no {'role' if role is None else 'content'}")
    said_by = _text(value[role], f"{where}.{role}")
    if said_by not in _ROLES:
        raise ShapeError(f"{where} has the role {_shown(said_by)}; known are {', '.join(_ROLES)}")
    # a message that calls tools may say nothing besides
    empty = content is None or (value[content] is None and calls)
    message = {"role": _ROLES[said_by], "content": "" if empty else _content(value[content], f"{where}.{content}")}
    if calls and message["role"] == "assistant":
        message["tool_calls"] = _tool_calls(calls, f"{where}.tool_calls")
    return message


def _tool_calls(value: Any, where: str) -> str:
    """Calls as OpenAI, LangChain or chat templates hold them; one a line."""
    if not isinstance(value, list | tuple):
        raise ShapeError(f"{where} is {kind_of(value)}, not a list")
    lines = []
    for index, call in enumerate(value):
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise ShapeError(f"{where}[{index}] names no function")
        arguments: Any = next((inner[key] for key in ("arguments", "args") if inner.get(key) is not None), {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError:
                raise ShapeError(f"{where}[{index}].arguments are not JSON") from None
        if not isinstance(arguments, Mapping):
            raise ShapeError(f"{where}[{index}].arguments are {kind_of(arguments)}, not an object")
        lines.append(call_json(inner["name"], dict(arguments)))
    return "\n".join(lines)


def _content(value: Any, where: str) -> str:
    if not isinstance(value, list):
        return _text(value, where)
    texts: list[str] = []
    for index, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("type") != "text":
            what = _shown(part.get("type")) if isinstance(part, Mapping) else kind_of(part)
            raise ShapeError(f"{where}[{index}] is a part of the type {what}; only text can be read")
        texts.append(_text(part.get("text"), f"{where}[{index}].text"))
    return "".join(texts)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ShapeError(f"{where} is {kind_of(value)}, not a text")
    return value


def _shown(name: Any) -> str:
    """A name from a record, short enough for a message and without what a terminal cannot print."""
    text = str(name) if isinstance(name, str) else kind_of(name)
    return ascii(text[:40])[1:-1] if not text[:40].isprintable() else text[:40]
