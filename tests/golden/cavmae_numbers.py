"""What the files of released numbers of CAV-MAE and of CAV-MAE Sync have in common."""

import torch
from torch import Tensor

from avmodel.masking import KeptIds
from avmodel.models.family import Output


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of that prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def inputs(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, KeptIds]:
    """Images, log-mels and what is kept of each."""
    log_mel = tensors["audio"].transpose(1, 2).unsqueeze(1)
    return tensors["image"], log_mel, KeptIds(tensors["ids_keep.image"], tensors["ids_keep.audio"])


def assert_predicted(output: Output, tensors: dict[str, Tensor], contrast: str) -> None:
    """Predictions and losses are the released ones; `contrast`: the name of the contrastive one."""
    for name, prediction in (("image", output.image_pred), ("audio", output.audio_pred)):
        torch.testing.assert_close(prediction, tensors[f"pred.{name}"], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.losses[name], tensors[f"loss.{name}"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.losses["contrast"], tensors[contrast], atol=1e-5, rtol=0)
