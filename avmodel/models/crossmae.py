"""CrossMAE: two masked ViTs whose decoders get tokens of the other modality, for pixels and for features.

Source: "CrossMAE: Cross-Modality Masked Autoencoders for Region-Aware Audio-Visual Pre-Training" (CVPR 2024). No code
of it is public: what the paper leaves open is a field of CrossMAEConfig, whose comment says what was chosen.
"""

import copy
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.configs.crossmae import CrossMAEConfig, num_attentive
from avmodel.configs.model import ViTSize
from avmodel.decoders import EmbeddingDecoder, PixelDecoder
from avmodel.layers import Block, ViT, after_each, init_linears
from avmodel.masking import KeptIds, Masking, gather_visible, ids_from_noise
from avmodel.models.family import (
    AUDIOMAE,
    MAE,
    NOT_PREDICTED,
    AttentionMaps,
    Contrast,
    Draws,
    Family,
    LayerTokens,
    Modality,
    Output,
    Vectors,
    own_channels,
    vit_names,
)
from avmodel.objectives import Term, feature_mse, info_nce, weighted
from avmodel.renaming import renamed


class Encoded(NamedTuple):
    """A tower's output."""

    cls: Float[Tensor, "b d"]
    tokens: Float[Tensor, "b n d"]
    attention: Float[Tensor, "b n"]  # of the class token to each, in the last block


class Attentive(NamedTuple):
    """Tokens that say where the other modality should look, and the patches they are of."""

    tokens: Float[Tensor, "b k d"]
    ids: Int[Tensor, "b k"]


class Tower(ViT):
    """A ViT with a class token, without a position of its own as in MAE."""

    def __init__(self, size: ViTSize, *, input_size: tuple[int, int], patch_size: int, in_chans: int) -> None:
        super().__init__(size, input_size=input_size, patch_size=patch_size, in_chans=in_chans)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, size.embed_dim))

    def forward(self, x: Float[Tensor, "b c h w"], ids_keep: Int[Tensor, "b k"] | None = None) -> Encoded:
        """Tokens after the last norm, of all patches or those that `ids_keep` lists."""
        tokens = self.embed(x, ids_keep)
        x = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        with torch.no_grad():
            attention = last.cls_attention(x)
        x = self.norm(last(x))
        return Encoded(x[:, 0], x[:, 1:], attention)

    def forward_intermediates(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b n d"]]:
        """Tokens of all patches after each block, without the class token."""
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.embed(x)], dim=1)
        return [layer[:, 1:] for layer in after_each(self.blocks, tokens)]


class Encoder(nn.Module):
    """The two towers. The spectrogram's patches go along time first, as AudioMAE's."""

    def __init__(self, config: CrossMAEConfig) -> None:
        super().__init__()
        mel, steps = config.audio_size
        self.image = Tower(config.vit, input_size=config.image_size, patch_size=config.patch_size, in_chans=3)
        self.audio = Tower(config.vit, input_size=(steps, mel), patch_size=config.patch_size, in_chans=1)
        self.apply(init_linears)


class CrossMAE(Family):
    """Two towers, a pixel decoder and a feature decoder for each, and the losses that the config asks for."""

    published_starts: ClassVar = {"image": MAE, "audio": AUDIOMAE}
    config: CrossMAEConfig
    time_first = True

    def __init__(self, config: CrossMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.mel_scale = (config.mel_mean, config.mel_std)
        self.encoder = Encoder(config)
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False) if config.teacher == "ema" else None
        self.image_decoder, self.audio_decoder = (
            pixel_decoder(config, tower.grid, channels) if config.reconstruct else None
            for tower, channels in ((self.encoder.image, 3), (self.encoder.audio, 1))
        )
        self.image_features, self.audio_features = (
            EmbeddingDecoder(
                config.vit.embed_dim,
                config.feature_dim,
                config.feature_decoder_depth,
                config.feature_heads,
                grid=tower.grid,
                queries=config.queries,
            )
            if config.predict_features
            else None
            for tower in (self.encoder.image, self.encoder.audio)
        )
        self.draw_sizes = [self.encoder.image.num_patches, self.encoder.audio.num_patches]
        self.num_draws = sum(self.draw_sizes)

    def choose(self, draws: Draws) -> KeptIds:
        """Ids of the image and audio patches to keep."""
        image, audio = torch.split(draws.noise, self.draw_sizes, dim=1)
        return KeptIds(ids_from_noise(image, self.config.mask_ratio), ids_from_noise(audio, self.config.mask_ratio))

    def load_vit(
        self, modality: Modality, vit: Mapping[str, Tensor], fill: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        """A tower from MAE or AudioMAE, or the audio's from an image MAE; positions are the model's own."""
        names = (*vit_names(f"encoder.{modality}"), ("cls_token", f"encoder.{modality}.cls_token"))
        fill(renamed(own_channels(vit, modality, self.config.audio_kernel), names))

    def modality_vit(self, modality: Modality) -> Tower:
        """Image or audio tower."""
        return self.encoder.image if modality == "image" else self.encoder.audio

    def streams(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Float[Tensor, "_ _ d"]]:
        """Image and audio tokens, class tokens left out; audio row by row of time."""
        found = {}
        if image is not None:
            found["image"] = self.encoder.image(self.image_input(image)).tokens
        if log_mel is not None:
            found["audio"] = self.encoder.audio(self.audio_input(log_mel)).tokens
        return found

    def forward_intermediates(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]
    ) -> list[LayerTokens]:
        """Image and audio tokens after each block of their towers; audio row by row of time."""
        image_tokens = self.encoder.image.forward_intermediates(self.image_input(image))
        audio_tokens = self.encoder.audio.forward_intermediates(self.audio_input(log_mel))
        return [LayerTokens(*tokens) for tokens in zip(image_tokens, audio_tokens, strict=True)]

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
        complete_image = complete_audio = None
        complete_contrast = config.contrast_features == "complete"
        if complete_contrast if contrast is Contrast.ALONE else config.needs_complete:
            trained = config.contrast_weight > 0 and complete_contrast
            teacher = encoder if self.teacher is None else self.teacher
            with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
                complete_image, complete_audio = teacher.image(images), teacher.audio(log_mels)

        terms = []
        vectors = None
        if self.compares_samples:
            vectors = Vectors(
                *(
                    pooled(whole if complete_contrast and whole is not None else part, config.pool)
                    for part, whole in ((audio_tokens, complete_audio), (image_tokens, complete_image))
                )
            )
            if contrast is Contrast.COMPARED:
                terms.append(Term("contrast", config.contrast_weight, self.contrast(vectors)))
                vectors = None
        if contrast is Contrast.ALONE:
            return Output({}, vectors=vectors)
        predicted = NOT_PREDICTED
        if self.image_decoder is not None and self.audio_decoder is not None:
            image_condition = self.condition(image_tokens, complete_image, image_masking)
            audio_condition = self.condition(audio_tokens, complete_audio, audio_masking)
            image_pred = self.image_decoder(
                image_tokens.tokens, image_masking.ids_restore, *self.located(audio_condition, self.audio_decoder)
            )
            audio_pred = self.audio_decoder(
                audio_tokens.tokens, audio_masking.ids_restore, *self.located(image_condition, self.image_decoder)
            )
            predicted = image_pred, audio_pred, image_masking.mask, audio_masking.mask
            terms += self.reconstruction_terms(images, log_mels, predicted, on=config.loss_on)
        if self.image_features is not None and self.audio_features is not None:
            assert complete_image is not None and complete_audio is not None
            terms += [
                Term(name, 1.0, self.feature_loss(decoder, context, own, whole, masking))
                for name, decoder, context, own, whole, masking in (
                    ("image_features", self.image_features, audio_tokens, image_tokens, complete_image, image_masking),
                    ("audio_features", self.audio_features, image_tokens, audio_tokens, complete_audio, audio_masking),
                )
            ]
        return Output(weighted(terms), *predicted, vectors)

    def contrast(self, vectors: Vectors, *, gather: bool = True) -> Float[Tensor, ""]:
        """The sound of each sample against the images of all, and the images against the sounds."""
        config = self.config
        return info_nce(*vectors, temperature=config.temperature, directions=config.directions, gather=gather)

    def attention(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]) -> list[AttentionMaps]:
        """The attentive tokens, and what the queries that restore the other modality's features attend to (figure 3).

        The rank of each attentive token is 1 for the one with most attention of the class token, falling towards 0;
        other tokens have 0.
        """
        whole_image = self.encoder.image(self.image_input(image))
        whole_audio = self.encoder.audio(self.audio_input(log_mel))
        ranks = [attentive_ranks(whole, self.config.attentive_ratio) for whole in (whole_image, whole_audio)]
        found = [AttentionMaps("attentive", *ranks)]
        if self.image_features is not None and self.audio_features is not None:
            on_image = self.audio_features.context_attention(whole_image.tokens)
            on_audio = self.image_features.context_attention(whole_audio.tokens)
            if on_image is not None and on_audio is not None:
                found.append(AttentionMaps("queries", on_image, on_audio))
        return found

    def before_training(self) -> None:
        """Copy the towers into the teacher, if there is one."""
        if self.teacher is not None:
            self.teacher.load_state_dict(self.encoder.state_dict())

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the teacher, if there is one: an exponential moving average of the towers."""
        if self.teacher is not None:
            for kept, now in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
                kept.lerp_(now, 1 - self.config.teacher_momentum)

    def condition(self, part: Encoded, whole: Encoded | None, masking: Masking) -> Attentive | None:
        """The tokens of one modality that condition the other's pixel decoder; None: no condition."""
        match self.config.condition:
            case "none":
                return None
            case "attentive":
                return self.attentive(part, whole, masking)
        complete = self.config.attentive_source == "complete"
        patches = masking.mask.shape[1] if complete else part.tokens.shape[1]
        # Kept ids are in random order: the first ones are random ones.
        ids = masking.ids_keep[:, : num_attentive(patches, self.config.attentive_ratio)]
        if self.config.condition == "zero":
            return Attentive(part.tokens.new_zeros(*ids.shape, part.tokens.shape[2]), ids)
        if complete and whole is not None:
            return Attentive(gather_visible(whole.tokens.detach(), ids), ids)
        return Attentive(part.tokens[:, : ids.shape[1]], ids)

    def attentive(self, part: Encoded, whole: Encoded | None, masking: Masking) -> Attentive:
        """The tokens that the class token attends to most: 128 of 512 and 49 of 196, or 32 and 12 of the visible."""
        if self.config.attentive_source == "complete" and whole is not None:
            return most_attended(Encoded(*(x.detach() for x in whole)), self.config.attentive_ratio)
        found = most_attended(part, self.config.attentive_ratio)
        return Attentive(found.tokens, masking.ids_keep.gather(1, found.ids))

    def located(
        self, attentive: Attentive | None, decoder: PixelDecoder
    ) -> tuple[Float[Tensor, "b k d"] | None, Float[Tensor, "b k w"] | None]:
        """The tokens of a condition and their positions, as their own modality's decoder has them; zeros have none."""
        if attentive is None:
            return None, None
        if self.config.condition == "zero":
            return attentive.tokens, None
        return attentive.tokens, gather_visible(decoder.positions.expand(len(attentive.ids), -1, -1), attentive.ids)

    def feature_loss(
        self, decoder: EmbeddingDecoder, context: Encoded, own: Encoded, whole: Encoded, masking: Masking
    ) -> Float[Tensor, ""]:
        """How far features restored from the other modality's visible tokens are from those of the complete pass."""
        if self.config.queries != "attentive":
            return feature_mse(decoder(context.tokens), whole.tokens, self.config.target_norm)
        asked = self.attentive(own, whole, masking)
        target = gather_visible(whole.tokens, asked.ids)
        return feature_mse(decoder(context.tokens, asked.tokens), target, self.config.target_norm)


def pixel_decoder(config: CrossMAEConfig, grid: tuple[int, int], channels: int) -> PixelDecoder:
    """The decoder of one modality's patches."""
    return PixelDecoder(
        config.vit.embed_dim,
        config.decoder_embed_dim,
        config.decoder_depth,
        config.decoder_num_heads,
        grid=grid,
        out_dim=channels * config.patch_size**2,
        conditioned=config.condition != "none",
        cross_at=config.cross_at,
        cross_queries=config.cross_queries,
    )


def pooled(encoded: Encoded, pool: str) -> Float[Tensor, "b d"]:
    """A vector of a modality: the mean of its patches, or its class token."""
    return encoded.tokens.mean(dim=1) if pool == "mean" else encoded.cls


def attentive_ranks(encoded: Encoded, ratio: float) -> Float[Tensor, "b n"]:
    """1 for the most attended token, falling in equal steps over the attentive ones, 0 for the others."""
    ids = most_attended(encoded, ratio).ids
    steps = torch.linspace(1, 0, ids.shape[1] + 1, device=ids.device)[:-1]
    return torch.zeros_like(encoded.attention).scatter(1, ids, steps.to(encoded.attention).expand(len(ids), -1))


def most_attended(encoded: Encoded, ratio: float) -> Attentive:
    """The share `ratio` of tokens, one at least, with the most attention, the most first."""
    count = num_attentive(encoded.tokens.shape[1], ratio)
    ids = encoded.attention.topk(count, dim=1).indices
    return Attentive(gather_visible(encoded.tokens, ids), ids)
