"""CrossMAE's runs.

Hours are estimates for one H200 at half of its measured bfloat16 matrix rate and 1.8M clips, from the multiply-adds
of a step; `avkit bench step --family` measures them. Scores are the paper's on VGGSound (accuracy), VGG-SS (cIoU /
AUC) and its retrieval gallery (R@1, audio to image / image to audio). It prints no optimizer, rate, temperature or
decoder depth: those numbers are chosen here, as in MAE.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from avmodel.configs.crossmae import CrossMAEConfig
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RunConfig
from avmodel.presets.data import WHOLE_CLIP

IMAGE_WEIGHTS = "weights/mae_pretrain_vit_{}.pth"
AUDIO_WEIGHTS = "weights/vitbase_audiomae_as2m.pth"

# The losses that each of the paper's six variants has.
VARIANTS: dict[str, dict[str, Any]] = {
    "cl-av": {"reconstruct": False, "predict_features": False},
    "self-mae": {"contrast_weight": 0.0, "condition": "none", "predict_features": False},
    "cl-self-mae": {"condition": "none", "predict_features": False},
    "cl-cross-cdt": {"predict_features": False},
    "cl-cross-emb": {"reconstruct": False},
}
CONDITIONS = ("zero", "random")
QUERIES = ("attentive", "empty")


def crossmae() -> RunConfig:
    """CrossMAE: both reconstructions across the modalities, and contrast.

    avkit pretrain crossmae --data data/audioset --out runs/crossmae

    About 19 hours (252 GMAC a sample). Paper: 67.0; 39.80 / 27.13; 22.8 / 21.3.

    Numbers: the paper's (512 samples a step, 30 epochs); AdamW, rate 1.5e-4 per 256 samples, three epochs of warm-up
    and a cosine as in MAE. Contrast is over all 512 samples: eight devices take them at once, fewer compare them by
    gradient_cache, whose first pass has the visible patches alone.
    """
    return RunConfig(
        name="crossmae",
        model=CrossMAEConfig(),
        optim=OptimConfig(warmup=0.1, ramp=0.0),
        data=replace(WHOLE_CLIP, min_area=0.2, flip_probability=0.5),  # as MAE
        batch_size=512,
        device_batch_size=64,
        gradient_cache=True,
        epochs=30,
        image_weights=IMAGE_WEIGHTS.format("base"),
        audio_weights=AUDIO_WEIGHTS,
        precision="bfloat16",
        compile="blocks",
    )


def variant(name: str) -> RunConfig:
    """One of the paper's variants: contrast, an MAE of each modality, both, or contrast with one cross-modal loss.

    avkit pretrain cl-cross-emb --data data/audioset --out runs/cl-cross-emb

    4 (cl-av) to 19 hours. Paper (VGGSound; VGG-SS): cl-av 57.1; 30.80 / 22.36, self-mae 49.8; 17.77 / 13.03,
    cl-self-mae 61.7; 31.08 / 22.28, cl-cross-cdt 62.9; 37.60 / 25.45, cl-cross-emb 64.4; 38.20 / 25.94. Numbers: as
    crossmae.
    """
    return with_model(name, **VARIANTS[name])


def conditioned(condition: str) -> RunConfig:
    """CrossMAE whose pixel decoders get zeros or random tokens in place of the attentive ones, as many of them.

    avkit pretrain crossmae-condition-zero --data data/audioset --out runs/condition-zero

    About 19 hours. Paper (table 6; R@1, VGG-SS): zero 19.2 / 18.6, 38.24 / 25.92, random 19.6 / 19.2, 38.96 / 26.27,
    attentive 22.8 / 21.3, 39.80 / 27.13; without pixels it is cl-cross-emb. Numbers: as crossmae.
    """
    return with_model(f"crossmae-condition-{condition}", condition=condition)


def of_visible(name: str) -> RunConfig:
    """CrossMAE, or its variant without features, with attentive tokens of the masked pass.

    avkit pretrain crossmae-visible --data data/audioset --out runs/visible

    About 19 and 8 hours. The other reading of the paper, which prints one set of scores: a quarter of the visible
    tokens (12 and 32, not 49 and 128), through which the gradient flows. Numbers: as crossmae.
    """
    return with_model(name, attentive_source="visible", **VARIANTS.get(name.removesuffix("-visible"), {}))


def queried(queries: str) -> RunConfig:
    """CrossMAE with attentive tokens, or empty ones with fixed positions, as queries of the feature decoders.

    avkit pretrain crossmae-queries-empty --data data/audioset --out runs/queries-empty

    About 19 hours. Paper (table 7; R@1, VGG-SS): attentive 15.8 / 15.4, 37.80 / 25.83, empty 17.6 / 17.2, 38.20 /
    26.60, learnable 22.8 / 21.3, 39.80 / 27.13; without features it is cl-cross-cdt. Numbers: as crossmae. The
    paper doesn't say which tokens are queries: here those of the restored modality; the loss is over them alone.
    """
    return with_model(f"crossmae-queries-{queries}", queries=queries)


def scaled(size: str, batch_size: int) -> RunConfig:
    """CrossMAE base with 256, or large with 256 or 512 samples a step.

    avkit pretrain crossmae-l-512 --data data/audioset --out runs/crossmae-l-512

    About 19 (base) and 67 (large) hours. Paper (table 4; R@1, VGG-SS): base 256 20.4 / 18.6, 38.06 / 25.62, large 256
    36.4 / 32.8, 41.68 / 29.60, large 512 37.2 / 30.4, 43.04 / 30.92. Numbers: as crossmae. There is no large
    AudioMAE: both towers start from the image MAE.
    """
    run, size_name = crossmae(), {"b": "base", "l": "large"}[size]
    weights = IMAGE_WEIGHTS.format(size_name)
    return replace(
        run,
        name=f"crossmae-{size}-{batch_size}",
        model=CrossMAEConfig(size=size_name),
        batch_size=batch_size,
        image_weights=weights,
        audio_weights=run.audio_weights if size == "b" else weights,
    )


def crossmae_literal() -> RunConfig:
    """CrossMAE with its equation 9 as printed: the pixel loss is over the patches that are visible.

    avkit pretrain crossmae-literal --data data/audioset --out runs/crossmae-literal

    About 19 hours. Numbers: as crossmae; the paper's text means the hidden patches, and it prints one set of scores.
    """
    return with_model("crossmae-literal", loss_on="visible")


def with_model(name: str, **changes: Any) -> RunConfig:
    """The base run under another name, its model changed."""
    return replace(crossmae(), name=name, model=CrossMAEConfig(**changes))


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "crossmae": crossmae,
    **{name: partial(variant, name) for name in VARIANTS},
    **{f"crossmae-condition-{condition}": partial(conditioned, condition) for condition in CONDITIONS},
    **{f"crossmae-queries-{queries}": partial(queried, queries) for queries in QUERIES},
    **{
        f"crossmae-{size}-{batch}": partial(scaled, size, batch) for size, batch in (("b", 256), ("l", 256), ("l", 512))
    },
    "crossmae-literal": crossmae_literal,
    **{name: partial(of_visible, name) for name in ("crossmae-visible", "cl-cross-cdt-visible")},
}
