"""The markers of thoughts in one tokenizer's tokens.

Where a marker is a control token, only that token is one: the same characters in other tokens, such as those that a
user has written and the model quotes, are text. So control tokens that markers consist of are written as signs that no
text can hold: lone surrogates.
"""

import re
from dataclasses import dataclass
from typing import Any

from langchain_saffron.templates.safe_encoder import SafeEncoder
from langchain_saffron.templates.thought_form import ThoughtForm

_FIRST_SIGN = 0xD800
SIGN = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ThoughtMarkers:
    """A form in the tokens of a tokenizer.

    Attributes:
        form: The form.
        opening: Its marker, control tokens as signs; likewise the others.
        closing: What ends a thought.
        lead: What comes before the text.
        framing: What is left out of texts wherever it stands.
        signs: The signs by the ids of their tokens.
        shown: What the token of a sign writes into texts where it belongs to no marker.
        anywhere: Whether a thought may begin in the middle of an answer. Where its marker is no token that texts leave
            out, such as `<think>` in Qwen 3, an answer may speak of it.
        answer: What may begin and end the answer's text.
    """

    form: ThoughtForm
    opening: str
    closing: str
    lead: str
    framing: tuple[str, ...]
    signs: dict[int, str]
    shown: dict[str, str]
    anywhere: bool
    answer: tuple[str, str] | None = None

    @classmethod
    def of(cls, form: ThoughtForm, tokenizer: Any, encoder: SafeEncoder) -> "ThoughtMarkers":
        """The markers of a form.

        Args:
            form: The form.
            tokenizer: The policy's.
            encoder: Its encoder, which knows its control tokens.
        """
        controls = {token.content: (i, token.special) for i, token in tokenizer.added_tokens_decoder.items()}
        names = dict.fromkeys(name for string in form.strings for name in encoder.control_sequence(string))
        of_name = {name: chr(_FIRST_SIGN + place) for place, name in enumerate(names) if name in controls}

        shown = {sign: "" if controls[name][1] else name for name, sign in of_name.items()}
        # what texts leave out cannot be part of one; nor can the headers of messages
        telling = {sign for sign in shown if form.lead or not shown[sign]}

        def signed(string: str) -> str:
            return encoder.pattern.sub(lambda match: of_name.get(match[0], match[0]), string)

        # blanks around a marker are no part of it, but those between words are
        opening, closing = signed(form.opening.strip("\n")), signed(form.closing)
        lead = signed(form.lead)
        framing = [lead, *map(signed, form.framing), closing]
        answer = form.answer and (signed(form.answer[0]), signed(form.answer[1]))
        if answer is None and lead and not telling & set(lead):
            # the same characters elsewhere are text
            answer = lead, ""
        return cls(
            form=form,
            opening=opening,
            closing=closing,
            lead=lead,
            framing=tuple(string for string in framing if telling & set(string)),
            signs={controls[name][0]: sign for name, sign in of_name.items()},
            shown=shown,
            anywhere=bool(telling & set(opening)),
            answer=answer,
        )

    def plain(self, text: str) -> str:
        """A text without signs."""
        return SIGN.sub(lambda match: self.shown.get(match[0], match[0]), text)
