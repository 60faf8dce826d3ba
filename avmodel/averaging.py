"""A moving average of a model's weights, beside the weights that are trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avmanifest.errors import CheckpointError
from avmodel.configs.run import RunConfig
from avmodel.sharding import own_part, share_of


class WeightAverage:
    """An exponential moving average of all weights and buffers; of a sharded model each process has its shares.

    Args:
        model: The model at its start. It keeps its weights.
        decay: Share of the average that each update keeps.
        start: Updates during which the average is a copy of the weights.
    """

    def __init__(self, model: nn.Module, decay: float, start: int = 0) -> None:
        self.decay, self.start, self.updates = decay, start, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights after a step into the average."""
        self.updates += 1
        share = 1.0 if self.updates <= self.start else 1 - self.decay
        own, new = [], []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                own.append(own_part(self.weights[name]))
                new.append(own_part(value))
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(own, new, share)

    @torch.no_grad()
    def fill(self, weights: Mapping[str, Tensor], source: Path) -> None:
        """Go on from this average, in whole tensors. Raises CheckpointError if it is of another model."""
        shapes = [{name: value.shape for name, value in kind.items()} for kind in (weights, self.weights)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(f"{source}: its weights are of another model than the run's.")
        for name, value in self.weights.items():
            value.copy_(share_of(weights[name], value))

    def state_dict(self) -> dict[str, int | str]:
        """What the average is not."""
        return {"updates": self.updates}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on with the values of `state_dict`. Raises KeyError for others."""
        self.updates = int(values["updates"])


def weight_average(config: RunConfig, model: nn.Module) -> WeightAverage | None:
    """A new average of the model at its start, if the run asks for one."""
    return None if config.ema_decay is None else WeightAverage(model, config.ema_decay, config.ema_start)
