"""Masked autoencoders without fusion: MAE of images, AudioMAE of log-mels, or one of each that never meet.

They are DeepAVFusion's branches and decoders without its fusion tokens, for comparison.

Source: "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022) and "Masked Autoencoders that Listen" (NeurIPS
2022), with the sizes, ratios and targets of DeepAVFusion's released code.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from avmodel.configs.mae import MAEConfig
from avmodel.embedding import fit_image
from avmodel.layers import ViT, init_linears
from avmodel.masking import ids_from_noise, masking_from_ids
from avmodel.models.deepavfusion import ALIGNED, Decoder, MaskedViTs, audiomae_scale, branch_vit, whole_patches
from avmodel.models.family import BOTH, Draws, LayerTokens, Modality, Output
from avmodel.objectives import Term, masked_mse, weighted

Kept = Mapping[Modality, Int[Tensor, "b k"]]  # ids of the visible patches


class MAE(MaskedViTs):
    """An encoder, a decoder and a reconstruction loss for each modality that it learns from."""

    config: MAEConfig

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(modality for modality in BOTH if config.modalities in (modality, "audio-visual"))
        vits: dict[str, ViT] = {modality: branch_vit(config, modality) for modality in self.modalities}
        self.encoder = nn.ModuleDict(vits)
        self.encoder.apply(init_linears)
        self.decoders = nn.ModuleDict(
            {modality: Decoder(config, vit.grid, 3 if modality == "image" else 1) for modality, vit in vits.items()}
        )
        self.num_draws = sum(vit.num_patches for vit in vits.values())

    def load_vit(
        self, modality: Modality, vit: Mapping[str, Tensor], fill: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        """As `MaskedViTs`. Raises ValueError for a modality that the model doesn't learn from."""
        self._vit(modality)
        super().load_vit(modality, vit, fill)

    def modality_vit(self, modality: Modality) -> ViT | None:
        """Image or audio ViT; None for a modality that the model doesn't learn from."""
        return self._vit(modality) if modality in self.modalities else None

    def streams(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Float[Tensor, "_ _ d"]]:
        """Tokens after the final norms, nothing masked, of each modality that is given and that the model learns from.

        Raises ValueError if there is none.
        """
        given = self._given(image, log_mel)
        if not given:
            raise ValueError(f"this model encodes {' and '.join(self.modalities)}, and neither is given")
        return {modality: self.encode_one(modality, x) for modality, x in given.items()}

    def encode_one(
        self, modality: Modality, x: Float[Tensor, "b c h w"], ids_keep: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Tokens of one modality after the final norm: of all patches, or of those in `ids_keep`."""
        vit = self._vit(modality)
        tokens = vit.embed(self._scaled(modality, x), ids_keep)
        for block in vit.blocks:
            tokens = block(tokens)
        return vit.norm(tokens)  # type: ignore[no-any-return]

    def forward_intermediates(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]
    ) -> list[LayerTokens]:
        """Image and audio tokens after each layer. Raises ValueError for a model of one modality."""
        vits = self._vit("image"), self._vit("audio")
        x, y = (
            vit.embed(self._scaled(modality, given))
            for vit, modality, given in zip(vits, BOTH, self._given(image, log_mel).values(), strict=True)
        )
        found = []
        for image_block, audio_block in zip(vits[0].blocks, vits[1].blocks, strict=True):
            x, y = image_block(x), audio_block(y)
            found.append(LayerTokens(x, y))
        return found

    def choose(self, draws: Draws) -> Kept:
        """The patches with the smallest random numbers: 49 of 196 and 19 of 96 by default."""
        sizes = [self._vit(modality).num_patches for modality in self.modalities]
        ratios = {"image": self.config.image_mask_ratio, "audio": self.config.audio_mask_ratio}
        return {
            modality: ids_from_noise(noise, ratios[modality])
            for modality, noise in zip(self.modalities, torch.split(draws.noise, sizes, dim=1), strict=True)
        }

    def forward(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"], masks: Kept) -> Output:
        """Losses and predicted patches when only the patches in `masks` are visible."""
        terms: list[Term] = []
        preds: dict[Modality, Tensor] = {}
        hidden: dict[Modality, Tensor] = {}
        for modality, x in self._given(image, log_mel).items():
            ids_keep = masks[modality].to(x.device, non_blocking=True)
            masking = masking_from_ids(ids_keep, self._vit(modality).num_patches)
            preds[modality] = self.decoders[modality](self.encode_one(modality, x, ids_keep), None, masking.ids_restore)
            hidden[modality] = masking.mask
            terms.append(Term(modality, 1.0, masked_mse(preds[modality], self.targets(x, modality), masking.mask)))
        return Output(
            losses=weighted(terms),
            image_pred=preds.get("image"),
            audio_pred=preds.get("audio"),
            image_mask=hidden.get("image"),
            audio_mask=hidden.get("audio"),
        )

    def _vit(self, modality: Modality) -> ViT:
        if modality not in self.modalities:
            raise ValueError(f"a masked autoencoder of {self.modalities[0]} alone has no {modality} branch.")
        return self.encoder[modality]  # type: ignore[return-value]

    def _given(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[Modality, Tensor]:
        """The inputs that the model reads, image first, as their patches are cut."""
        given: dict[Modality, Tensor] = {}
        if image is not None and "image" in self.modalities:
            given["image"] = fit_image(image, self.config.image_size)
        if log_mel is not None and "audio" in self.modalities:
            given["audio"] = whole_patches(log_mel, self.config)
        return given

    def _scaled(self, modality: Modality, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return audiomae_scale(x) if modality == "audio" and self.config.audio_init == ALIGNED else x
