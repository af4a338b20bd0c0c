"""The beginning of an answer that a caller gives, behind the conversation that it answers."""

from typing import Any

from langchain_saffron.templates.chat_template import Chat, ChatTemplate
from langchain_saffron.templates.message_forms import Message


def continue_answer(
    template: ChatTemplate, chat: Chat, header_ids: list[int], message: Message, tools: list[dict[str, Any]] | None
) -> tuple[list[int], list[int]]:
    """Policy ids with the prefill, and the prefill's share of them.

    As in `apply_chat_template(..., continue_final_message=True)` where the tokens before the prefill are
    not affected by it. Else (a token would span the border, or the template cannot end within a message)
    the prefill is encoded on its own and follows the answer's header.

    Args:
        template: What writes the conversation.
        chat: The conversation up to where the answer begins, as it wrote it.
        header_ids: The same as token ids.
        message: The assistant's, with the prefill as its content.
        tools: In OpenAI's form.
    """
    prefill = message["content"]
    continued = None
    if prefill.strip():
        continued = template.render_continued(chat, message, tools)
        continued = continued or template.render_continued_elsewhere(chat, message, tools)
    if continued is not None:
        encoder = continued.encoder
        ids = encoder.encode(continued.text)
        split = _prefill_split(chat, header_ids, continued, prefill, ids)
        if split is not None and encoder.control_ids.isdisjoint(ids[split:]):
            return ids, ids[split:]
    prefill_ids = chat.encoder.encode_continuation(prefill)
    return header_ids + prefill_ids, prefill_ids


def _prefill_split(chat: Chat, header_ids: list[int], continued: Chat, prefill: str, ids: list[int]) -> int | None:
    """How many of `ids` come before the prefill; `None` if a token spans the border."""
    text = continued.text
    start = continued.last_start
    if start is not None and not (text.startswith(chat.text) and not text[len(chat.text) : start].strip()):
        # The template writes more before a given answer than before one to come (Qwen3: empty thoughts).
        blanks = prefill[: len(prefill) - len(prefill.lstrip())]
        header = text[:start].removesuffix(blanks)
        # a blank that it writes before answers may be a part of their first word
        headers = [continued.encoder.encode(one) for one in dict.fromkeys((header, header.rstrip(" ")))]
    else:
        headers = [header_ids]
    return next((len(one) for one in headers if 0 < len(one) < len(ids) and ids[: len(one)] == one), None)
