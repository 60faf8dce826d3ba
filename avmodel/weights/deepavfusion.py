"""Import of released DeepAVFusion checkpoints."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avmanifest.errors import ConfigError
from avmanifest.files import sha256_of_file
from avmodel.checkpoint import filled
from avmodel.configs.deepavfusion import DeepAVFusionConfig, fusion_layer_ids
from avmodel.configs.model import VIT_SIZES, ViTSize, size_name
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.renaming import substituted
from avmodel.weights.files import read_weights, require_file
from avmodel.weights.published import Importer, PublishedWeights, identify
from avmodel.weights.shapes import grid_of, numbers_in, said_of

# Part of a released name -> part of our name; applied row by row.
RELEASED_NAMES = (
    (r"^(image|audio)_decoder_(?=\w)", r"\1_decoder."),
    (r"\bpos_embed$", "positions"),
    (r"\bnorm1_mm\b", "norm_fusion"),
    (r"\battn\.attn_v\b", "attn.aggregate_image"),
    (r"\battn\.attn_a\b", "attn.aggregate_audio"),
)
NORMS = ((r"\bnorm1_img\.", "norm_image."), (r"\bnorm1_aud\.", "norm_audio."))
SWAPPED_NORMS = (
    (r"\bnorm1_aud\.", "norm_image."),
    (r"\bnorm1_img\.", "norm_audio."),
)  # as in the released token fusion


def import_deepavfusion(
    path: Path, *, accept_unknown: bool = False, **settings: Any
) -> tuple[DeepAVFusion, PublishedWeights]:
    """Import a released DeepAVFusion checkpoint.

    Size and sha256 must be those of a released file, unless `accept_unknown`. The config is derived from the tensors;
    `settings` are config fields that shapes don't determine (see `config_from_released`).

    Returns:
        The model, and the published file that it is.

    Raises:
        ConfigError: The file is neither released nor accepted, or has other weights.
    """
    require_file(path)
    published = identify(path)
    is_released = published.entry is not None and published.entry.family == "deepavfusion"
    if not is_released and not accept_unknown:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes, sha256 {sha256_of_file(path)}: not a released DeepAVFusion "
            "checkpoint, or a damaged one (a Git LFS pointer is some 130 bytes). If you know its origin, give "
            "--accept-unknown (accept_unknown=True)."
        )
    return model_from_released(read_weights(path), path, **settings), published


def model_from_released(released: Mapping[str, Tensor], source: Path, **settings: Any) -> DeepAVFusion:
    """The model that a released state dict describes. Errors and `settings` as in `import_deepavfusion`."""
    config = config_from_released(released, source, **settings)
    norms = SWAPPED_NORMS if config.fusion == "token" else NORMS
    weights = substituted(released, (*RELEASED_NAMES, *norms))
    if config.fusion == "dense":
        # In the released dense fusion a pair is [audio, image].
        for layer in fusion_layer_ids(config.fusion_layers, config.vit.depth):
            name = f"encoder.fusion_blocks.{layer}.attn.kv.weight"
            if name in weights:
                weights[name] = torch.cat(weights[name].chunk(2, dim=1)[::-1], dim=1)
    return filled(DeepAVFusion, config, weights, source)


def config_from_released(released: Mapping[str, Tensor], source: Path, **settings: Any) -> DeepAVFusionConfig:
    """The config of a released state dict: sizes, fusion layers and ratios from shapes, grids from positions.

    Shapes don't determine the number of heads (taken: that of the named size of this width and depth, else one per 64
    channels; 16 in the decoders), the mask ratios, or the kinds of fusion tokens (taken: 16, 8 and 8 of 32). `settings`
    override any field. Raises ConfigError if a tensor is missing, or if no model has this config.
    """
    with said_of(source, "a DeepAVFusion"):
        return replace(DeepAVFusionConfig(), **{**released_fields(released), **settings})


def released_fields(released: Mapping[str, Tensor]) -> dict[str, Any]:
    """Config fields from the shapes of a released state dict. Raises KeyError for a missing tensor."""
    kernel = released["encoder.image.patch_embed.proj.weight"]
    dim, patch_size = kernel.shape[0], kernel.shape[-1]
    depth = len(numbers_in(released, r"encoder\.image\.blocks\.(\d+)\."))
    num_heads = {size[:2]: size.num_heads for size in VIT_SIZES.values()}.get((dim, depth), max(dim // 64, 1))
    fusion_layers = numbers_in(released, r"encoder\.fusion_blocks\.(\d+)\.")
    fields: dict[str, Any] = {
        "size": size_name(ViTSize(dim, depth, num_heads)),
        "patch_size": patch_size,
        "fusion_layers": "all" if len(fusion_layers) == depth else fusion_layers,
        "decoder_embed_dim": released["image_decoder_embed.weight"].shape[0],
        "decoder_depth": len(numbers_in(released, r"image_decoder_blocks\.(\d+)\.")),
    }
    for modality in ("image", "audio"):
        rows, columns = grid_of(released[f"encoder.{modality}.pos_embed"])
        fields[f"{modality}_size"] = (rows * patch_size, columns * patch_size)
    if fusion_layers:
        block = f"encoder.fusion_blocks.{fusion_layers[0]}"
        fields["fusion_attn_ratio"] = released[f"{block}.attn.q.weight"].shape[0] / dim
        fields["fusion_mlp_ratio"] = released[f"{block}.mlp.fc1.weight"].shape[0] / dim
        if f"{block}.attn.attn_v.q.weight" in released:
            fields["fusion"] = "factorized"
        else:
            pairs = released[f"{block}.attn.kv.weight"].shape[1] == 2 * dim
            fields["fusion"] = "dense" if pairs else "token"
    if (num_tokens := released["encoder.fusion_tokens"].shape[1]) != 32:
        fields |= {"num_fusion_tokens": num_tokens, "num_aggr_image_tokens": 0, "num_aggr_audio_tokens": 0}
    return fields


IMPORTER = Importer(read=import_deepavfusion, profile="released", window_s=3.0, known=True)
