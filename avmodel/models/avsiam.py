"""AVSiam: one ViT for audio and images, trained with a different mask ratio for each group of samples.

Source: "Siamese Vision Transformers are Scalable Audio-visual Learners" (arXiv:2403.19638). Where paper and released
code differ, the defaults follow the paper, as its larger models' code does; the flags of AVSiamConfig reach the
released Base model.
"""

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from avmodel.configs.avsiam import JOINT_LAYERS, AVSiamConfig
from avmodel.configs.model import ViTSize
from avmodel.decoders import JointDecoder
from avmodel.embedding import LearnedEmbedding, kernel_from_rgb
from avmodel.layers import ModalBlock, after_each, init_linears, modal_blocks
from avmodel.masking import (
    Group,
    balanced_groups,
    gather_visible,
    ids_from_noise,
    structured_noise,
)
from avmodel.models.family import (
    AST,
    IN21K,
    NOT_PREDICTED,
    Contrast,
    Draws,
    Family,
    LayerTokens,
    Modality,
    Output,
    Vectors,
    for_each_image,
)
from avmodel.objectives import Term, info_nce, weighted
from avmodel.positions import resize_positions
from avmodel.renaming import Rules, renamed

# A published ViT in the backbone, in that of AVSep's audio, and in an embedding.
BACKBONE: Rules = ((r"((?:blocks|norm)\..+)", r"encoder.\1"),)
AUDIO_BACKBONE: Rules = ((r"((?:blocks|norm)\..+)", r"encoder.audio_\1"),)
IMAGE_EMBEDDING: Rules = ((r"(patch_embed\..+|positions)", r"encoder.image.\1"),)
AUDIO_EMBEDDING: Rules = ((r"(patch_embed\..+|positions)", r"encoder.audio.\1"),)
AST_GRID = (12, 101)  # its patches overlap: rows and columns of its 1024-step model
AUDIO = "audio"  # the bank of the norms that only the sound has


class AVSiamKeptIds(NamedTuple):
    """What a step hides: groups of the contrastive pass, kept tokens of the reconstruction's."""

    audio_groups: list[Group]
    image_groups: list[Group]
    audio_ids: Int[Tensor, "b i"]
    image_ids: Int[Tensor, "b j"]


class Encoder(nn.Module):
    """Two embeddings and the blocks that both modalities go through, each alone."""

    def __init__(self, config: AVSiamConfig) -> None:
        super().__init__()
        size, self.config = config.vit, config
        dim, p, doubled = size.embed_dim, config.patch_size, config.double_embed
        self.image = LearnedEmbedding(dim, input_size=config.image_size, patch_size=p, in_chans=3, doubled=doubled)
        self.audio = LearnedEmbedding(
            dim, input_size=whole_patches(config.audio_size, p), patch_size=p, in_chans=1, doubled=doubled
        )
        own_norms = config.norms == "per_modality" and not config.separate
        self.bank = AUDIO if own_norms else None
        self.blocks = modal_blocks(size, (AUDIO,) if own_norms else (), eps=config.norm_eps)
        self.audio_blocks = modal_blocks(size, eps=config.norm_eps) if config.separate else None
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.audio_norm = nn.LayerNorm(dim, eps=1e-6) if own_norms or config.separate else None
        self.apply(init_linears)

    def encode_image(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Embedded image tokens after the last norm."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)  # type: ignore[no-any-return]

    def encode_audio(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Embedded spectrogram tokens after the last norm."""
        for block in self.blocks if self.audio_blocks is None else self.audio_blocks:
            tokens = block(tokens, self.bank)
        return (self.norm if self.audio_norm is None else self.audio_norm)(tokens)  # type: ignore[no-any-return]


class AVSiam(Family):
    """The backbone, two joint layers and a decoder, with a contrastive and a reconstruction loss."""

    published_starts: ClassVar = {"image": IN21K, "audio": AST}
    joint_names: ClassVar = ("joint_layers.",)
    config: AVSiamConfig

    def __init__(self, config: AVSiamConfig) -> None:
        super().__init__()
        self.config = config
        self.mel_scale = (config.mel_mean, config.mel_std)
        self.reconstructs = config.reconstruction_weight > 0
        if config.alternate_steps:
            self.step_terms = (("contrast",), ("image", "audio"))
        self.encoder = Encoder(config)
        size, (audio_ratios, image_ratios) = config.vit, config.ratios
        joint = ViTSize(size.embed_dim, JOINT_LAYERS, size.num_heads)
        self.joint_layers = modal_blocks(joint, eps=config.norm_eps)
        self.joint_layers.apply(init_linears)
        again = config.separate_reconstruction
        self.reconstruction_blocks = modal_blocks(size, eps=config.norm_eps) if again else None
        self.reconstruction_norm = nn.LayerNorm(size.embed_dim, eps=1e-6) if again else None
        self.decoder = None
        if self.reconstructs:
            self.decoder = JointDecoder(
                config, audio_grid=self.encoder.audio.grid, image_grid=self.encoder.image.grid, positions="learned"
            )
        else:
            self.joint_layers.requires_grad_(False)
        self.start_copies()
        grid, num_image = self.encoder.audio.grid, self.encoder.image.num_patches
        num_audio = self.encoder.audio.num_patches
        self.draw_sizes = [num_audio, sum(grid), num_image, num_audio, num_image]
        self.num_draws = sum(self.draw_sizes)
        self.num_orders = 2
        self.least_batch = max(len(audio_ratios), len(image_ratios)) if self.compares_samples else 1

    @torch.no_grad()
    def start_copies(self) -> None:
        """Give all that starts as a copy its start: the sound's embedding, norms and backbone, the joint layers.

        They come from the image's kernel and positions and from the backbone; call it once these have new weights.
        """
        encoder, config = self.encoder, self.config
        image, audio = encoder.image, encoder.audio
        audio.patch_embed.proj.weight.copy_(kernel_from_rgb(image.patch_embed.proj.weight, config.audio_kernel))
        audio.patch_embed.proj.load_state_dict({"bias": image.patch_embed.proj.bias}, strict=False)
        audio.positions.copy_(resize_positions(image.positions, image.grid, audio.grid, config.audio_positions))
        for block in encoder.blocks:
            assert isinstance(block, ModalBlock)
            block.copy_banks()
        if encoder.audio_norm is not None:
            encoder.audio_norm.load_state_dict(encoder.norm.state_dict())
        copies = [(encoder.audio_blocks, encoder.blocks), (self.reconstruction_blocks, encoder.blocks)]
        last = encoder.blocks[-JOINT_LAYERS:]
        if config.joint_start == "last-twice":
            last = nn.ModuleList([last[-1]] * JOINT_LAYERS)
        copies.append((self.joint_layers, last))
        for targets, sources in copies:
            for target, source in zip(targets or (), sources, strict=targets is not None):
                copy_plain(target, source)
        if self.reconstruction_norm is not None:
            self.reconstruction_norm.load_state_dict(encoder.norm.state_dict())

    def load_vit(
        self, modality: Modality, vit: Mapping[str, Tensor], fill: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        """The backbone from an image's ViT, or from a spectrogram's (AST), and all that starts as its copy.

        A spectrogram's gives a third of its one-channel kernel to each color, and its positions, as pictures, to both
        grids; to two backbones (AVSep) it gives the audio's alone.
        """
        if modality == "image":
            fill(renamed(vit, (*BACKBONE, *IMAGE_EMBEDDING)))
            self.start_copies()
            return
        positions, grid = vit["positions"], spectrogram_grid(vit["positions"].shape[1])
        resized = partial(resize_positions, positions, grid, how="bicubic2d")
        if self.encoder.audio_blocks is None:
            kernel = vit["patch_embed.proj.weight"].expand(-1, 3, -1, -1) / 3
            image_vit = {
                **vit,
                "patch_embed.proj.weight": kernel,
                "positions": resized(new_grid=self.encoder.image.grid),
            }
            fill(renamed(image_vit, (*BACKBONE, *IMAGE_EMBEDDING)))
            self.start_copies()
        else:
            fill(renamed(vit, AUDIO_BACKBONE))
        fill(renamed({**vit, "positions": resized(new_grid=self.encoder.audio.grid)}, AUDIO_EMBEDDING))

    def choose(self, draws: Draws) -> AVSiamKeptIds:
        """Groups of samples with their kept tokens, independent for both modalities, and the second pass's tokens."""
        audio, lines, image, audio_again, image_again = torch.split(draws.noise, self.draw_sizes, dim=1)
        audio_ratios, image_ratios = self.config.ratios
        grid, scheme, ratio = self.encoder.audio.grid, self.config.audio_scheme, self.config.reconstruction_ratio

        def audio_ids(rows: Int64[Tensor, " k"], ratio: float) -> Int64[Tensor, "k n"]:
            return ids_from_noise(structured_noise(audio[rows], lines[rows], grid, ratio, scheme), ratio)

        def groups(order: int, ratios: tuple[float, ...]) -> list[Int64[Tensor, " k"]]:
            chosen = balanced_groups(draws.places[:, order], draws.total, len(ratios))
            return [(chosen == group).nonzero()[:, 0] for group in range(len(ratios))]

        audio_groups = image_groups = []
        if self.compares_samples:
            audio_groups = [
                Group(rows, audio_ids(rows, r)) for rows, r in zip(groups(0, audio_ratios), audio_ratios, strict=True)
            ]
            image_groups = [
                Group(rows, ids_from_noise(image[rows], r))
                for rows, r in zip(groups(1, image_ratios), image_ratios, strict=True)
            ]
        return AVSiamKeptIds(
            audio_groups, image_groups, ids_from_noise(audio_again, ratio), ids_from_noise(image_again, ratio)
        )

    def streams(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Float[Tensor, "_ _ d"]]:
        """Image and audio tokens; `joint`, if both are there: after the joint layers, audio first."""
        found = {}
        if image is not None:
            found["image"] = self.encoder.encode_image(self.encoder.image(self.image_input(image)))
        if log_mel is not None:
            found["audio"] = self.encoder.encode_audio(self.encoder.audio(self.audio_input(log_mel)))
        if len(found) == 2:
            found["joint"] = self.join(for_each_image(found["audio"], found["image"]), found["image"])
        return found

    def forward_intermediates(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]
    ) -> list[LayerTokens]:
        """Image and audio tokens after each block of the backbone, each modality alone."""
        encoder = self.encoder
        audio_blocks = encoder.blocks if encoder.audio_blocks is None else encoder.audio_blocks
        image_tokens = after_each(encoder.blocks, encoder.image(self.image_input(image)))
        audio_tokens = after_each(audio_blocks, encoder.audio(self.audio_input(log_mel)), encoder.bank)
        return [LayerTokens(*tokens) for tokens in zip(image_tokens, audio_tokens, strict=True)]

    def join(self, audio: Float[Tensor, "b m d"], image: Float[Tensor, "b n d"]) -> Float[Tensor, "b k d"]:
        """Tokens of both modalities after the joint layers, audio first."""
        tokens = torch.cat([audio, image], dim=1)
        for block in self.joint_layers:
            tokens = block(tokens)
        return tokens

    def forward(
        self,
        image: Float[Tensor, "b 3 h w"],
        log_mel: Float[Tensor, "b 1 mel t"],
        masks: AVSiamKeptIds,
        *,
        terms: Collection[str] | None = None,
        contrast: Contrast = Contrast.COMPARED,
    ) -> Output:
        """The objective's losses under these masks, or only those `terms` of it; see `Contrast`."""
        config = self.config
        images, log_mels = self.image_input(image), self.audio_input(log_mel)
        losses: list[Term] = []
        predicted = NOT_PREDICTED
        vectors = None
        if self.compares_samples and (terms is None or "contrast" in terms):
            audio_tokens = pooled_groups(self.encoder.audio(log_mels), masks.audio_groups, self.encoder.encode_audio)
            image_tokens = pooled_groups(self.encoder.image(images), masks.image_groups, self.encoder.encode_image)
            vectors = Vectors(audio_tokens, image_tokens)
            if contrast is Contrast.COMPARED:
                losses.append(Term("contrast", config.contrast_weight, self.contrast(vectors)))
                vectors = None
        if contrast is Contrast.ALONE:
            return Output({}, vectors=vectors)
        if self.reconstructs and (terms is None or "image" in terms):
            predicted = self.reconstruct(images, log_mels, masks)
            losses += self.reconstruction_terms(images, log_mels, predicted, weight=config.reconstruction_weight)
        return Output(weighted(losses), *predicted, vectors)

    def contrast(self, vectors: Vectors, *, gather: bool = True) -> Float[Tensor, ""]:
        """The sound of each sample against the images of all, and the images against the sounds if symmetric."""
        config = self.config
        return info_nce(*vectors, temperature=config.temperature, symmetric=config.symmetric, gather=gather)

    def reconstruct(
        self, images: Float[Tensor, "b 3 h w"], log_mels: Float[Tensor, "b 1 mel t"], masks: AVSiamKeptIds
    ) -> tuple[Float[Tensor, "b i image"], Float[Tensor, "b a audio"], Float[Tensor, "b i"], Float[Tensor, "b a"]]:
        """Image and audio patches from the few that the second pass keeps, and what was hidden."""
        assert self.decoder is not None
        audio_ids, image_ids = (ids.to(log_mels.device) for ids in (masks.audio_ids, masks.image_ids))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.stop_gradient):
            audio = gather_visible(self.encoder.audio(log_mels), audio_ids)
            image = gather_visible(self.encoder.image(images), image_ids)
            if self.reconstruction_blocks is None or self.reconstruction_norm is None:
                audio = self.encoder.encode_audio(audio)
            else:
                for block in self.reconstruction_blocks:
                    audio = block(audio)
                audio = self.reconstruction_norm(audio)
            image = self.encoder.encode_image(image)
        image_masking, audio_masking = self.maskings(image_ids, audio_ids)
        image_pred, audio_pred = self.decoder(
            self.join(audio, image), audio_masking.ids_restore, image_masking.ids_restore, audio.shape[1]
        )
        return image_pred, audio_pred, image_masking.mask, audio_masking.mask


def pooled_groups(
    tokens: Float[Tensor, "b n d"],
    groups: list[Group],
    encode: Callable[[Float[Tensor, "k m d"]], Float[Tensor, "k m d"]],
) -> Float[Tensor, "b d"]:
    """Each sample's mean over the tokens its group keeps, encoded group by group.

    A group of which this process has no sample encodes one that is thrown away: all processes take the same steps, as
    they must when weights are divided among them.
    """
    means = []
    for group in groups:
        rows, ids_keep = group.rows.to(tokens.device), group.ids_keep.to(tokens.device)
        if not len(rows):
            rows, ids_keep = rows.new_zeros(1), torch.arange(ids_keep.shape[1], device=tokens.device)[None]
        means.append(encode(gather_visible(tokens[rows], ids_keep)).mean(dim=1)[: len(group.rows)])
    back = torch.cat([group.rows for group in groups]).argsort()
    return torch.cat(means)[back.to(tokens.device)]


def copy_plain(target: nn.Module, source: nn.Module) -> None:
    """Give a block without banks another one's attention, MLP and plain norms."""
    target.load_state_dict({name: value for name, value in source.state_dict().items() if "_banks." not in name})


def whole_patches(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """The size without what doesn't fill a patch: 126 x 1022 of 128 x 1024 with patches of 14."""
    return size[0] // patch_size * patch_size, size[1] // patch_size * patch_size


def spectrogram_grid(num_patches: int) -> tuple[int, int]:
    """Rows (frequency) and columns of a published spectrogram model's positions: AST's overlapping ones, or 8 rows.

    Raises ValueError for another number of patches.
    """
    if num_patches == math.prod(AST_GRID):
        return AST_GRID
    if num_patches % 8 == 0:
        return 8, num_patches // 8
    raise ValueError(f"{num_patches} positions are no grid of a known spectrogram model (AST: 12 x 101).")
