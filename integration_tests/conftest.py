"""Stand-ins for real checkpoints, written once a run."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from integration_tests.stand_ins import write_llama3, write_published_mrm
from langchain_saffron.errors import ModelNotFoundError
from langchain_saffron.smollm2 import find_base
from unit_tests.gguf_files import write_gguf

# every core has a test of its own: threads, in scripts that tests start too, would only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@dataclass(frozen=True)
class Checkpoints:
    """Directories in the form of Llama 3, Llama Guard 3 and the published MRM, and a GGUF file."""

    policy: Path
    guard: Path
    mrm: Path
    gguf: Path

    @property
    def arguments(self) -> list[str]:
        """They as arguments of the command line."""
        return ["--model", str(self.policy), "--reward-model", str(self.mrm), "--reward-base", str(self.guard)]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Checkpoints:
    root = tmp_path_factory.mktemp("checkpoints")
    policy, guard = write_llama3(root / "policy", seed=0), write_llama3(root / "llama-guard-3-1b", 1, context=1024)
    mrm = write_published_mrm(root / "mrm", guard, "meta-llama/Llama-Guard-3-1B")
    write_gguf(root / "tiny.Q8_0.gguf", quantization="Q8_0")
    return Checkpoints(policy, guard, mrm, root / "tiny.Q8_0.gguf")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2's base weights; a test that asks for them is skipped where they are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        try:
            return find_base()
        except ModelNotFoundError as error:
            pytest.skip(str(error))
