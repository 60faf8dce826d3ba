"""CAV-MAE Sync: CAV-MAE on a frame and the sound around it, with global tokens for the contrast, and register tokens.

A tower's sequence is a global token, the patches and the registers. The registers leave before the joint blocks. The
joint pass, and so the decoder, gets patches alone; the passes of one modality get the global token too, and the
contrast compares the two global tokens.

Source: "CAV-MAE Sync: Improving Contrastive Audio-Visual Mask Autoencoders via Fine-Grained Alignment"
(arXiv:2505.01237) and its released code, whose class tokens are the global tokens here. With several joint blocks the
released passes of one modality give the last block alone the tower's tokens; here they run through all of them. Its
models have one.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.configs.cavmae_sync import CAVMAESyncConfig
from avmodel.configs.model import ViTSize
from avmodel.models.cavmae import CAVMAE, Encoder, Tower


class SyncTower(Tower):
    """A tower with a global token before its patches and register tokens after them."""

    def __init__(
        self, size: ViTSize, *, input_size: tuple[int, int], patch_size: int, in_chans: int, num_registers: int
    ) -> None:
        super().__init__(size, input_size=input_size, patch_size=patch_size, in_chans=in_chans)
        self.global_token = nn.Parameter(0.02 * torch.randn(1, 1, size.embed_dim))
        # Of deviation 1, as released.
        self.register_tokens = nn.Parameter(torch.randn(1, num_registers, size.embed_dim)) if num_registers else None

    def entering(
        self, x: Float[Tensor, "b c h w"], ids_keep: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """The global token, the patches, the registers."""
        patches = super().entering(x, ids_keep)
        own = [token for token in (self.global_token, self.register_tokens) if token is not None]
        first, *last = (token.expand(patches.shape[0], -1, -1) for token in own)
        return torch.cat([first, patches, *last], dim=1)

    def leaving(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The global token and the patches."""
        return tokens if self.register_tokens is None else tokens[:, : -self.register_tokens.shape[1]]

    def patches(self, tokens: Float[Tensor, "b m d"]) -> Float[Tensor, "b k d"]:
        """All but the global token."""
        return tokens[:, 1:]

    def vector(self, tokens: Float[Tensor, "b m d"]) -> Float[Tensor, "b d"]:
        """The global token."""
        return tokens[:, 0]


class SyncEncoder(Encoder):
    """CAV-MAE's encoder with towers that have tokens of their own."""

    def make_tower(self, config: CAVMAEConfig, size: ViTSize, *, input_size: tuple[int, int], in_chans: int) -> Tower:
        """One modality's tower."""
        assert isinstance(config, CAVMAESyncConfig)
        return SyncTower(
            size,
            input_size=input_size,
            patch_size=config.patch_size,
            in_chans=in_chans,
            num_registers=config.num_registers,
        )


class CAVMAESync(CAVMAE):
    """Masked autoencoder of a frame and the sound around it, whose global tokens are compared."""

    encoder_type: ClassVar[type[Encoder]] = SyncEncoder
    config: CAVMAESyncConfig

    def __init__(self, config: CAVMAESyncConfig) -> None:
        super().__init__(config)
        if not self.compares_samples:  # nothing else depends on the global tokens
            for tower in (self.encoder.image, self.encoder.audio):
                assert isinstance(tower, SyncTower)
                tower.global_token.requires_grad_(False)
