"""CAV-MAE: one tower per modality and joint blocks, run on both modalities together and on each alone.

Source: "Contrastive Audio-Visual Masked Autoencoder" (arXiv:2210.07839) and its released code.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.configs.model import ViTSize
from avmodel.decoders import JointDecoder
from avmodel.layers import ViT, after_each, init_linears, modal_blocks
from avmodel.masking import KeptIds, ids_from_noise, structured_noise
from avmodel.models.family import (
    MAE,
    NOT_PREDICTED,
    Contrast,
    Draws,
    Family,
    LayerTokens,
    Modality,
    Output,
    Stream,
    Vectors,
    for_each_image,
    mean_stream,
    own_channels,
)
from avmodel.objectives import Term, info_nce, weighted
from avmodel.renaming import Rules, renamed

BANKS = ("image", "audio")


class Tower(ViT):
    """The ViT of one modality, with a learned modality vector; its norm follows the joint blocks.

    Its sequence is the patches. A family whose towers add tokens of their own says in `entering`, `leaving`, `patches`
    and `vector` where they are.
    """

    def __init__(self, size: ViTSize, *, input_size: tuple[int, int], patch_size: int, in_chans: int) -> None:
        super().__init__(size, input_size=input_size, patch_size=patch_size, in_chans=in_chans, eps=1e-5)
        self.modality = nn.Parameter(0.02 * torch.randn(1, 1, size.embed_dim))

    def forward(
        self, x: Float[Tensor, "b c h w"], ids_keep: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Tokens before the joint blocks: of all patches, or those that `ids_keep` lists."""
        tokens = self.entering(x, ids_keep)
        for block in self.blocks:
            tokens = block(tokens)
        return self.leaving(tokens)

    def entering(
        self, x: Float[Tensor, "b c h w"], ids_keep: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """The tokens that enter the first block."""
        return self.embed(x, ids_keep) + self.modality

    def leaving(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Those of the tower's tokens that go on to the joint blocks."""
        return tokens

    def patches(self, tokens: Float[Tensor, "b m d"]) -> Float[Tensor, "b k d"]:
        """The patches among the tokens that left the tower."""
        return tokens

    def vector(self, tokens: Float[Tensor, "b m d"]) -> Float[Tensor, "b d"]:
        """What stands for the whole input, of the tokens after the joint blocks: what the contrast compares."""
        return tokens.mean(dim=1)


class Encoder(nn.Module):
    """Two towers, and the joint blocks with norms for each modality and for both."""

    image: Tower
    audio: Tower

    def __init__(self, config: CAVMAEConfig) -> None:
        super().__init__()
        dim, depth, heads = config.vit
        size = ViTSize(dim, depth - config.joint_depth, heads)
        self.image = self.make_tower(config, size, input_size=config.image_size, in_chans=3)
        self.audio = self.make_tower(config, size, input_size=config.audio_size, in_chans=1)
        self.joint_blocks = modal_blocks(ViTSize(dim, config.joint_depth, heads), BANKS, eps=1e-5)
        self.joint_norm = nn.LayerNorm(dim)
        self.apply(init_linears)

    def make_tower(self, config: CAVMAEConfig, size: ViTSize, *, input_size: tuple[int, int], in_chans: int) -> Tower:
        """One modality's tower."""
        return Tower(size, input_size=input_size, patch_size=config.patch_size, in_chans=in_chans)

    def tower(self, modality: str) -> Tower:
        """The tower of `image` or `audio`."""
        return self.image if modality == "image" else self.audio

    def join(self, audio: Float[Tensor, "b m d"], image: Float[Tensor, "b n d"]) -> Float[Tensor, "b k d"]:
        """Both towers' patches after the joint blocks, audio first."""
        return self.together(torch.cat([self.audio.patches(audio), self.image.patches(image)], dim=1))

    def together(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Patches after the joint blocks with the norms that are for both modalities."""
        for block in self.joint_blocks:
            tokens = block(tokens)
        return self.joint_norm(tokens)  # type: ignore[no-any-return]

    def alone(self, tokens: Float[Tensor, "b n d"], modality: str) -> Float[Tensor, "b n d"]:
        """One tower's tokens after the joint blocks with that modality's norms."""
        for block in self.joint_blocks:
            tokens = block(tokens, modality)
        return self.tower(modality).norm(tokens)  # type: ignore[no-any-return]

    def compared(self, tokens: Float[Tensor, "b n d"], modality: str) -> Float[Tensor, "b d"]:
        """What the contrast compares of one tower's tokens."""
        return self.tower(modality).vector(self.alone(tokens, modality))


class CAVMAE(Family):
    """Masked autoencoder over both modalities, with a contrastive loss of small weight."""

    published_starts: ClassVar = {"image": MAE, "audio": MAE}
    encoder_type: ClassVar[type[Encoder]] = Encoder
    joint_names: ClassVar = ("encoder.joint_blocks.", "encoder.joint_norm.")
    config: CAVMAEConfig

    def __init__(self, config: CAVMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.mel_scale = (config.mel_mean, config.mel_std)
        self.encoder = self.encoder_type(config)
        self.decoder = None
        if config.reconstruction_weight > 0:
            self.decoder = JointDecoder(
                config, audio_grid=self.encoder.audio.grid, image_grid=self.encoder.image.grid, positions="fixed"
            )
        else:  # what both modalities enter together has no loss
            self.encoder.joint_norm.requires_grad_(False)
            for block in self.encoder.joint_blocks:
                block.norm1.requires_grad_(False)
                block.norm2.requires_grad_(False)
        if not self.compares_samples:
            for part in (self.encoder.image.norm, self.encoder.audio.norm):
                part.requires_grad_(False)
            for block in self.encoder.joint_blocks:
                block.norm1_banks.requires_grad_(False)
                block.norm2_banks.requires_grad_(False)
        num_image, num_audio = self.encoder.image.num_patches, self.encoder.audio.num_patches
        self.draw_sizes = [num_image, num_audio, sum(self.encoder.audio.grid)]
        self.num_draws = sum(self.draw_sizes)

    def choose(self, draws: Draws) -> KeptIds:
        """Ids of the image and audio patches to keep."""
        config = self.config
        image, audio, lines = torch.split(draws.noise, self.draw_sizes, dim=1)
        audio = structured_noise(audio, lines, self.encoder.audio.grid, config.audio_mask_ratio, config.audio_scheme)
        return KeptIds(ids_from_noise(image, config.image_mask_ratio), ids_from_noise(audio, config.audio_mask_ratio))

    def load_vit(
        self, modality: Modality, vit: Mapping[str, Tensor], fill: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        """A tower from the first blocks, the joint blocks and all their norms from the last, the decoder from MAE's."""
        names = start_names(modality, self.config.vit.depth, self.config.joint_depth)
        found = renamed(own_channels(vit, modality, self.config.audio_kernel), names)
        if self.decoder is None:
            found = {name: weight for name, weight in found.items() if not name.startswith("decoder.")}
        fill(found)

    def encode(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Stream]:
        """Image and audio, each alone through the joint blocks; `joint`, if both are there: both, audio first."""
        encoder, towers = self.encoder, {}
        if image is not None:
            towers["image"] = encoder.image(self.image_input(image))
        if log_mel is not None:
            towers["audio"] = encoder.audio(self.audio_input(log_mel))
        found = {}
        for modality, tokens in towers.items():
            alone, tower = encoder.alone(tokens, modality), encoder.tower(modality)
            found[modality] = Stream(tower.patches(alone), tower.vector(alone.float()))
        if len(towers) == 2:
            found["joint"] = mean_stream(
                encoder.join(for_each_image(towers["audio"], towers["image"]), towers["image"])
            )
        return found

    def streams(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Float[Tensor, "_ _ d"]]:
        """The tokens of `encode`."""
        return {name: stream.tokens for name, stream in self.encode(image, log_mel).items()}

    def joint_alone(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> Float[Tensor, "_ _ d"]:
        """The mean of two passes of the joint blocks: with the norms for both modalities, and with the modality's own.

        Source: the released model, modes missingaudioonly and missingvideoonly.
        """
        encoder = self.encoder
        if image is not None:
            modality, tokens = "image", encoder.image(self.image_input(image))
        else:
            assert log_mel is not None
            modality, tokens = "audio", encoder.audio(self.audio_input(log_mel))
        tower = encoder.tower(modality)
        return (encoder.together(tower.patches(tokens)) + tower.patches(encoder.alone(tokens, modality))) / 2

    def forward_intermediates(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]
    ) -> list[LayerTokens]:
        """Image and audio patches after each block: of the towers, then of the joint blocks, each modality alone."""
        inputs = {"image": self.image_input(image), "audio": self.audio_input(log_mel)}
        found = []
        for modality, tower in (("image", self.encoder.image), ("audio", self.encoder.audio)):
            layers = [tower.leaving(x) for x in after_each(tower.blocks, tower.entering(inputs[modality]))]
            layers += after_each(self.encoder.joint_blocks, layers[-1], modality)
            found.append([tower.patches(x) for x in layers])
        return [LayerTokens(*tokens) for tokens in zip(*found, strict=True)]

    def forward(
        self,
        image: Float[Tensor, "b 3 h w"],
        log_mel: Float[Tensor, "b 1 mel t"],
        masks: KeptIds,
        *,
        contrast: Contrast = Contrast.COMPARED,
    ) -> Output:
        """Losses and predictions under these masks; see `Contrast`."""
        config, encoder = self.config, self.encoder
        images, log_mels = self.image_input(image), self.audio_input(log_mel)
        image_masking, audio_masking = self.maskings(*(ids.to(log_mels.device) for ids in masks))
        image_tokens = encoder.image(images, image_masking.ids_keep)
        audio_tokens = encoder.audio(log_mels, audio_masking.ids_keep)
        if contrast is Contrast.ALONE:
            return Output({}, vectors=self.vectors(image_tokens, audio_tokens))
        terms: list[Term] = []
        predicted = NOT_PREDICTED
        if self.decoder is not None:
            image_pred, audio_pred = self.decoder(
                encoder.join(audio_tokens, image_tokens),
                audio_masking.ids_restore,
                image_masking.ids_restore,
                audio_masking.ids_keep.shape[1],
            )
            predicted = image_pred, audio_pred, image_masking.mask, audio_masking.mask
            terms += self.reconstruction_terms(images, log_mels, predicted, weight=config.reconstruction_weight)
        vectors = self.vectors(image_tokens, audio_tokens) if self.compares_samples else None
        if vectors is not None and contrast is Contrast.COMPARED:
            terms.append(Term("contrast", config.contrast_weight, self.contrast(vectors)))
            vectors = None
        return Output(weighted(terms), *predicted, vectors)

    def vectors(self, image_tokens: Float[Tensor, "b i d"], audio_tokens: Float[Tensor, "b a d"]) -> Vectors:
        """What the contrast compares of both modalities, each through the joint blocks alone."""
        return Vectors(self.encoder.compared(image_tokens, "image"), self.encoder.compared(audio_tokens, "audio"))

    def contrast(self, vectors: Vectors, *, gather: bool = True) -> Float[Tensor, ""]:
        """Each image against the sounds of all samples, and the sounds against the images if symmetric."""
        config = self.config
        return info_nce(
            *vectors, temperature=config.temperature, symmetric=config.symmetric, gather=gather and config.gather
        )


def start_names(modality: Modality, depth: int, joint_depth: int) -> Rules:
    """Rows from a published ViT to a tower, the joint blocks and the decoder.

    MAE's decoder positions are left out, and so are predictions of audio, whose patches have another size.
    """
    joint = "encoder.joint_blocks"
    first = depth - joint_depth
    return (
        (r"(patch_embed\..+)", rf"encoder.{modality}.\1"),
        (r"norm\.(.+)", (rf"encoder.{modality}.norm.\1", r"encoder.joint_norm.\1")),
        *(
            (
                rf"blocks\.{first + layer}\.(norm[12])\.(.+)",
                (rf"{joint}.{layer}.\1.\2", *(rf"{joint}.{layer}.\1_banks.{bank}.\2" for bank in BANKS)),
            )
            for layer in range(joint_depth)
        ),
        *((rf"blocks\.{first + layer}\.(.+)", rf"{joint}.{layer}.\1") for layer in range(joint_depth)),
        (r"(blocks\..+)", rf"encoder.{modality}.\1"),
        (r"mask_token", "decoder.mask_token"),
        (r"decoder_((?:embed|norm|blocks)\..+)", r"decoder.\1"),
        (r"decoder_pred\.(.+)", r"decoder.image_pred.\1"),
    )
