"""Published AVSiam-Base checkpoints, pretrained and fine-tuned, as models of ours.

What the released forward pass never uses is left out: copies, spare norms, the spare head on all joint tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from avmodel.checkpoint import filled
from avmodel.configs.avsiam import AVSiamConfig
from avmodel.models.avsiam import AVSiam
from avmodel.renaming import Rules, renamed
from avmodel.weights.files import read_weights
from avmodel.weights.published import Importer, PublishedHeads, PublishedWeights, head_names
from avmodel.weights.shapes import eight_rows, numbers_in, said_of, size_of, square

AVSIAM = PublishedWeights(
    name="avsiam_base",
    source="https://github.com/GenjiB/AVSiam (Base and Base+)",
    license=(
        "CC-BY-NC-ND-4.0 by its page, MIT by the badge of its code (AVSiam); started from ImageNet-21k ViT weights "
        "(Apache-2.0)"
    ),
)

# Published name -> ours; the first row that fits counts.
LINEAR = r"(?:attn|mlp)\..+"
BLOCK = rf"{LINEAR}|norm[12]\..+"  # of a block with norms of its own
AVSIAM_NAMES: Rules = (
    (r"vit_base\.patch_embed\.(.+)", r"encoder.image.patch_embed.\1"),
    (r"vit_base\.patch_embed_a\.(.+)", r"encoder.audio.patch_embed.\1"),
    (r"vit_base\.pos_embed", r"encoder.image.positions"),
    (r"vit_base\.pos_embed_a", r"encoder.audio.positions"),
    (rf"vit_base\.blocks\.(\d+)\.({LINEAR})", r"encoder.blocks.\1.\2"),
    (r"vit_base\.blocks\.(\d+)\.(norm[12])_v\.(.+)", r"encoder.blocks.\1.\2.\3"),
    (r"vit_base\.blocks\.(\d+)\.(norm[12])_a\.(.+)", r"encoder.blocks.\1.\2_banks.audio.\3"),
    (r"vit_base\.norm\.(.+)", r"encoder.norm.\1"),
    (r"vit_base\.norm_a\.(.+)", r"encoder.audio_norm.\1"),
    (rf"ast_base\.blocks\.(\d+)\.({BLOCK})", r"reconstruction_blocks.\1.\2"),
    (r"ast_base\.norm_a\.(.+)", r"reconstruction_norm.\1"),
    # They run with the audio norms.
    *((rf"mm_layer_{n + 1}\.({LINEAR})", rf"joint_layers.{n}.\1") for n in range(2)),
    *((rf"mm_layer_{n + 1}\.(norm[12])_a\.(.+)", rf"joint_layers.{n}.\1.\2") for n in range(2)),
)
# The decoder is MAE's with a second modality; CAV-MAE's has the same names.
DECODER_NAMES: Rules = (
    (r"decoder_embed\.(.+)", r"decoder.embed.\1"),
    (r"mask_token", r"decoder.mask_token"),
    (r"decoder_pos_embed_a", r"decoder.audio_positions"),
    (r"decoder_pos_embed_v", r"decoder.image_positions"),
    (r"decoder_modality_a", r"decoder.audio_vector"),
    (r"decoder_modality_v", r"decoder.image_vector"),
    (rf"decoder_blocks\.(\d+)\.({BLOCK})", r"decoder.blocks.\1.\2"),
    (r"decoder_norm\.(.+)", r"decoder.norm.\1"),
    (r"decoder_pred_a\.(.+)", r"decoder.audio_pred.\1"),
    (r"decoder_pred_v\.(.+)", r"decoder.image_pred.\1"),
)


def import_avsiam(path: Path, **settings: Any) -> tuple[AVSiam, PublishedWeights]:
    """The model in an AVSiam-Base file, without heads, with the flags of its code, and the file's license.

    `settings` are config fields. A fine-tuned model has no decoder. Raises ConfigError for a file that holds no such
    model.
    """
    released = read_weights(path)
    with said_of(path, "an AVSiam"):
        dim, _, patch, _ = released["vit_base.patch_embed.proj.weight"].shape
        depth = len(numbers_in(released, r"vit_base\.blocks\.(\d+)\."))
        config = AVSiamConfig(
            size=size_of(dim, depth),
            image_size=square(released["vit_base.pos_embed"].shape[1] - 1, patch),
            audio_size=eight_rows(released["vit_base.pos_embed_a"].shape[1], patch),
            patch_size=patch,
            mask_ratios=(0.0, 0.2, 0.4, 0.6, 0.8),
            audio_scheme="tf",
            stop_gradient=False,
            double_embed=True,
            norm_eps=1e-5,
            **reconstruction_in(released),
        )
        config = replace(config, **settings)
    weights = renamed(released, (*AVSIAM_NAMES, *DECODER_NAMES))
    # The class token has a position, and is used nowhere.
    weights["encoder.image.positions"] = weights["encoder.image.positions"][:, 1:]
    return filled(AVSiam, config, weights, path), AVSIAM


def reconstruction_in(released: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config fields of the decoder and of the second pass's backbone, which a fine-tuned model has not.

    KeyError for a state dict of neither.
    """
    if "mlp_head_mm.1.weight" in released:
        return {"reconstruction_weight": 0.0}
    return {"separate_reconstruction": True, **decoder_in(released)}


def decoder_in(released: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config fields of a decoder with the names of DECODER_NAMES. KeyError without one."""
    return {
        "decoder_embed_dim": released["decoder_embed.weight"].shape[0],
        "decoder_depth": len(numbers_in(released, r"decoder_blocks\.(\d+)\.")),
    }


HEADS = PublishedHeads(
    kind="concat",
    mixed=True,
    names=head_names({"mlp_head_mm": "both", "mlp_head_a": "audio", "mlp_head": "image"}),
)

IMPORTER = Importer(read=import_avsiam, profile="kaldi", window_s=None, fit="squash", heads=HEADS)
