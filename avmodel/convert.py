"""Published weights under our names.

Single-modality checkpoints start the branches of a model (`load_branch`); released DeepAVFusion checkpoints become
whole models (`import_deepavfusion`). Nothing here runs code from a file, and every load says under which license
the weights may be used.
"""

import argparse
import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.checkpoint import fill_weights
from avmodel.configs.deepavfusion import DeepAVFusionConfig, fusion_layer_ids
from avmodel.configs.model import VIT_SIZES, ViTSize, size_name
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.positions import sincos_positions

Branch = Literal["image", "audio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """One published file: what is known of its bytes, and the license of what is inside."""

    name: str
    source: str
    license: str
    size_bytes: int | None = None
    sha256: str | None = None
    md5_prefix: str | None = None


PUBLISHED = (
    PublishedWeights(
        name="mae_vit_base",
        source="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
        license="CC-BY-NC-4.0 (MAE)",
        md5_prefix="8cad7c",
    ),
    PublishedWeights(
        name="mae_vit_large",
        source="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_large.pth",
        license="CC-BY-NC-4.0 (MAE)",
        md5_prefix="b8b06e",
    ),
    PublishedWeights(
        name="audiomae_vit_base",
        source="https://github.com/stoneMo/DeepAVFusion assets/models/vitbase_audiomae_as2m.pth",
        license="CC-BY-4.0 (AudioMAE)",
        size_bytes=548_136_466,
        sha256="2ac444b8df9264a40bdf78e09ea878497611fc1b05254f90aaaf573c94aaadde",
    ),
    PublishedWeights(
        name="deepavfusion_vggsound",
        source="https://github.com/stoneMo/DeepAVFusion checkpoints/deepavfusion_vitb_vggsound_ep200",
        license="Apache-2.0 (DeepAVFusion), trained from CC-BY-NC-4.0 (MAE) and CC-BY-4.0 (AudioMAE) weights",
        size_bytes=1_282_543_933,
        sha256="51437180761408f651ec51847164038a8c180afb2f45639f07f8fced2e8e63db",
    ),
    PublishedWeights(
        name="deepavfusion_audioset",
        source="https://github.com/stoneMo/DeepAVFusion checkpoints/deepavfusion_vitb_as2m_ep200",
        license="Apache-2.0 (DeepAVFusion), trained from CC-BY-NC-4.0 (MAE) and CC-BY-4.0 (AudioMAE) weights",
        size_bytes=1_516_280_189,
        sha256="109dbf04dbf86786a71ea0e2f8ac4762c9e19366887ea50d6260db8b96f5cd14",
    ),
)
UNKNOWN_LICENSE = "unknown: ask whoever made the file"


def identify(path: Path, published: Sequence[PublishedWeights] = PUBLISHED) -> PublishedWeights:
    """The published file that this is, byte for byte; else one called "unknown", of unknown license."""
    size = path.stat().st_size
    candidates = [known for known in published if known.size_bytes in (None, size)]
    by_sha256 = [known for known in candidates if known.sha256]
    if by_sha256 and (digest := digest_of(path, "sha256")) in {known.sha256 for known in by_sha256}:
        return next(known for known in by_sha256 if known.sha256 == digest)
    by_md5 = [known for known in candidates if known.md5_prefix]
    if by_md5:
        digest = digest_of(path, "md5")
        for known in by_md5:
            if known.md5_prefix and digest.startswith(known.md5_prefix):
                return known
    return PublishedWeights(name="unknown", source=str(path), license=UNKNOWN_LICENSE, size_bytes=size)


def digest_of(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file's `state_dict`, `model` or top level.

    Raises ConfigError for a missing or broken file, and for one that would have to run code to be read.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            # Training scripts store their arguments beside the weights; a Namespace holds values, no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_torch_file(path):
            raise ConfigError(f"{path}: neither a torch file nor .safetensors (a Git LFS pointer?)") from error
        raise ConfigError(
            f"{path}: holds Python objects whose loading would run code from the file, which avkit never does. "
            "Take a file of tensors only, or re-save its state dict as .safetensors where you trust it. "
            f"({str(error).partition(chr(10))[0]})"
        ) from error
    # The reader of a damaged file stumbles in whatever way the damage has it: IndexError, AssertionError, struct.error.
    except Exception as error:
        raise ConfigError(f"{path}: no readable weights ({error})") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ConfigError(f"{path}: no state dict at its top, nor under 'state_dict' or 'model'")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def is_torch_file(path: Path) -> bool:
    """Whether the file begins like a zip archive or like a pickle, as torch has written them."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def load_branch(model: DeepAVFusion, branch: Branch, path: Path) -> PublishedWeights:
    """Start one branch of `model` from an MAE or AudioMAE checkpoint; what the file is, with its license.

    Decoder, mask token and class token are left out; the positions are the model's own. With audio_init="aligned"
    in the model's config, the audio patch kernel is turned from AudioMAE's (time, frequency) to our (frequency,
    time); "released" keeps it as it is.

    Raises ConfigError if the encoder's weights are not exactly those of the branch.
    """
    target = {"image": model.encoder.image, "audio": model.encoder.audio}[branch]
    weights = {
        name: tensor
        for name, tensor in read_weights(path).items()
        if not name.startswith(("decoder", "mask_token", "cls_token", "pos_embed"))
    }
    kernel = weights.get("patch_embed.proj.weight")
    if branch == "audio" and model.config.audio_init == "aligned" and kernel is not None:
        weights["patch_embed.proj.weight"] = kernel.transpose(-1, -2).contiguous()
    fill_weights(target, weights | {"positions": target.positions}, path)
    return identify(path)


def import_deepavfusion(
    path: Path, *, accept_unknown: bool = False, **settings: Any
) -> tuple[DeepAVFusion, PublishedWeights]:
    """The model in a released DeepAVFusion checkpoint, and what the file is.

    Size and sha256 must be those of a released file, unless `accept_unknown`. The config is read off the tensors;
    `settings` are config fields that shapes don't tell (see `config_from_released`).

    Raises ConfigError for a file that is neither released nor accepted, or whose weights are not such a model's.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    published = identify(path)
    if not published.name.startswith("deepavfusion") and not accept_unknown:
        raise ConfigError(
            f"{path}: {path.stat().st_size} bytes, sha256 {digest_of(path, 'sha256')}: not a released DeepAVFusion "
            "checkpoint, or a damaged one (a Git LFS pointer is some 130 bytes). If you know where it comes from, "
            "accept it explicitly: accept_unknown."
        )
    return model_from_released(read_weights(path), path, **settings), published


def model_from_released(released: Mapping[str, Tensor], source: Path, **settings: Any) -> DeepAVFusion:
    """The model that a released state dict describes. Errors and `settings` as in `import_deepavfusion`."""
    config = config_from_released(released, source, **settings)
    weights = {our_name(name, config.fusion): tensor for name, tensor in released.items()}
    if config.fusion == "dense":
        # The released dense fusion sees a pair as [audio, image].
        for layer in fusion_layer_ids(config.fusion_layers, config.vit.depth):
            name = f"encoder.fusion_blocks.{layer}.attn.kv.weight"
            if name in weights:
                weights[name] = torch.cat(weights[name].chunk(2, dim=1)[::-1], dim=1)
    with torch.device("meta"):
        model = DeepAVFusion(config)
    fill_weights(model, weights, source)
    return model


RELEASED_NAMES = (
    (r"^(image|audio)_decoder_(?=\w)", r"\1_decoder."),
    (r"\bpos_embed$", "positions"),
    (r"\bnorm1_mm\b", "norm_fusion"),
    (r"\battn\.attn_v\b", "attn.aggregate_image"),
    (r"\battn\.attn_a\b", "attn.aggregate_audio"),
)


def our_name(released: str, fusion: str) -> str:
    """Our name of a released weight. The released token fusion calls its image norm "aud" and the other way round."""
    name = released
    for pattern, ours in RELEASED_NAMES:
        name = re.sub(pattern, ours, name)
    image, audio = ("aud", "img") if fusion == "token" else ("img", "aud")
    return name.replace(f"norm1_{image}.", "norm_image.").replace(f"norm1_{audio}.", "norm_audio.")


def config_from_released(released: Mapping[str, Tensor], source: Path, **settings: Any) -> DeepAVFusionConfig:
    """The config of a released state dict: sizes, fusion layers and ratios from shapes, grids from positions.

    Shapes don't tell the heads (as many as the named size of that width and depth has, else one per 64 channels;
    16 in the decoders), the mask ratios, or which fusion tokens aggregate (16, 8 and 8 of 32 are known); `settings`
    override any field. Raises ConfigError if a tensor that tells is missing, or if no model has this config.
    """
    try:
        return replace(DeepAVFusionConfig(), **{**released_fields(released), **settings})
    except KeyError as error:
        raise ConfigError(f"{source}: not a DeepAVFusion state dict: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{source}: {error}") from error


def released_fields(released: Mapping[str, Tensor]) -> dict[str, Any]:
    """Config fields that a released state dict shows. Raises KeyError for a tensor that isn't there."""
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
    for branch in ("image", "audio"):
        rows, columns = grid_of(released[f"encoder.{branch}.pos_embed"])
        fields[f"{branch}_size"] = (rows * patch_size, columns * patch_size)
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


def numbers_in(names: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """The different numbers that `pattern` finds at the start of names, ascending."""
    return tuple(sorted({int(match[1]) for name in names if (match := re.match(pattern, name))}))


def grid_of(positions: Tensor) -> tuple[int, int]:
    """Rows and columns of the grid whose fixed positions these are. Raises ValueError if there is none."""
    _, num_patches, dim = positions.shape
    for rows in range(1, num_patches + 1):
        if num_patches % rows == 0:
            grid = (rows, num_patches // rows)
            if torch.allclose(sincos_positions(dim, grid), positions.float(), atol=1e-4):
                return grid
    raise ValueError(f"encoder positions of {num_patches} patches are not the sine-cosine of any grid")
