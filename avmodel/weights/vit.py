"""Published single-modality ViTs under one set of names."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.renaming import Rules, renamed

# ImageNet-21k ViTs (timm's names), MAE and AudioMAE name the parts of a ViT alike; AST puts `v.` before them. Heads are
# left out.
VIT_NAMES: Rules = (
    (r"(?:v\.)?((?:patch_embed\.proj|norm|blocks\.\d+)\..+|cls_token)", r"\1"),
    (r"(?:v\.)?pos_embed", "positions"),
    (r"(mask_token|decoder_.+)", r"\1"),
)
NEEDED = {"pos_embed": "positions"} | {
    f"{layer}.{part}": f"{layer}.{part}" for layer in ("patch_embed.proj", "norm") for part in ("weight", "bias")
}


def published_vit(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The ViT in a published state dict.

    Returns:
        patch_embed.proj.*, blocks.N.* and norm.* as timm names them; `positions` [1, n, d] of the patches alone;
        cls_token if there is one; MAE's mask_token and decoder_* if they are there.

    Raises:
        ConfigError: If a part that every ViT has is missing.
    """
    vit = renamed(weights, VIT_NAMES)
    if missing := [theirs for theirs, ours in NEEDED.items() if ours not in vit]:
        raise ConfigError(
            f"{path}: not a published ViT: {missing[0]!r} is missing. Take a checkpoint of MAE, AudioMAE, AST or timm."
        )
    tokens = 1 + any(name.endswith("dist_token") for name in weights)  # AST has two class tokens
    return vit | {"positions": vit["positions"][:, tokens:]}
