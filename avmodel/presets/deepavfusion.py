"""DeepAVFusion's runs.

Hours are estimates for one H200 at half of its measured bfloat16 matrix rate (790 TFLOP/s), from the floating-point
operations of a step; `avkit bench step` measures them. Scores are the paper's: linear probe accuracy on VGGSound,
separation SDR on VGGSound-Music, AVSBench semantic mIoU. An independent fine-tuning of the released weights reached
53.0 % where the paper has 58.2 %, so the paper's numbers may not be reproducible.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from avmodel.configs.data import DataConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.run import RunConfig
from avmodel.presets.data import ONE_SECOND, SMALL_OPTIM, SMALL_SIZE

IMAGE_WEIGHTS = "weights/mae_pretrain_vit_{}.pth"
AUDIO_WEIGHTS = "weights/vitbase_audiomae_as2m.pth"
RATIOS = {"image": (50, 60, 90), "audio": (60, 70, 90)}  # percent hidden, beside the usual 75 and 80


def deepavfusion() -> RunConfig:
    """The paper's VGGSound run: ViT-B, factorized fusion in all layers.

    avkit pretrain deepavfusion --data data/vggsound --out runs/vggsound

    About 3 hours for 184k clips (0.11 TFLOP a sample). Paper: 53.08 / 6.53 / 52.05; nearest neighbors of the probe
    start near 6.5 % (image), 9 % (audio), 9.5 % (fusion) and end near 9.5, 22.5 and 37 %.

    Numbers: the released README (200 epochs, 40 of warm-up, base rate 1.5e-4, 512 samples a step, attention ratio
    0.25, MLP ratio 1); optimizer and mask ratios from the released code, which trains in float16 where this is
    bfloat16. Spectrograms are the paper's (a column each 15 ms); `--set data.profile=released` has those of the
    released code (15.625 ms).
    """
    return RunConfig(
        name="deepavfusion",
        image_weights=IMAGE_WEIGHTS.format("base"),
        audio_weights=AUDIO_WEIGHTS,
        precision="bfloat16",
        compile="blocks",
    )


def deepavfusion_audioset() -> RunConfig:
    """The paper's AudioSet run: wider fusion, four times the batch.

    avkit pretrain deepavfusion-audioset --data data/audioset --out runs/audioset

    Trained on AS-2M, the lists balanced and unbalanced; the released code takes the unbalanced list alone (`--set
    data.split=unbalanced`).

    About 34 hours for 2M clips (0.12 TFLOP a sample). Paper: 53.08 / 6.93 / -.

    Numbers: the released README (2048 samples a step, attention ratio 1, MLP ratio 4; the rest as VGGSound).
    """
    model = DeepAVFusionConfig(fusion_attn_ratio=1.0, fusion_mlp_ratio=4.0)
    data = DataConfig(split="AS-2M")
    return replace(deepavfusion(), name="deepavfusion-audioset", model=model, data=data, batch_size=2048)


def from_scratch() -> RunConfig:
    """The VGGSound run without published weights.

    avkit pretrain deepavfusion-scratch --data data/vggsound --out runs/scratch

    About 3 hours. Paper (table 5): 44.36 / 2.03 / 29.55. Numbers: as `deepavfusion`.
    """
    return replace(deepavfusion(), name="deepavfusion-scratch", image_weights=None, audio_weights=None)


def fusion_at(layers: str) -> RunConfig:
    """The VGGSound run with fusion in some layers: none, late (the last), mid (the last four), early (all).

    avkit pretrain deepavfusion-mid --data data/vggsound --out runs/mid

    2.5 hours (none) to 3 (early). Paper (table 5): none 39.67 / 4.23 / 38.32, late 46.52 / 5.32 / 44.32,
    mid 51.21 / 5.85 / 48.04 (which table 7 prints for three layers), early 53.08 / 6.53 / 52.05.
    """
    return with_model(f"deepavfusion-{layers}", fusion_layers=layers)


def fusion_in_last(count: int) -> RunConfig:
    """The VGGSound run with fusion in the last `count` of 12 layers.

    avkit pretrain deepavfusion-layers-9 --data data/vggsound --out runs/layers-9

    2.5 to 3 hours. Paper (table 7): 9: 52.76 / 6.15 / 49.93, 6: 52.29 / 6.12 / 49.02, 3: 51.21 / 5.85 / 48.04,
    1: 46.52 / 5.32 / 44.32.
    """
    return with_model(f"deepavfusion-layers-{count}", fusion_layers=tuple(range(12 - count, 12)))


def fusion_by(fusion: str) -> RunConfig:
    """The VGGSound run with another fusion: dense over all pairs of tokens, or token (a bottleneck).

    avkit pretrain deepavfusion-dense --data data/vggsound --out runs/dense

    About 2.8 hours: dense runs in its separable form. Paper (tables 5 and 6): dense 52.82 / 6.30 / 52.13, token
    51.19 / 6.15 / 48.71. The 16, 8 and 8 tokens are one pool here, as in the released code.
    """
    return with_model(f"deepavfusion-{fusion}", fusion=fusion)


def fusion_tokens(count: int) -> RunConfig:
    """The VGGSound run with another number of fusion tokens.

    avkit pretrain deepavfusion-tokens-8 --data data/vggsound --out runs/tokens-8

    About 3 hours. Paper (table 7): 1: 51.86 / 5.94 / 50.67, 8: 51.97 / 5.83 / 51.14, 32: 52.18 / 6.43 / 50.60.
    """
    return with_model(f"deepavfusion-tokens-{count}", num_fusion_tokens=count)


def aggregation_tokens(count: int) -> RunConfig:
    """The VGGSound run with another number of aggregation tokens of each modality.

    avkit pretrain deepavfusion-aggregation-4 --data data/vggsound --out runs/aggregation-4

    About 3 hours. Paper (table 7): 4: 51.78 / 5.68 / 49.59, 16: 52.25 / 6.16 / 50.89.
    """
    return with_model(f"deepavfusion-aggregation-{count}", num_aggr_image_tokens=count, num_aggr_audio_tokens=count)


def masked(modality: str, percent: int) -> RunConfig:
    """The VGGSound run with another share of one modality's patches hidden; the other keeps its own, 75 and 80 %.

    avkit pretrain deepavfusion-mask-image-50 --data data/vggsound --out runs/mask-image-50

    2.5 to 4 hours. Numbers: the paper doesn't print its ratios, and compares none; these were chosen here, around those
    of the released code, over the ranges that MAE and AudioMAE compare.
    """
    return with_model(f"deepavfusion-mask-{modality}-{percent}", **{f"{modality}_mask_ratio": percent / 100})


def attention_width(channels: int) -> RunConfig:
    """The VGGSound run with another width of a head's queries and keys in the fusion: 16 in the paper, 64 on AudioSet.

    avkit pretrain deepavfusion-attention-64 --data data/vggsound --out runs/attention-64

    About 3 hours. The paper compares none. Numbers: 64 is the released AudioSet model's (attention ratio 1), 8 and 32
    were chosen here.
    """
    return with_model(f"deepavfusion-attention-{channels}", fusion_attn_ratio=channels / 64)


def scaled(size: str) -> RunConfig:
    """The VGGSound run with ViT-Large or ViT-Huge; Huge has patches of 14, which leave out the two uppermost mel bins.

    avkit pretrain deepavfusion-l --data data/vggsound --out runs/large

    About 6 (large) and 14 (huge) hours. The paper has no scores of these sizes; the released code has their
    constructors, and none of the two was trained with fusion. There is no AudioMAE of these sizes: both branches start
    from MAE. Numbers: otherwise as `deepavfusion`.
    """
    size_name = {"l": "large", "h": "huge"}[size]
    weights = IMAGE_WEIGHTS.format(size_name)
    model = DeepAVFusionConfig(size=size_name)
    if size == "h":
        model = replace(model, patch_size=14, audio_size=(128, 196))
    return replace(
        deepavfusion(),
        name=f"deepavfusion-{size}",
        model=model,
        image_weights=weights,
        audio_weights=weights,
        device_batch_size={"l": 64, "h": 32}[size],
    )


def demo() -> RunConfig:
    """A small model that learns from a thousand clips, for a laptop. Reconstructions are in runs/demo/pictures.

    avkit prepare synth --num-clips 2400 --num-classes 24 --max-objects 1 --max-silent 0 --out data/synth
    avkit pretrain demo --data data/synth

    Two to three minutes on two cores. Linear probes of the fusion features beat those of random weights by more than
    both intervals (docs/decisions/learning-on-little.md).

    Numbers: chosen here. Patches of the sound are not normalized, as most are silence; frames are not flipped, as
    digits and letters are not; 600 steps of 64 at 2e-3.
    """
    return RunConfig(
        name="demo",
        model=DeepAVFusionConfig(
            **SMALL_SIZE,
            num_fusion_tokens=8,
            num_aggr_image_tokens=4,
            num_aggr_audio_tokens=4,
            normalize_audio_targets=False,
        ),
        optim=SMALL_OPTIM,
        data=ONE_SECOND,
        batch_size=64,
        device_batch_size=64,
        steps=600,
        save_every=200,
        pictures_every=200,
        probe_every=10,
    )


def with_model(name: str, **changes: Any) -> RunConfig:
    """The VGGSound run under another name, its model changed."""
    return replace(deepavfusion(), name=name, model=DeepAVFusionConfig(**changes))


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "deepavfusion": deepavfusion,
    "deepavfusion-audioset": deepavfusion_audioset,
    "deepavfusion-scratch": from_scratch,
    **{f"deepavfusion-{layers}": partial(fusion_at, layers) for layers in ("none", "late", "mid", "early")},
    **{f"deepavfusion-layers-{count}": partial(fusion_in_last, count) for count in (1, 3, 6, 9)},
    **{f"deepavfusion-{fusion}": partial(fusion_by, fusion) for fusion in ("dense", "token")},
    **{f"deepavfusion-tokens-{count}": partial(fusion_tokens, count) for count in (1, 8, 32)},
    **{f"deepavfusion-aggregation-{count}": partial(aggregation_tokens, count) for count in (4, 16)},
    **{
        f"deepavfusion-mask-{modality}-{percent}": partial(masked, modality, percent)
        for modality, percents in RATIOS.items()
        for percent in percents
    },
    **{f"deepavfusion-attention-{channels}": partial(attention_width, channels) for channels in (8, 32, 64)},
    **{f"deepavfusion-{size}": partial(scaled, size) for size in ("l", "h")},
}
