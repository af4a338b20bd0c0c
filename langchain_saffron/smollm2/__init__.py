"""SmolLM2-135M-Instruct, a small real model: where its base weights are.

Importing this package imports no torch.
"""

from langchain_saffron.models.smollm2_base import HUB_ID, find_base

__all__ = ["HUB_ID", "find_base"]
