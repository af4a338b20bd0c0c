"""Prompts and thoughts of a chat template, held against what transformers makes of the same conversations."""

import re
from collections.abc import Iterator
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from integration_tests.template_cell import Cell, Wrong, first_difference
from integration_tests.template_reference import SPECIAL_MARKER, Messages, Reference, Unrendered
from langchain_saffron.engine.result import ThoughtText
from langchain_saffron.engine.thought_stream import ThoughtStream
from langchain_saffron.errors import PromptError
from langchain_saffron.interface.prompts import PromptRenderer

ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
TEXTS = ("Hi there.", "Wer <b>bist</b> du?\n\n1 < 2 && x[0] ≠ {y}; naïve 你好 😀", "Say 'a'  twice,\tand \"b\".")
THOUGHT, ANSWER = "Tttt, so it is.", "Aaaa it is."
_BRIEF = "Be kind and brief."
_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
# that mark thoughts which templates cut out of histories
_CUT = (
    ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"), ("<think>", "</think>"), ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<seed:think>", "</seed:think>"), ("<|inner_prefix|>", "<|inner_suffix|>"), ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"), ("<thought>", "</thought>"), ("<|channel>thought\n", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
)  # fmt: skip


def as_dicts(messages: list[BaseMessage]) -> Messages:
    """Messages without calls as transformers reads them."""
    return [{"role": ROLES[message.type], "content": message.content} for message in messages]


def plain(renderer: PromptRenderer, reference: Reference) -> Cell:
    """Questions and answers."""
    try:
        reference.text(as_dicts([HumanMessage(TEXTS[0])]), None, TEXTS[:1])
    except Unrendered as error:
        return _refused(renderer, str(error))
    for text in TEXTS:
        _same(renderer, reference, [HumanMessage(text)])
        _same(renderer, reference, [HumanMessage(text), AIMessage(TEXTS[0]), HumanMessage(TEXTS[0])])
    return Cell()


def system(renderer: PromptRenderer, reference: Reference) -> Cell:
    """The same below a system text: where the template has no place for one, it heads the first question."""
    for text in (_BRIEF, TEXTS[1]):
        _same(renderer, reference, [SystemMessage(text), HumanMessage(TEXTS[0])])
        _same(
            renderer,
            reference,
            [SystemMessage(text), *map(HumanMessage, TEXTS[:1]), AIMessage("Well."), HumanMessage("So?")],
        )
    return Cell()


def prefill(renderer: PromptRenderer, reference: Reference) -> Cell:
    """The beginning of an answer, with and without a system text."""
    for before in ([HumanMessage(TEXTS[0])], [SystemMessage(_BRIEF), HumanMessage(TEXTS[0])]):
        for text in ("Well, here", "1. Soup\n2."):
            said = [*before, AIMessage(text)]
            try:
                wanted = reference.text(as_dicts(said), None, _shown(said), continue_final_message=True)
            except Unrendered:
                wanted = reference.text(as_dicts(before), None, _shown(before), add_generation_prompt=True) + text
            got = renderer.render(said)
            _compare(reference, list(got.policy_ids), wanted)
            if reference.tokenizer.decode(got.prefill_ids).strip() != text:
                raise Wrong(f"the prefill is {reference.tokenizer.decode(got.prefill_ids)!r}")
    return Cell()


def thoughts(renderer: PromptRenderer, reference: Reference) -> Cell:
    """A thought and an answer, as the template itself writes them or its tags say, read whole and piece by piece."""
    prompt = renderer.render([HumanMessage(TEXTS[0])])
    cases = list(_spoken(reference))
    if any(not _has_markers(reference, spoken) for _, spoken in cases):
        return Cell.absent("its models have its markers as tokens")
    if not cases:
        if prompt.thoughts is not None and not prompt.thoughts.supposed:
            raise Wrong("thoughts are read where the template knows none")
        return Cell.absent("its template knows no thoughts")
    for variables, spoken in cases:
        prompt = renderer.render([HumanMessage(TEXTS[0])], variables=variables)
        if prompt.thoughts is None:
            raise Wrong(f"no thoughts are read in {spoken!r}")
        ids = reference.ids(spoken)
        for size in (1, 3, len(ids)):
            stream = ThoughtStream(reference.tokenizer, prompt.thoughts)
            pieces = [one for place in range(0, len(ids), size) for one in stream.pieces(ids[place : place + size])]
            pieces += stream.last_pieces()
            thought = "".join(one for one in pieces if isinstance(one, ThoughtText))
            said = "".join(one for one in pieces if not isinstance(one, ThoughtText))
            if (thought.strip(), said.strip()) != (THOUGHT, ANSWER) or said != stream.text:
                raise Wrong(f"{spoken!r} is read as thought {thought!r} and text {said!r}")
    return Cell()


def _refused(renderer: PromptRenderer, reason: str) -> Cell:
    """A template that transformers cannot render either: the error has to say why."""
    try:
        renderer.render([HumanMessage(TEXTS[0])])
    except PromptError as error:
        if reason in str(error):
            return Cell.absent(f"transformers cannot render it either: {reason}")
    raise Wrong(f"no error says {reason}")


def _has_markers(reference: Reference, spoken: str) -> bool:
    return set(SPECIAL_MARKER.findall(spoken)) <= set(reference.tokenizer.get_vocab())


def _spoken(reference: Reference) -> Iterator[tuple[dict[str, Any], str]]:
    """Variables, and what a model says behind the prompt that they make: a thought and an answer."""
    question = {"role": "user", "content": TEXTS[0]}
    used: dict[str, Any] = {name: True for name in ("enable_thinking", "thinking") if name in reference.source}
    # those that think only when told to
    used |= {"reasoning_effort": "high"} if "no_think'" in reference.source else {}
    try:
        header = reference.text([question], None, TEXTS[:1], add_generation_prompt=True, **used)
    except Unrendered:
        return
    for answer in _with_thought():
        try:
            written = reference.text([question, answer], None, [THOUGHT, ANSWER], **used)
        except Unrendered:
            continue
        start = written.rfind(TEXTS[0]) + len(TEXTS[0])
        if re.search(r"""["']thinking["']""", written[start:]):
            continue
        end = written.rfind(ANSWER) + len(ANSWER)
        if written.startswith(header):
            yield used, written[len(header) : end]
            return
    for opening, closing in _CUT:
        if opening.strip() in reference.source or closing in reference.source:
            said = f"{THOUGHT}{closing}{ANSWER}"
            begun = header.rstrip().endswith(opening.rstrip())
            ended_already = header.rstrip().endswith(closing)
            if not ended_already:
                yield used, said if begun else opening + said
            return


def _with_thought() -> Iterator[dict[str, Any]]:
    for field in _FIELDS:
        yield {"role": "assistant", "content": ANSWER, field: THOUGHT}
    parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": ANSWER}]
    yield {"role": "assistant", "content": parts}


def _shown(messages: list[BaseMessage]) -> list[str]:
    # templates may trim what is said
    return [line for message in messages for line in str(message.content).strip().splitlines() if line]


def _same(renderer: PromptRenderer, reference: Reference, messages: list[BaseMessage]) -> None:
    wanted = reference.text(as_dicts(messages), None, _shown(messages), add_generation_prompt=True)
    _compare(reference, list(renderer.render(messages).policy_ids), wanted)


def _compare(reference: Reference, got: list[int], wanted: str) -> None:
    if got != reference.ids(wanted):
        raise Wrong(first_difference(reference.tokenizer.decode(got), wanted))
