"""The shapes in which records hold conversations, and how they are told apart."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_saffron.training.corpus.messages import (
    ROLES,
    Message,
    ShapeError,
    is_answer,
    kind_of,
    printable,
    read_messages,
    text_in,
)

# conversations by the names of the fields that hold them
Conversations = dict[str, list[Message]]
# from a record's fields, those that are null left out, to its conversations; `None` for a record of another form
ReadForm = Callable[[Mapping[str, Any]], Conversations | None]

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
        turns = read_messages(fields[name], name)
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


def _conversations(fields: Mapping[str, Any], data: Mapping[str, Any]) -> Conversations:
    """The conversations below the names of the fields that hold them."""
    for read in reversed(_FORMS.values()):
        if (conversations := read(fields)) is not None:
            return conversations
    shown = [printable(name) for name in data]
    has = f"the fields {', '.join(shown[:12])}{', …' * (len(shown) > 12)}" if shown else "no fields"
    unfit = [f"{name} is {kind_of(data[name])}" for name in _FITS if name in data and not _first(fields, (name,))]
    raise ShapeError(f"has {has}{''.join(f', {what}' for what in unfit)}; known are {', '.join(reversed(_FORMS))}")


def _from_messages(fields: Mapping[str, Any]) -> Conversations | None:
    name = _first(fields, _MESSAGES)
    return {name: read_messages(fields[name], name)} if name else None


def _from_candidates(fields: Mapping[str, Any]) -> Conversations | None:
    if not _first(fields, _CANDIDATES):
        return None
    return {name: _candidate(fields, name) for name in _CANDIDATES if name in fields}


def _from_response(fields: Mapping[str, Any]) -> Conversations | None:
    response = _first(fields, _RESPONSES)
    if response and not _first(fields, _CANDIDATES) and (prompt := _prompt(fields)):
        if isinstance(fields[response], list):
            # TRL's conversational prompt and completion
            return {response: [*prompt[0], *read_messages(fields[response], response)]}
        return {response: _answered(prompt, text_in(fields[response], response))}
    return None


def _from_transcript(fields: Mapping[str, Any]) -> Conversations | None:
    name = _first(fields, _TRANSCRIPTS)
    return {name: _transcript(fields[name], name)} if name else None


# the last one is asked first: what a user's code adds comes before what is known here
_FORMS: dict[str, ReadForm] = {
    "transcript": _from_transcript,
    "chosen and rejected (HH-RLHF)": _from_candidates,
    "prompt and response": _from_response,
    "messages": _from_messages,
}


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in fields and isinstance(fields[name], _FITS[name])), None)


def _prompt(fields: Mapping[str, Any]) -> tuple[list[Message], bool] | None:
    """The turns before a response, and whether they come from a transcript; None if the record has no prompt."""
    if (name := _first(fields, _PROMPTS)) is None:
        return None
    value, in_transcript = fields[name], False
    if isinstance(value, list):
        turns = read_messages(value, name)
    elif _TRANSCRIPT_START.match(text := text_in(value, name)):
        in_transcript = True
        turns = _transcript(text, name)
        if not turns[-1]["content"]:
            turns.pop()
    else:
        # Alpaca calls it input, Dolly context
        more_name = next((more for more in _INPUTS if more in fields), None) if name == "instruction" else None
        if more_name is not None and (more := text_in(fields[more_name], more_name)).strip():
            text = f"{text}\n\n{more}" if text else more
        turns = [{"role": "user", "content": text}]
    system = next((name for name in _SYSTEMS if name in fields), None)
    if system and (text := text_in(fields[system], system)).strip() and (not turns or turns[0]["role"] != "system"):
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
        turns = read_messages(value, field)
    else:
        text = text_in(value, field)
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
    turns = [{"role": ROLES[speaker.lower()], "content": said.strip()} for speaker, said in pairs]
    return [turn for turn in turns[:-1] if turn["content"]] + turns[-1:]
