"""Mixup of images, audio and labels with one ratio: of log-mels as released, or of waveforms, as CAV-MAE does."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from avdata.load import Batch
from avdata.profiles import profile
from avdata.torch_melspec import log_mel
from avmanifest.errors import ShardError
from avmodel.augment import blended, mix, mix_shares
from avmodel.inputs import Inputs, normalize_images, to_inputs


class Pairing(NamedTuple):
    """What each sample of a batch is mixed with: `share` of itself, the rest of its `partner`."""

    partner: Int64[Tensor, " b"]
    share: Float[Tensor, " b"]


def paired(size: int, alpha: float, probability: float, chance: np.random.Generator) -> Pairing | None:
    """Partners, and shares of Beta(alpha, alpha) for so many of the samples, 1 for the others; None: none is mixed."""
    if alpha == 0 or probability == 0 or size < 2:
        return None
    shares = mix_shares(torch.from_numpy(chance.random((size, 2))), probability=probability, alpha=alpha)
    return Pairing(torch.from_numpy(chance.permutation(size)), shares)


def mixed_log_mels(
    inputs: Inputs, targets: Float[Tensor, "b c"], pairing: Pairing | None
) -> tuple[Inputs, Float[Tensor, "b c"]]:
    """Images, log-mels as they are, in the logarithm, and targets."""
    if pairing is None:
        return inputs, targets
    partner, share = (x.to(targets.device) for x in pairing)
    image, sound, labels = (blended(x, partner, share) for x in (*inputs, targets))
    return Inputs(image, sound), labels


def mixed_waveforms(
    batch: Batch, targets: Float[Tensor, "b c"], pairing: Pairing | None
) -> tuple[Inputs, Float[Tensor, "b c"]]:
    """Images, the log-mels of mixed waveforms, and targets, on the targets' device.

    Whether or not it is mixed, a sample's log-mel is made of its waveform here, by the batch's profile; of its columns
    the first are taken. Raises ShardError for a batch without waveforms.
    """
    batch = batch.to(targets.device)
    sound, images = batch.gained_waveform(), normalize_images(batch.images)
    if sound is None:
        raise ShardError("mixup_of=waveform: these samples have no waveform. Prepare them with FLAC.")
    if pairing is not None:
        partner, share = (x.to(targets.device) for x in pairing)
        sound, images, targets = mix(sound, images, targets, partner, share)
    columns = log_mel(sound, profile(batch.profile))[..., : batch.log_mel.shape[-1]]
    return Inputs(images, columns.unsqueeze(1)), targets


def mixed_batch(
    batch: Batch, device: torch.device, pairing: Pairing | None, sound: str
) -> tuple[Inputs, Float[Tensor, "b c"]]:
    """What a step of training gets of a batch; `sound` is one of MIXED_SOUNDS."""
    targets = batch.labels.to(device).float()
    if sound == "waveform":
        return mixed_waveforms(batch, targets, pairing)
    return mixed_log_mels(to_inputs(batch, device), targets, pairing)
