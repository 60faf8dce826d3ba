"""CAV-MAE: a tower for each sense and one joint block, run on both together and on each alone.

Source: "Contrastive Audio-Visual Masked Autoencoder" (arXiv:2210.07839) and its released code.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.decoders import JointDecoder
from avmodel.layers import ViT, ViTSize, after_each, init_linears, modal_blocks, vit_size
from avmodel.masking import SCHEMES, ids_from_noise, masking_from_ids, num_kept, structured_noise
from avmodel.models.family import Draws, Family, LayerTokens, Output, for_each_image
from avmodel.objectives import Term, info_nce, masked_mse, weighted

BANKS = ("image", "audio")


@dataclass(frozen=True, slots=True, kw_only=True)
class CAVMAEConfig:
    """One model. Defaults: the released base model.

    Raises ValueError for a value that no model can be built from.
    """

    size: str = "base"  # of tower and joint blocks together; tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS
    joint_depth: int = 1  # its last blocks, which both senses share
    image_size: tuple[int, int] = (224, 224)  # pixels: height, width
    audio_size: tuple[int, int] = (128, 1024)  # mel bins, steps
    patch_size: int = 16
    image_mask_ratio: float = 0.75
    audio_mask_ratio: float = 0.75
    audio_scheme: str = "uniform"  # time, frequency, tf: the paper's ablation
    contrast_weight: float = 0.01
    temperature: float = 0.05
    symmetric: bool = False  # released: image anchors, audio candidates
    gather: bool = True  # negatives of all processes; the released code has those of one GPU
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    normalize_targets: bool = True
    audio_kernel: str = "sum"  # how the spectrogram's patch kernel starts from published image weights
    mel_mean: float = -5.081  # AudioSet's, of natural-log Kaldi mels
    mel_std: float = 4.4849

    def __post_init__(self) -> None:
        if not 0 < self.joint_depth < self.vit.depth:
            raise ValueError(
                f"joint_depth={self.joint_depth}: must leave some of {self.vit.depth} blocks to the towers"
            )
        if self.audio_scheme not in SCHEMES:
            raise ValueError(f"unknown audio_scheme {self.audio_scheme!r}; known: {', '.join(SCHEMES)}")
        if self.decoder_embed_dim % self.decoder_num_heads or self.decoder_embed_dim % 4:
            raise ValueError(
                f"decoder_embed_dim={self.decoder_embed_dim} must be a multiple of 4 and of "
                f"decoder_num_heads={self.decoder_num_heads}"
            )
        for name, (height, width), ratio in (
            ("image", self.image_size, self.image_mask_ratio),
            ("audio", self.audio_size, self.audio_mask_ratio),
        ):
            p = self.patch_size
            if height % p or width % p:
                raise ValueError(f"{name}_size={(height, width)} is not whole patches of {p} x {p}")
            patches = (height // p) * (width // p)
            if not 0 < num_kept(patches, ratio) < patches:
                raise ValueError(f"{name}_mask_ratio={ratio} leaves nothing to see or to predict of {patches} patches")

    @property
    def vit(self) -> ViTSize:
        return vit_size(self.size)


class Tower(ViT):
    """One sense: embedding with a vector that says which it is, blocks, and the norm after the joint blocks."""

    def __init__(self, size: ViTSize, *, input_size: tuple[int, int], patch_size: int, in_chans: int) -> None:
        super().__init__(size, input_size=input_size, patch_size=patch_size, in_chans=in_chans, eps=1e-5)
        self.modality = nn.Parameter(0.02 * torch.randn(1, 1, size.embed_dim))

    def forward(
        self, x: Float[Tensor, "b c h w"], ids_keep: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Tokens before the joint blocks: of all patches, or those that `ids_keep` lists."""
        tokens = self.embed(x, ids_keep) + self.modality
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class Encoder(nn.Module):
    """Two towers, and the joint blocks with norms for each sense and for both."""

    def __init__(self, config: CAVMAEConfig) -> None:
        super().__init__()
        dim, depth, heads = config.vit
        size, p = ViTSize(dim, depth - config.joint_depth, heads), config.patch_size
        self.image = Tower(size, input_size=config.image_size, patch_size=p, in_chans=3)
        self.audio = Tower(size, input_size=config.audio_size, patch_size=p, in_chans=1)
        self.joint_blocks = modal_blocks(ViTSize(dim, config.joint_depth, heads), BANKS, eps=1e-5)
        self.joint_norm = nn.LayerNorm(dim)
        self.apply(init_linears)

    def join(self, audio: Float[Tensor, "b m d"], image: Float[Tensor, "b n d"]) -> Float[Tensor, "b k d"]:
        """Both towers' tokens after the joint blocks, audio first."""
        tokens = torch.cat([audio, image], dim=1)
        for block in self.joint_blocks:
            tokens = block(tokens)
        return self.joint_norm(tokens)  # type: ignore[no-any-return]

    def alone(self, tokens: Float[Tensor, "b n d"], sense: str) -> Float[Tensor, "b n d"]:
        """One tower's tokens after the joint blocks with that sense's norms."""
        for block in self.joint_blocks:
            tokens = block(tokens, sense)
        tower = self.image if sense == "image" else self.audio
        return tower.norm(tokens)  # type: ignore[no-any-return]


class CAVMAE(Family):
    """Masked autoencoder over both senses at once, with a little contrast between them."""

    config_type: ClassVar = CAVMAEConfig
    config: CAVMAEConfig

    def __init__(self, config: CAVMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.mel_scale = (config.mel_mean, config.mel_std)
        self.compares_samples = config.contrast_weight > 0
        self.encoder = Encoder(config)
        self.decoder = JointDecoder(
            config.vit.embed_dim,
            config.decoder_embed_dim,
            config.decoder_depth,
            config.decoder_num_heads,
            audio_grid=self.encoder.audio.grid,
            image_grid=self.encoder.image.grid,
            patch_size=config.patch_size,
            positions="fixed",
        )
        if not self.compares_samples:
            for part in (self.encoder.image.norm, self.encoder.audio.norm):
                part.requires_grad_(False)
            for block in self.encoder.joint_blocks:
                block.norm1_banks.requires_grad_(False)
                block.norm2_banks.requires_grad_(False)
        num_image, num_audio = self.encoder.image.num_patches, self.encoder.audio.num_patches
        self.draw_sizes = [num_image, num_audio, sum(self.encoder.audio.grid)]
        self.num_draws = sum(self.draw_sizes)

    @property
    def feature_dim(self) -> int:
        """Width of all tokens."""
        return self.config.vit.embed_dim

    def choose(self, draws: Draws) -> "Masks":
        """Ids of the image and audio patches to keep."""
        config = self.config
        image, audio, lines = torch.split(draws.noise, self.draw_sizes, dim=1)
        audio = structured_noise(audio, lines, self.encoder.audio.grid, config.audio_mask_ratio, config.audio_scheme)
        return Masks(ids_from_noise(image, config.image_mask_ratio), ids_from_noise(audio, config.audio_mask_ratio))

    def streams(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Float[Tensor, "_ _ d"]]:
        """Image and audio tokens, each alone through the joint block; `joint`, if both are there: both, audio first."""
        towers = {}
        if image is not None:
            towers["image"] = self.encoder.image(self.image_input(image))
        if log_mel is not None:
            towers["audio"] = self.encoder.audio(self.audio_input(log_mel))
        found = {sense: self.encoder.alone(tokens, sense) for sense, tokens in towers.items()}
        if len(towers) == 2:
            found["joint"] = self.encoder.join(for_each_image(towers["audio"], towers["image"]), towers["image"])
        return found

    def every_layer(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]) -> list[LayerTokens]:
        """Image and audio tokens after each block: of the towers, then of the joint ones with each sense alone."""
        inputs = {"image": self.image_input(image), "audio": self.audio_input(log_mel)}
        found = []
        for sense, tower in (("image", self.encoder.image), ("audio", self.encoder.audio)):
            layers = list(after_each(tower.blocks, tower.embed(inputs[sense]) + tower.modality))
            found.append([*layers, *after_each(self.encoder.joint_blocks, layers[-1], sense)])
        return [LayerTokens(*tokens) for tokens in zip(*found, strict=True)]

    def forward(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"], masks: "Masks") -> Output:
        """Losses and predictions under these masks."""
        config, encoder = self.config, self.encoder
        pictures, mels = self.image_input(image), self.audio_input(log_mel)
        image_masking = masking_from_ids(masks.image_ids.to(mels.device), encoder.image.num_patches)
        audio_masking = masking_from_ids(masks.audio_ids.to(mels.device), encoder.audio.num_patches)
        seen = encoder.image(pictures, image_masking.ids_keep)
        heard = encoder.audio(mels, audio_masking.ids_keep)
        image_pred, audio_pred = self.decoder(
            encoder.join(heard, seen), audio_masking.ids_restore, image_masking.ids_restore, heard.shape[1]
        )
        terms = [
            Term("image", 1.0, masked_mse(image_pred, self.targets(pictures), image_masking.mask)),
            Term("audio", 1.0, masked_mse(audio_pred, self.targets(mels), audio_masking.mask)),
        ]
        if self.compares_samples:
            contrast = info_nce(
                encoder.alone(seen, "image").mean(dim=1),
                encoder.alone(heard, "audio").mean(dim=1),
                temperature=config.temperature,
                symmetric=config.symmetric,
                gather=config.gather,
            )
            terms.append(Term("contrast", config.contrast_weight, contrast))
        return Output(weighted(terms), image_pred, audio_pred, image_masking.mask, audio_masking.mask)


class Masks(NamedTuple):
    """Ids of the patches that stay."""

    image_ids: Int[Tensor, "b i"]
    audio_ids: Int[Tensor, "b a"]
