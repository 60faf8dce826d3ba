"""Linear heads on pooled streams: one a stream, and the mean of their logits."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ALL = "all"  # the mean of all heads' logits


class Heads(nn.Module):
    """Logits of each stream, and their mean under `all`: the released code's three heads.

    `normalize` puts a batch norm without parameters (eps 1e-6) before each head, as MAE's linear probe does. Streams
    that are not given, as their modality is missing, don't count in the mean.
    """

    def __init__(self, widths: Mapping[str, int], num_classes: int, *, normalize: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleDict(
            {
                name: nn.BatchNorm1d(width, affine=False, eps=1e-6) if normalize else nn.Identity()
                for name, width in widths.items()
            }
        )
        self.heads = nn.ModuleDict({name: nn.Linear(width, num_classes) for name, width in widths.items()})
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.trunc_normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, features: Mapping[str, Float[Tensor, "b _"]]) -> dict[str, Float[Tensor, "b c"]]:
        logits = {name: self.heads[name](self.norms[name](x)) for name, x in features.items()}
        return {**logits, ALL: torch.stack(list(logits.values())).mean(dim=0)}

    def start_from_frequencies(self, frequencies: Float[Tensor, " c"]) -> None:
        """Set the biases to log(p / (1 - p)) of each class's frequency: the prior."""
        p = frequencies.clamp(1e-6, 1 - 1e-6)
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            head.bias.data.copy_((p / (1 - p)).log())


def classification_loss(
    logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"], *, multi_label: bool, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Cross-entropy, or for several labels a sample the mean binary cross-entropy; over soft targets.

    `smoothing` moves that share of each target to all classes alike.
    """
    targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets)
