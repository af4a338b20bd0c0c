"""Prompts that are far too long, told before they are rendered: that takes seconds in which nothing else runs."""

from collections.abc import Callable, Sequence

from langchain_saffron.errors import ContextOverflowError

# below so many characters for each token of the context, rendering is no matter
CHARACTERS_A_TOKEN = 8
# small enough that other threads have their turn between two
PIECE = 4096


def refuse_beyond(context: int, encode: Callable[[str], Sequence[int]], texts: Sequence[str]) -> None:
    """Count the tokens of `texts`, piece by piece and only as far as needed, where they are long.

    Args:
        context: Tokens that there is room for.
        encode: From text to tokens.
        texts: All parts of the prompt; each comes to one token at least, with what a template writes around it.

    Raises:
        ContextOverflowError: There are more, by far more than what cutting into pieces adds.
    """
    tokens = len(texts)
    if tokens <= context and sum(map(len, texts)) <= CHARACTERS_A_TOKEN * context:
        return
    for text in texts:
        for start in range(0, len(text), PIECE):
            if tokens > context:
                break
            # a token less, for one that the cut divides
            tokens += max(0, len(encode(text[start : start + PIECE])) - 1)
    if tokens > context:
        raise ContextOverflowError(
            f"the prompt has more than {tokens - 1:,} tokens, but the context has {context:,} with the answer "
            "included: shorten the messages"
        )
