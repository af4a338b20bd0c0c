"""Which tokens end a turn."""

from typing import Any

from langchain_saffron.errors import ModelLoadError


def end_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """All tokens that end a turn: what the generation config names, and the tokenizer's own.

    Checkpoints often name one end in the one and another in the other (`<|endoftext|>`, `<|im_end|>`).

    Raises:
        ModelLoadError: The generation config names something else than ids.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = tuple(named) if isinstance(named, list | tuple) else () if named is None else (named,)
    if not all(isinstance(one, int) for one in ids):
        raise ModelLoadError(f"the generation config's eos_token_id is {named!r}, and has to be a token id or several")
    own, rows = tokenizer.eos_token_id, getattr(getattr(model, "config", None), "vocab_size", None)
    if own is None or (ids and rows is not None and own >= rows):
        return ids
    return tuple(dict.fromkeys((*ids, own)))
