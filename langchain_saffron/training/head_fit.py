"""The fit of a reward head to states that are there already."""

import math
from collections.abc import Callable

import torch

from langchain_saffron.models.head_map import HeadMap
from langchain_saffron.training.calibration import Choices, Predicted
from langchain_saffron.training.choice_loss import SIBLING_WEIGHT, squared_errors
from langchain_saffron.training.head_states import HeadStates
from langchain_saffron.training.sibling_states import SiblingStates

# whose siblings take part in a step
_PLACES = 24
_WARM_UP = 0.05
_DECAY = 0.01
# a coordinate that never changes tells nothing
_LEAST_SPREAD = 1e-4


class FittedHead:
    """A map and a bias, trained on the states of one layer.

    Attributes:
        map: `g`.
        bias: float32 tensor [vocabulary].
        losses: Of every step.
    """

    def __init__(self, data: HeadStates, layer: int, rows: torch.Tensor, rank: int, seed: int) -> None:
        """Before any step: rewards of 0.

        Args:
            data: What it is going to be fitted to, for the scale of its states.
            layer: Whose states it reads.
            rows: [vocabulary, width]: the policy's unembedding.
            rank: Of the map.
            seed: Of its first weights.
        """
        torch.manual_seed(seed)
        self._layer, self._rows = layer, rows
        states = data.states[layer].float()
        self.map = HeadMap(states.shape[1], rows.shape[1], rank)
        self.map.mean.copy_(states.mean(0))
        self.map.spread.copy_(states.std(0).clamp_min(_LEAST_SPREAD))
        self.map.to(rows.device)
        self.bias = torch.nn.Parameter(torch.zeros(len(rows), device=rows.device))
        self.losses: list[float] = []

    def fit(
        self,
        data: HeadStates,
        epochs: int,
        batch: int,
        rate: float,
        seed: int,
        tick: Callable[[int, int, float], None] | None = None,
    ) -> None:
        """Mean squared error of the rewards (paper, eq. 5), by AdamW; see `choice_loss` for those of candidates.

        Args:
            data: The prefixes.
            epochs: Passes over them.
            batch: Prefixes a step.
            rate: The learning rate of the map; it rises over the first steps and falls to zero by a cosine.
            seed: Of their order.
            tick: Called with the steps done, all steps, and the last loss.
        """
        count = len(data.following)
        each = math.ceil(count / batch)
        steps = epochs * each
        groups = [
            {"params": list(self.map.parameters()), "rate": rate, "weight_decay": _DECAY},
            {"params": [self.bias], "rate": 5 * rate, "weight_decay": _DECAY},
        ]
        optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
        order = torch.empty(0, dtype=torch.long)
        for step in range(steps):
            if step % each == 0:
                generator = torch.Generator().manual_seed(seed * 10_007 + step // each)
                order = torch.randperm(count, generator=generator)
            index = order[step % each * batch : (step % each + 1) * batch]
            warm = max(1, int(_WARM_UP * steps))
            scale = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimiser.param_groups:
                group["lr"] = group["rate"] * scale
            loss = self._loss(data, index)
            if data.siblings is not None:
                loss = loss + SIBLING_WEIGHT * self._sibling_loss(data.siblings, seed * 20_011 + step)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*self.map.parameters(), self.bias], 1.0)
            optimiser.step()
            self.losses.append(float(loss.detach()))
            if tick:
                tick(step + 1, steps, self.losses[-1])

    def predict(self, data: HeadStates) -> torch.Tensor:
        """float32 tensor [prefixes], on the CPU."""
        return self._all(data, data.following[:, None])[:, 0]

    def measure(self, data: HeadStates) -> Predicted:
        """The predictions of all rewards there are."""
        rewards, predictions = data.rewards.numpy(), self.predict(data).numpy()
        tokens, known = data.targets(slice(None))
        there = ~known.isnan()
        if int(there.sum()) == len(rewards):
            return Predicted(rewards, predictions)
        prefix = there.nonzero()[:, 0]
        choices = Choices(known[there].numpy(), self._all(data, tokens)[there].numpy(), prefix.numpy())
        return Predicted(rewards, predictions, choices)

    def _loss(self, data: HeadStates, index: torch.Tensor) -> torch.Tensor:
        tokens, rewards = data.targets(index)
        there = ~rewards.isnan()
        predicted = self._predicted(data.states[self._layer][index], tokens)
        error = predicted[there.to(predicted.device)] - rewards[there].to(predicted.device)
        return squared_errors(error, there.nonzero()[:, 0].to(predicted.device)) / len(error)

    def _sibling_loss(self, siblings: SiblingStates, seed: int) -> torch.Tensor:
        """The same of what follows candidates, at some places: there, prefixes of one length are compared."""
        drawn = torch.randint(siblings.places, (_PLACES,), generator=torch.Generator().manual_seed(seed))
        some = siblings.of_places(drawn.tolist())
        predicted = self._predicted(some.states[self._layer], some.following[:, None])[:, 0]
        error = predicted - some.rewards.to(predicted.device)
        return squared_errors(error, some.place.to(predicted.device)) / len(error)

    @torch.inference_mode()
    def _all(self, data: HeadStates, tokens: torch.Tensor) -> torch.Tensor:
        """float32 tensor [prefixes, tokens], on the CPU: the predictions of `tokens`."""
        parts = zip(data.states[self._layer].split(4096), tokens.split(4096), strict=True)
        return torch.cat([self._predicted(states, some).cpu() for states, some in parts])

    def _predicted(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        device = self._rows.device
        tokens = tokens.to(device)
        vectors, level = self.map(states.to(device))
        rows = torch.nn.functional.embedding(tokens, self._rows).float()
        return (vectors[:, None] * rows).sum(-1) + level + self.bias[tokens]
