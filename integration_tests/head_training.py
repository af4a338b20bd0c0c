"""What `head_figures` measures: reward models of each kind, trained on the same annotated conversations."""

from collections.abc import Sequence
from pathlib import Path

from integration_tests.scaling_figures import WORLDS
from integration_tests.smollm2_corpus import annotate_own
from langchain_saffron.embedded import named_part
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.recipe.mrm import annotate_corpora
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.fit import ON_POLICY
from langchain_saffron.training.settings import HeadSettings, TrainSettings
from langchain_saffron.training.train import train
from langchain_saffron.training.train_head import train_head

# of the kitchen's separate MRM: as its own was trained, but for the number of conversations
SEPARATE = TrainSettings(epochs=3, batch_size=16, learning_rate=3e-3, device="cpu")
# beside `ON_POLICY`: as many epochs as the separate MRM, and what 2 CPU cores have time for with 135M parameters
ON_POLICY_OF = {"hard-kitchen": {"epochs": 3}, "smollm2": {"epochs": 1, "batch_size": 8, "layers": 10}}


def annotated(
    world: str, work: Path, chats: int, data: Path | None, candidates: int, after: int = 0, held_out: int = 100
) -> Path:
    """The directory with training and held-out data in `mrm` and `held_out`; what is finished is not done again.

    Args:
        world: Whose guard gives the rewards.
        work: Where they go.
        chats: Conversations to train on.
        data: The directory of smollm2's data files.
        candidates: Of each place in an answer that are annotated as well.
        after: At every how many places what follows them is annotated, too; 0 for none.
        held_out: The kitchen's held-out conversations at least; a tenth of those to train on where that is more.
    """
    policy = "smollm2" if world == "smollm2" else str(WORLDS[world].policy)
    beside = ("--candidates", str(candidates), "--policy", policy) if candidates else ()
    beside += ("--candidates-after", str(after)) if after else ()
    if world == "smollm2":
        assert data is not None
        annotate_own(data, work, chats, *beside)
    else:
        annotate_corpora(WEIGHTS / "prm", work, chats, max(held_out, chats // 10), 0, *beside)
    return work


def trained(world: str, work: Path, data: RewardData, held_out: RewardData, kinds: Sequence[str]) -> dict[str, Path]:
    """Reward models of some kinds, trained on the same data where they are not there yet."""
    paths = {kind: work / kind for kind in kinds}
    real = world == "smollm2"
    policy = named_part("smollm2", "policy") if real else WORLDS[world].policy
    for kind, path in paths.items():
        if kind == "head":
            settings = HeadSettings(device="cpu", dtype="bfloat16" if real else "float32")
            train_head(data, path, policy="smollm2" if real else policy, held_out=held_out, settings=settings)
        elif kind == "policy":
            own = TrainSettings(**{**ON_POLICY, **ON_POLICY_OF[world], "device": "cpu"})
            train(data, path, base=policy, held_out=held_out, settings=own)
        else:
            train(data, path, base=WEIGHTS / "prm", held_out=held_out, settings=SEPARATE)
    return paths
