"""DeepAVFusion: two masked ViTs whose every layer reads, and feeds, a few shared fusion tokens.

Source: "Unveiling the Power of Audio-Visual Early Fusion Transformers with Dense Interactions through Masked
Modeling" (CVPR 2024). Where the paper and the released code differ, this is the released code.
"""

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.configs.deepavfusion import DeepAVFusionConfig, MaskedViTsConfig, fusion_layer_ids
from avmodel.decoders import with_hidden
from avmodel.embedding import fit_columns, fit_image
from avmodel.layers import ViT, init_linears, make_blocks
from avmodel.masking import KeptIds, ids_from_noise
from avmodel.models.family import (
    AUDIOMAE,
    MAE,
    Draws,
    Family,
    LayerTokens,
    Modality,
    Output,
    for_each_image,
    own_channels,
    vit_names,
)
from avmodel.models.fusion import FusionBlock
from avmodel.objectives import weighted
from avmodel.positions import sincos_positions
from avmodel.renaming import renamed

# AudioSet's statistics in AudioMAE, of natural-log Kaldi mels; it divides by twice the deviation.
AUDIOMAE_MEAN, AUDIOMAE_STD = -4.2677393, 4.5689974

ALIGNED = "aligned"  # an audio_init
SILENCE = -7.0  # log10(0 + 1e-7): the log-mel of no sound


class Tokens(NamedTuple):
    image: Float[Tensor, "b n d"]
    audio: Float[Tensor, "b m d"]
    fusion: Float[Tensor, "b f d"]


class Features(NamedTuple):
    """Tokens after their final norms; `layers`, if asked for: those after each layer, before the norms."""

    image: Float[Tensor, "b n d"]
    audio: Float[Tensor, "b m d"]
    fusion: Float[Tensor, "b f d"]
    layers: tuple[Tokens, ...] = ()


def audiomae_scale(log_mel: Float[Tensor, "b 1 mel t"]) -> Float[Tensor, "b 1 mel t"]:
    """log10-power mels in the units that AudioMAE was trained on.

    An affine map: natural logarithm, its mean and deviation. What the two front ends do differently before
    the logarithm (window, pre-emphasis, mel filters) stays.
    """
    return (log_mel * math.log(10) - AUDIOMAE_MEAN) / (2 * AUDIOMAE_STD)


def branch_vit(config: MaskedViTsConfig, modality: Modality) -> ViT:
    """The ViT of one modality."""
    image = modality == "image"
    return ViT(
        config.vit,
        input_size=config.image_size if image else config.audio_size,
        patch_size=config.patch_size,
        in_chans=3 if image else 1,
        drop_path=config.drop_path,
        attn_drop=config.attn_drop,
        second_axis_first=image or config.audio_init != ALIGNED,
    )


def whole_patches(log_mel: Float[Tensor, "b 1 mel t"], config: MaskedViTsConfig) -> Float[Tensor, "b 1 rows s"]:
    """The first 192 of 196 columns; in patches of 14, the lowest 126 of 128 bins.

    Raises ValueError if no crop fits.
    """
    p = config.patch_size
    return fit_columns(log_mel, config.audio_size, p)[:, :, : config.audio_size[0] // p * p]


class MaskedViTs(Family):
    """A ViT of each modality that starts from MAE or AudioMAE, fused or not."""

    published_starts: ClassVar = {"image": MAE, "audio": AUDIOMAE}
    config: MaskedViTsConfig

    def load_vit(
        self, modality: Modality, vit: Mapping[str, Tensor], fill: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        """Load MAE (image) or AudioMAE (audio) weights; their positions are not among the branch's weights.

        With audio_init="aligned" AudioMAE's patch kernel is turned from (time, frequency) to (frequency, time);
        "released" keeps it as it is. Of an image ViT for audio, the kernel is summed over the colors.
        """
        kernel = vit["patch_embed.proj.weight"]
        if modality == "audio" and self.config.audio_init == ALIGNED and kernel.shape[1] == 1:  # not an image's
            vit = {**vit, "patch_embed.proj.weight": kernel.transpose(-1, -2).contiguous()}
        fill(renamed(own_channels(vit, modality, "sum"), vit_names(f"encoder.{modality}")))

    @property
    def mel_map(self) -> tuple[float, float]:
        """Factor and summand of `audiomae_scale`, where it is used."""
        if self.config.audio_init != ALIGNED:
            return 1.0, 0.0
        return math.log(10) / (2 * AUDIOMAE_STD), -AUDIOMAE_MEAN / (2 * AUDIOMAE_STD)


class Encoder(nn.Module):
    """Image and audio ViTs with fusion blocks beside some of their layers."""

    def __init__(self, config: DeepAVFusionConfig) -> None:
        super().__init__()
        size = config.vit
        self.config = config
        self.aligned = config.audio_init == ALIGNED
        self.image, self.audio = branch_vit(config, "image"), branch_vit(config, "audio")
        self.fusion_tokens = nn.Parameter(torch.empty(1, sum(config.num_tokens), size.embed_dim))
        self.fusion_blocks = nn.ModuleDict(
            {str(layer): FusionBlock(config) for layer in fusion_layer_ids(config.fusion_layers, size.depth)}
        )
        self.fusion_norm = nn.LayerNorm(size.embed_dim)
        self.apply(init_linears)
        nn.init.normal_(self.fusion_tokens, std=0.02)

    def forward(
        self,
        image: Float[Tensor, "b 3 h w"],
        log_mel: Float[Tensor, "b 1 mel t"],
        masks: KeptIds | None = None,
        *,
        keep_layers: bool = False,
    ) -> Features:
        """Tokens of a normalized image and a log10-power mel: of all patches, or of those in `masks`."""
        fit_image(image, self.config.image_size)
        log_mel = whole_patches(log_mel, self.config)
        if self.aligned:
            log_mel = audiomae_scale(log_mel)
        image_ids, audio_ids = masks or (None, None)
        image = self.image.embed(image, image_ids)
        audio = self.audio.embed(log_mel, audio_ids)
        fusion = self.fusion_tokens.expand(image.shape[0], -1, -1)
        layers = []
        for layer, (image_block, audio_block) in enumerate(zip(self.image.blocks, self.audio.blocks, strict=True)):
            if str(layer) in self.fusion_blocks:
                # All three read the state before this layer: the update is parallel.
                image, audio, fusion = (
                    image_block(image, fusion),
                    audio_block(audio, fusion),
                    self.fusion_blocks[str(layer)](fusion, image, audio),
                )
            else:
                image, audio = image_block(image), audio_block(audio)
            if keep_layers:
                layers.append(Tokens(image, audio, fusion))
        return Features(self.image.norm(image), self.audio.norm(audio), self.fusion_norm(fusion), tuple(layers))


class Decoder(nn.Module):
    """Patches of one modality from its visible tokens and the fusion tokens, if there are any.

    Its positions start as sine-cosine and are trained (and, having three axes, weight-decayed) as in the
    released code; decoder_positions="fixed" keeps them.
    """

    def __init__(self, config: MaskedViTsConfig, grid: tuple[int, int], in_chans: int) -> None:
        super().__init__()
        dim = config.decoder_embed_dim
        self.embed = nn.Linear(config.vit.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        positions = sincos_positions(dim, grid)
        if config.decoder_positions == "trainable":
            self.positions = nn.Parameter(positions)
        else:
            self.register_buffer("positions", positions)
        self.blocks = make_blocks(dim, config.decoder_depth, config.decoder_num_heads, eps=1e-5)
        self.norm = nn.LayerNorm(dim)
        self.pred = nn.Linear(dim, config.patch_size**2 * in_chans)
        self.apply(init_linears)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        visible: Float[Tensor, "b k d"],
        fusion: Float[Tensor, "b f d"] | None,
        ids_restore: Int[Tensor, "b n"],
    ) -> Float[Tensor, "b n patch"]:
        x = with_hidden(self.embed(visible), self.mask_token, ids_restore) + self.positions
        if fusion is not None:
            x = torch.cat([self.embed(fusion), x], dim=1)
        for block in self.blocks:
            x = block(x)
        patches: Tensor = self.pred(self.norm(x[:, -ids_restore.shape[1] :]))
        return patches


class DeepAVFusion(MaskedViTs):
    """The masked autoencoder: encoder, two decoders, two reconstruction losses."""

    config: DeepAVFusionConfig

    def __init__(self, config: DeepAVFusionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.image_decoder = Decoder(config, self.encoder.image.grid, in_chans=3)
        self.audio_decoder = Decoder(config, self.encoder.audio.grid, in_chans=1)
        self.num_draws = self.encoder.image.num_patches + self.encoder.audio.num_patches

    def modality_vit(self, modality: Modality) -> ViT:
        """Image or audio ViT."""
        return self.encoder.image if modality == "image" else self.encoder.audio

    def streams(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Float[Tensor, "_ _ d"]]:
        """Tokens after the final norms, nothing masked: `image`, `audio` and `fusion`.

        Both ViTs read the fusion tokens, so neither runs alone. A modality that is None is replaced by the mean color
        or by silence, and gets no stream. With several images per log-mel, each image is paired with its log-mel.
        """
        given = image if image is not None else log_mel
        if given is None:
            raise ValueError("streams of neither an image nor a log-mel")
        if image is not None and log_mel is not None:
            log_mel = for_each_image(log_mel, image)
        features = self.encoder(
            given.new_zeros(given.shape[0], 3, *self.config.image_size) if image is None else image,
            given.new_full((given.shape[0], 1, *self.config.audio_size), SILENCE) if log_mel is None else log_mel,
        )
        tokens = {"image": features.image, "audio": features.audio, "fusion": features.fusion}
        absent = "image" if image is None else "audio" if log_mel is None else None
        return {name: x for name, x in tokens.items() if name != absent}

    def forward_intermediates(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]
    ) -> list[LayerTokens]:
        """Image and audio tokens after each layer. Fusion tokens of a layer reach them in the next layer."""
        features = self.encoder(image, log_mel, keep_layers=True)
        return [LayerTokens(layer.image, layer.audio) for layer in features.layers]

    def choose(self, draws: Draws) -> KeptIds:
        """The patches with the smallest random numbers: 49 of 196 and 19 of 96 by default."""
        image, audio = torch.split(draws.noise, [self.encoder.image.num_patches, self.encoder.audio.num_patches], dim=1)
        config = self.config
        return KeptIds(ids_from_noise(image, config.image_mask_ratio), ids_from_noise(audio, config.audio_mask_ratio))

    def forward(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"], masks: KeptIds) -> Output:
        """Losses and predicted patches when only the patches in `masks` are visible."""
        image_ids, audio_ids = (ids.to(image.device, non_blocking=True) for ids in masks)
        features = self.encoder(image, log_mel, KeptIds(image_ids, audio_ids))
        image_masking, audio_masking = self.maskings(image_ids, audio_ids)
        image_pred = self.image_decoder(features.image, features.fusion, image_masking.ids_restore)
        audio_pred = self.audio_decoder(features.audio, features.fusion, audio_masking.ids_restore)
        predicted = image_pred, audio_pred, image_masking.mask, audio_masking.mask
        terms = self.reconstruction_terms(image, whole_patches(log_mel, self.config), predicted)
        return Output(weighted(terms), *predicted)
