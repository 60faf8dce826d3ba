"""Linear heads on feature vectors, such as pooled streams, the mean of their logits, and the loss of their classes."""

from collections.abc import Mapping, Sequence

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
    CAV-MAE and AVSiam do. Streams that are not given, as their modality is missing, don't count in the mean; streams
    without a head are not read.
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
        logits = {name: self.heads[name](self.norms[name](x)) for name, x in features.items() if name in self.heads}
        return {**logits, ALL: torch.stack(list(logits.values())).mean(dim=0)}

    def start_from_shares(self, shares: Float[Tensor, " c"]) -> None:
        """Set the biases to log((p + 0.001) / (1 - p + 0.001)) of each class's share of all labels.

        Source: the released eval_finetune.py.
        """
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            head.bias.data.copy_(((shares + PRIOR_FLOOR) / (1 - shares + PRIOR_FLOOR)).log())


def heads_note(streams: Sequence[str] | None) -> str:
    """The addition to a result's mode that tells of the only streams with a head; empty for None, all streams."""
    return "" if streams is None else f", heads {' + '.join(streams)}"


def label_shares(labels: Bool[Tensor, "n c"]) -> Float[Tensor, " c"]:
    """Each class's share of all labels, as released (datasets.py): they sum to 1 where samples have several, too."""
    counts = labels.float().sum(dim=0)
    return counts / counts.sum()


def class_weights(shares: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """The inverse of each class's share of all labels; 0 for a class that no sample has, which the loss leaves out.

    Source: the released eval_finetune.py, which divides the binary cross-entropy of each class so.
    """
    return torch.where(shares > 0, 1 / shares.clamp_min(torch.finfo(shares.dtype).tiny), torch.zeros_like(shares))


def classification_loss(
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    *,
    multi_label: bool,
    smoothing: float = 0.0,
    weights: Float[Tensor, " c"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy, or for several labels a sample the mean binary cross-entropy; over soft targets.

    Args:
        logits: Of each sample and class.
        targets: From 0 to 1.
        multi_label: Whether samples may have several labels.
        smoothing: A target t becomes t (1 - smoothing) + smoothing / c, for one label a sample or several, as released.
        weights: With several labels: factor of each class's loss. Classes of weight 0 do not count in the mean.
    """
    targets = targets * (1 - smoothing) + smoothing / targets.shape[1]
    if not multi_label:
        return F.cross_entropy(logits, targets)
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits, targets)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses.mean(dim=0) * weights).sum() / (weights > 0).sum()
