"""A multifurcation reward model without a body of its own: it reads the states of the policy that it steers."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langchain_saffron.embedded import named_part
from langchain_saffron.errors import ModelLoadError, SettingsError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.head_map import HeadMap
from langchain_saffron.models.layer_tap import LayerTap
from langchain_saffron.models.mrm_files import TENSOR_FILE, read_config, write_config
from langchain_saffron.models.mrm_quality import warn_of_weaknesses
from langchain_saffron.models.policy_identity import PolicyIdentity
from langchain_saffron.models.source import resolve_directory
from langchain_saffron.models.trained_rewards import TrainedRewards
from langchain_saffron.models.unembedding import Unembedding
from langchain_saffron.runtime.threads import on_own_thread

KIND = "head"
_MAP = "map."
_PROBE = "probe"


class RewardHead(TrainedRewards):
    """`M(s)[a] = e_a · g(h_l(s)) + b_a`: one reward for every token that could follow `s`.

    `e_a` is the frozen unembedding row of the policy, `h_l` the states of one of its layers, `g` a small trained map,
    `b` a trained bias a token. It costs no second forward and no second cache, and serves this one policy.

    Attributes:
        layer: `l`, counted from 1.
        map: `g`.
        bias: float32 tensor [vocabulary].
        seen: bool tensor [vocabulary]: tokens that occurred as a training target.
        identity: What tells its policy from others.
        safety_threshold: The calibrated reward above which an answer counts as safe, or `None`.
        details: The directory's other records.
        template: `None`: it reads what the policy reads.
    """

    template = None

    def __init__(
        self,
        layer: int,
        map: HeadMap,
        bias: torch.Tensor,
        seen: torch.Tensor,
        identity: PolicyIdentity,
        safety_threshold: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        self.layer, self.identity = layer, identity
        self.map = map.eval().requires_grad_(False)
        self.bias, self.seen = bias.float(), seen.bool()
        self.safety_threshold = safety_threshold
        self.details = details or {}
        self._policy: tuple[TrieDecoder, Any, Unembedding] | None = None

    @classmethod
    def from_pretrained(cls, path: str | Path, **load: Any) -> "RewardHead":
        """Load a head; its policy is found when it is put to work (`on`).

        Args:
            path: A directory or hub id: `mrm_config.json` and `mrm.safetensors`.
            **load: Options of the loading (`revision`, `hf_token`).

        Raises:
            ModelLoadError: A file is missing or damaged, or it is another kind of reward model.
        """
        directory = resolve_directory(path, "reward model", load.get("revision"), load.get("hf_token"))
        config = read_config(directory)
        if config.get("kind") != KIND:
            raise ModelLoadError(f"{directory} holds no head, but another kind of reward model")
        file = directory / TENSOR_FILE
        try:
            tensors = load_file(file)
            bias, seen, probe = tensors["bias"], tensors["seen"], tensors[_PROBE]
            weights = {name.removeprefix(_MAP): one for name, one in tensors.items() if name.startswith(_MAP)}
            rank, width = weights["inner.weight"].shape
            map = HeadMap(width, weights["outer.weight"].shape[0] - 1, rank)
            map.load_state_dict(weights)
            layer = int(config["layer"])
            identity = PolicyIdentity(**config["policy"], probe=probe)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ModelLoadError(f"{file} is damaged or incomplete ({error}): write the head again") from error
        if not all(bool(one.isfinite().all()) for one in (bias, probe, *weights.values())):
            raise ModelLoadError(f"{file} holds NaN or infinity: it is damaged")
        warn_of_weaknesses(directory, int(seen.sum()), len(seen), config)
        return cls(layer, map, bias, seen, identity, config.get("safety_threshold"), config)

    def on(self, policy: TrieDecoder, tokenizer: Any) -> "RewardHead":
        """This head at work on its policy: from then on the policy's forwards bring the states that it reads.

        Raises:
            ModelLoadError: It was trained on another policy, for another tokenizer, or the layer's states are others;
                the message names the difference.
        """
        self.identity.check(policy.model, tokenizer, self.layer)
        unembedding = Unembedding.rows_of(policy.model)
        if unembedding is None:
            raise ModelLoadError(
                "the rows of this policy's unembedding cannot be read (weights that are moved about, or quantised by "
                "transformers): use a reward model of its own"
            )
        made = copy.copy(self)
        device = policy.device
        made.map = copy.deepcopy(self.map).to(device)
        made.bias, made.seen = self.bias.to(device), self.seen.to(device)
        made._policy = policy, tokenizer, unembedding
        policy.tap = LayerTap(policy.model, self.layer)
        return made

    @property
    def decoder(self) -> TrieDecoder:
        """The policy's."""
        return self._at_work()[0]

    @property
    def tokenizer(self) -> Any:
        """The policy's."""
        return self._at_work()[1]

    @property
    def unembedding(self) -> Unembedding:
        """The policy's, as plain rows."""
        return self._at_work()[2]

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return sum(one.numel() for one in self.map.parameters()) + len(self.bias)

    def fingerprint_parts(self) -> tuple[Any, ...]:
        """What its rewards depend on besides the policy, for `models.fingerprint`."""
        return (
            self.layer, list(self.map.state_dict().items()), self.bias, self.seen, self.safety_threshold, self.mask,
            self.error,
        )  # fmt: skip

    @on_own_thread
    @torch.inference_mode()
    def rewards(self, token_ids: Sequence[int]) -> torch.Tensor:
        """The predicted reward of every next token, by a forward of the policy.

        Args:
            token_ids: Prompt and response so far, as the policy reads them, at least one token.

        Returns:
            float32 tensor [vocabulary].
        """
        policy, _, unembedding = self._at_work()
        ids = torch.tensor([[int(token) for token in token_ids]], device=policy.device)
        if ids.numel() == 0:
            raise SettingsError("rewards() needs at least one token")
        tap = LayerTap(policy.model, self.layer)
        try:
            policy.model(input_ids=ids, use_cache=False)
            vector, level = self.map(tap.take((0, slice(-1, None))))
        finally:
            tap.close()
        return (unembedding.whole(vector.to(unembedding.dtype)) + level)[0].float() + self.bias

    def save_pretrained(self, path: str | Path, **details: Any) -> None:
        """Write the head's directory; nothing pickled.

        Args:
            path: The directory.
            **details: Further entries of `mrm_config.json` (`reward_source`, `training`).
        """
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {"bias": self.bias, "seen": self.seen, _PROBE: self.identity.probe}
        tensors |= {_MAP + name: one for name, one in self.map.state_dict().items()}
        save_file({name: one.cpu().contiguous() for name, one in tensors.items()}, directory / TENSOR_FILE)
        (directory / TENSOR_FILE).chmod(0o644)
        own = {"kind": KIND, "layer": self.layer, "policy": self.identity.record()}
        own["safety_threshold"] = self.safety_threshold
        write_config(directory, {**self.details, **details, **own})

    def _at_work(self) -> tuple[TrieDecoder, Any, Unembedding]:
        if self._policy is None:
            raise SettingsError(
                "a head reads the states of its policy: pass it as reward_model= beside that (ChatSaffron, "
                "SaffronEngine), and ask engine.reward_model"
            )
        return self._policy


def is_head(path: str | Path, token: str | None = None) -> bool:
    """Whether this is the directory or hub id of a head.

    Raises:
        ModelNotFoundError: It is nowhere.
        ModelLoadError: Its config is damaged.
    """
    directory = resolve_directory(named_part(path, "reward_model"), "reward model", None, token)
    return read_config(directory).get("kind") == KIND
