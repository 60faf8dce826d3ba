"""Linear heads on feature vectors, such as pooled streams, and the mean of their logits."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

ALL = "all"  # the mean of all heads' logits
PRIOR_FLOOR = 1e-3  # added to a class's share and to the rest in the start of the biases


class Heads(nn.Module):
    """Logits of each stream, and their mean under `all`: the released code's three heads.

    Weights start Xavier-uniform, biases at 0, as released (models/classifier.py). `normalize` puts a batch norm
    without parameters (eps 1e-6) before each head, as MAE's linear probe does; `layer_norm` a layer norm (eps 1e-5), as
    CAV-MAE and AVSiam do. Streams that are not given, as their modality is missing, don't count in the mean.
    """

    def __init__(
        self, widths: Mapping[str, int], num_classes: int, *, normalize: bool, layer_norm: bool = False
    ) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            if layer_norm:
                return nn.LayerNorm(width)
            return nn.BatchNorm1d(width, affine=False, eps=1e-6) if normalize else nn.Identity()

        self.norms = nn.ModuleDict({name: norm(width) for name, width in widths.items()})
        self.heads = nn.ModuleDict({name: nn.Linear(width, num_classes) for name, width in widths.items()})
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.xavier_uniform_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, features: Mapping[str, Float[Tensor, "b _"]]) -> dict[str, Float[Tensor, "b c"]]:
        logits = {name: self.heads[name](self.norms[name](x)) for name, x in features.items()}
        return {**logits, ALL: torch.stack(list(logits.values())).mean(dim=0)}

    def start_from_shares(self, shares: Float[Tensor, " c"]) -> None:
        """Set the biases to log((p + 0.001) / (1 - p + 0.001)) of each class's share of all labels.

        Source: the released eval_finetune.py.
        """
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            head.bias.data.copy_(((shares + PRIOR_FLOOR) / (1 - shares + PRIOR_FLOOR)).log())


def label_shares(labels: Bool[Tensor, "n c"]) -> Float[Tensor, " c"]:
    """Each class's share of all labels, as released (datasets.py): they sum to 1 where samples have several, too."""
    counts = labels.float().sum(dim=0)
    return counts / counts.sum()


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
