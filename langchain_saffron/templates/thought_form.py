"""How models mark their thoughts, as data: pairs of markers that are known from chat templates and model cards."""

from dataclasses import dataclass, replace
from typing import Literal

# where a prompt leaves off: within a thought, before one that may come, where none is to come any more, or within what
# the answer says
Place = Literal["inside", "before", "behind", "said"]


@dataclass(frozen=True, slots=True)
class ThoughtForm:
    """The markers of one family's thoughts, as a chat template would write them.

    Attributes:
        opening: What begins a thought.
        closing: What ends it. Where a thought is a message of its own, it includes the header of the next one.
        lead: What has to come before the answer's text then, such as the name of a channel.
        framing: What else stands around the answer's text and is no part of it.
        answer: What may begin and end the answer's text, such as `<response>`; elsewhere it is text.
    """

    opening: str
    closing: str
    lead: str = ""
    framing: tuple[str, ...] = ()
    answer: tuple[str, str] | None = None

    @property
    def strings(self) -> tuple[str, ...]:
        """All that is no text, most telling first."""
        return tuple(filter(None, (self.opening, self.closing, self.lead, *self.framing, *(self.answer or ()))))


KNOWN_FORMS = (
    # Harmony, of gpt-oss: channels of messages
    ThoughtForm(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant",
        "<|channel|>final<|message|>",
        ("<|channel|>commentary<|message|>",),
    ),
    # Solar Open
    ThoughtForm("<|think|>", "<|end|><|begin|>assistant", "<|content|>"),
    ThoughtForm(" to=self<|message|>", "<|eom|><|start|>assistant", " to=user<|message|>"),
    # Command-R7B and Command-A
    ThoughtForm(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        "<|START_RESPONSE|>",
        ("<|END_RESPONSE|>",),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    # Gemma 4
    ThoughtForm("<|channel>thought", "<channel|>"),
    # Magistral, Ministral
    ThoughtForm("[THINK]", "[/THINK]"),
    # Apertus
    ThoughtForm("<|inner_prefix|>", "<|inner_suffix|>"),
    # Apriel 1.6
    ThoughtForm("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
    # Seed-OSS
    ThoughtForm("<seed:think>", "</seed:think>"),
    # Kimi-VL
    ThoughtForm("◁think▷", "◁/think▷"),
    # OpenThinker
    ThoughtForm("<|begin_of_thought|>", "<|end_of_thought|>"),
    # EXAONE Deep
    ThoughtForm("<thought>", "</thought>"),
    # Apriel 1.5
    ThoughtForm("<thinking>", "</thinking>"),
    # Reka
    ThoughtForm("<reasoning>", "</reasoning>"),
    # DeepSeek R1, Qwen 3, GLM 4.5, MiniMax M2, Nemotron, Kimi K2 and most others
    ThoughtForm("<think>", "</think>"),
)


# markers around what is said, where a template speaks of them
ANSWER_MARKERS = (
    ("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<response>", "</response>"),
    ("<answer>", "</answer>"),
    ("<final_answer>", "</final_answer>"),
)


def with_answer_markers(form: ThoughtForm, source: str) -> ThoughtForm:
    """A form with the markers of answers that a chat template's text speaks of, if it does of any."""
    known = [pair for pair in ANSWER_MARKERS if pair[0] in source or pair[0] == form.closing]
    return replace(form, answer=known[0]) if known else form


def written_form(before: str, after: str, header: str) -> ThoughtForm | None:
    """The form of a thought that a template has written.

    Args:
        before: What it wrote between the answer's header and the thought.
        after: What it wrote between the thought and the answer's text.
        header: The answer's header.

    Returns:
        A known form, or else what stands around the thought; `None` where that is nothing.
    """
    for form in KNOWN_FORMS:
        if form.opening.strip() in before and form.closing in after:
            return form
    opening, closing = before.strip("\n"), after.strip("\n")
    if not opening.strip() or not closing.strip():
        return None
    again = header.strip()
    if again and again in closing:
        # a message of its own, behind which the header comes once more
        end = closing.index(again) + len(again)
        return ThoughtForm(opening, closing[:end], closing[end:].strip("\n"))
    return ThoughtForm(opening, closing)


def place_in(tail: str, form: ThoughtForm) -> Place:
    """Where a prompt leaves off.

    Args:
        tail: The prompt's end as the template wrote it, behind the last of what users say.
        form: How thoughts are marked.
    """
    end = tail.rstrip()
    if end.endswith(form.opening.strip()):
        return "inside"
    # the header of a message alone, which closes thoughts that are messages, says nothing
    if end.endswith(form.closing) and not (form.lead and form.opening.strip() not in end):
        return "behind"
    return "before"
