"""Qwen3Guard-Stream: a Qwen3 body that says of every token of an answer how risky it is, with no code of the hub's."""

from typing import Any

import torch
from transformers import Qwen3Config, Qwen3Model, Qwen3PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from langchain_saffron.errors import ModelLoadError
from langchain_saffron.templates.reward_template import RewardTemplate

ARCHITECTURE = "Qwen3ForGuardModel"
# of Qwen's chats, without thoughts
TEMPLATE = RewardTemplate(
    add_bos=False,
    system="<|im_start|>system\n{text}<|im_end|>\n",
    user="<|im_start|>user\n{text}<|im_end|>\n",
    assistant="<|im_start|>assistant\n{text}<|im_end|>\n",
    preamble="",
)


class StreamGuard(Qwen3PreTrainedModel):
    """The body and the head for answers of a `Qwen3ForGuardModel` checkpoint.

    The heads for questions and for kinds of harm are left out: the reward is the safe logit less the unsafe one, after
    a token of the answer.
    """

    # the checkpoint's other heads
    _keys_to_ignore_on_load_unexpected = (r"^query_", r"^category_head\.", r"^lm_head\.")

    def __init__(self, config: Qwen3Config) -> None:
        """Build it without weights, as transformers does.

        Args:
            config: The checkpoint's, with the inner size of the head and the names of its levels.

        Raises:
            ModelLoadError: They are not there.
        """
        given: Any = config
        try:
            inner, levels = int(given.guard_inner_size), dict(given.response_risk_level_map)
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelLoadError(f"the config of the {ARCHITECTURE} lacks a part of its head: {error}") from error
        given.id2label = {int(index): str(level) for index, level in levels.items()}
        super().__init__(config)
        self.model = Qwen3Model(config)
        self.risk_level_category_pre = torch.nn.Linear(given.hidden_size, inner, bias=False)
        self.risk_level_category_layernorm = Qwen3RMSNorm(inner, eps=given.rms_norm_eps)
        self.risk_level_head = torch.nn.Linear(inner, len(levels), bias=False)
        self.post_init()

    def token_head(self) -> torch.nn.Sequential:
        """From the body's states to a logit a level."""
        return torch.nn.Sequential(
            self.risk_level_category_pre, self.risk_level_category_layernorm, self.risk_level_head
        )
