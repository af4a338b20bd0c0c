"""Added tokens that ordinary text is written with: HTML tags, of which Gemma's tokenizers keep dozens."""

import re
from typing import Any

_ELEMENTS = (
    "a|abbr|address|article|aside|audio|b|bbox|blockquote|body|br|button|canvas|caption|center|cite|code|col|colgroup|dd|"
    "del|details|dfn|dialog|div|dl|dt|em|fieldset|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|"
    "img|input|ins|kbd|label|legend|li|link|main|map|mark|meta|nav|object|ol|option|p|picture|pre|q|s|samp|script|section|"
    "select|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|template|textarea|tfoot|th|thead|"
    "time|title|tr|tt|u|ul|var|video"
)
_TAG = re.compile(rf"</?(?:{_ELEMENTS})>")


def markup_strings(tokenizer: Any) -> frozenset[str]:
    """The added tokens of a tokenizer that are HTML tags, and that neither it nor its config calls special.

    Where it does not say by which tokens a text begins and ends, `<s>` and `</s>` may be these.
    """
    special = set(tokenizer.all_special_tokens)
    if tokenizer.bos_token is None or tokenizer.eos_token is None:
        special |= {"<s>", "</s>"}
    tokens = tokenizer.added_tokens_decoder.values()
    tags = {token.content for token in tokens if not token.special and _TAG.fullmatch(token.content)}
    return frozenset(tags - special)


def template_texts(tokenizer: Any) -> list[str]:
    """The texts of a tokenizer's own chat templates."""
    own = getattr(tokenizer, "chat_template", None)
    return [str(text) for text in (own.values() if isinstance(own, dict) else [own] if own else [])]
