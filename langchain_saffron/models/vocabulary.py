"""Do policy and reward model mean the same by a token id? Compared by content, on ordinary tokens.

Search scores the policy's next tokens by the reward model's row of the same id, so that ids must agree.
Control tokens (special, reserved, padding) may have other names, as between Llama 3 and Llama Guard 3.
"""

import hashlib
from typing import Any

from langchain_saffron.errors import VocabularyMismatchError
from langchain_saffron.templates.safe_encoder import is_control

_SHOWN = 5


def ordinary_tokens(tokenizer: Any) -> dict[int, str]:
    """Id to token, without control tokens (and without a model's padding rows, which no tokenizer has)."""
    controls = {index for index, token in tokenizer.added_tokens_decoder.items() if is_control(token)}
    return {index: token for token, index in tokenizer.get_vocab().items() if index not in controls}


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256, as hex, of the ordinary tokens with their ids; equal for tokenizers that share them."""
    tokens = ordinary_tokens(tokenizer)
    # Lengths, because a token may contain any separator.
    lines = (f"{index} {len(token)} {token}\n" for index, token in sorted(tokens.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_vocabularies(policy_tokenizer: Any, reward_tokenizer: Any) -> None:
    """Checks that policy and reward model share their ordinary tokens by id.

    Raises:
        VocabularyMismatchError: They do not; the message says how many differ and shows the first few.
    """
    policy, reward = ordinary_tokens(policy_tokenizer), ordinary_tokens(reward_tokenizer)
    if policy == reward:
        return
    differing = sorted(i for i in policy.keys() | reward.keys() if policy.get(i) != reward.get(i))
    shown = "; ".join(
        f"id {i}: {_describe(policy, policy_tokenizer, i)} / {_describe(reward, reward_tokenizer, i)}"
        for i in differing[:_SHOWN]
    )
    raise VocabularyMismatchError(
        "policy and reward model do not share a vocabulary: their ordinary tokens must be the same, id by "
        f"id. The policy has {len(policy)}, the reward model {len(reward)}, and {len(differing)} ids differ "
        f"(policy / reward model): {shown}{'; …' if len(differing) > _SHOWN else ''}. "
        "Use a reward model that was trained for this policy's tokenizer."
    )


def _describe(tokens: dict[int, str], tokenizer: Any, index: int) -> str:
    if index in tokens:
        return repr(tokens[index])
    control = tokenizer.added_tokens_decoder.get(index)
    return f"control token {control.content!r}" if control else "nothing"
