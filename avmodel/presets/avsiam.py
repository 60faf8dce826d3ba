"""AVSiam's runs.

Hours are estimates for one H200 at half of its measured bfloat16 matrix rate, from the multiply-adds of a step
(specified per sample: 218 GMAC with both losses, 145 with the contrastive one alone); `avkit bench step --family`
measures them. On fewer devices than the paper's, the first of the two passes of gradient_cache comes on top: a fifth
more with both losses, a third more with the contrastive one alone. Scores are the paper's: AudioSet-20K mAP and
VGGSound accuracy after fine-tuning, on 1.7M AudioSet clips.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from avmodel.configs.avsiam import AVSiamConfig
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RunConfig
from avmodel.presets.data import ONE_SECOND, ROLL_AND_NOISE, SMALL_OPTIM, SMALL_SIZE, WHOLE_CLIP

IN21K = {  # timm's names of the weights begin so
    "base": "weights/vit_base_augreg_in21k.safetensors",
    "large": "weights/vit_large_augreg_in21k.safetensors",
    "huge": "weights/vit_huge_orig_in21k.safetensors",
}
AST = "weights/ast_audioset_0.4593.pth"
RATIOS = (25, 50, 75)  # percent, of table 4's grid

# Adam, constant, halved from epoch 10 of 20 every five epochs; the released code decays biases and norms, too.
ADAM = OptimConfig(
    optimizer="adam", lr=1e-4, betas=(0.95, 0.999), weight_decay=5e-7, warmup=0.0, ramp=0.0, drops=(0.5, 0.75)
)


def avsiam(size: str) -> RunConfig:
    """AVSiam base, large, huge: one ViT for both modalities, ratios of 0 to 50 % in five steps, both losses.

    avkit pretrain avsiam-b --data data/audioset --out runs/avsiam-b

    About 10 hours for 1.7M clips and base (218 GMAC a sample), 37 and 100 for large and huge. Paper (tables 1 and 8):
    base 41.6 / 64.9, large 44.1 / 67.1, huge 45.0 / 68.0; zero-shot retrieval R@1 on VGGSound 19.0 / 20.4 (base).

    Contrast is over all 1,536 samples of a step, as on the paper's 16 (base) to 64 (huge) devices: fewer devices take
    them in several micro-steps and compare them by gradient_cache.

    Numbers: the paper's (1536 samples a step, rate 1e-4, 20 epochs); optimizer and drops from the released code,
    which trains in float16 where this is bfloat16, and so is that a frame is squashed whole to a square (its data
    loaders, of training and of tests). The paper names no ratios but their range.
    """
    size_name = {"b": "base", "l": "large", "h": "huge"}[size]
    model = AVSiamConfig(size=size_name, patch_size=14 if size == "h" else 16)
    return RunConfig(
        name=f"avsiam-{size}",
        model=model,
        optim=ADAM,
        data=replace(WHOLE_CLIP, fit="squash"),
        augment=ROLL_AND_NOISE,
        batch_size=1536,
        device_batch_size={"b": 96, "l": 48, "h": 24}[size],
        gradient_cache=True,
        epochs=20,
        image_weights=IN21K[size_name],
        precision="bfloat16",
    )


def avsiam_plus() -> RunConfig:
    """AVSiam-Base+: AVSiam-Base trained on three corpora, AudioSet, VGGSound and ACAV, 4.3M clips.

    avkit pretrain avsiam-b-plus --data data/audioset --data data/vggsound --data data/acav --out runs/avsiam-b-plus

    About 25 hours. Every clip comes once an epoch; of AudioSet, `train` is AS-2M. ACAV's clips are prepared from a list
    of one's own (recipe `table`). Paper (table 1): AudioSet-20K 43.0, AudioSet-2M 51.4, VGGSound 66.7.

    Numbers: as avsiam-b; the paper's hours, 450 to 177, are those of 20 epochs on 4.3M and 1.7M clips.
    """
    return replace(avsiam("b"), name="avsiam-b-plus")


def avsiam_nce() -> RunConfig:
    """AVSiam-Base with the contrastive loss alone.

    avkit pretrain avsiam-nce --data data/audioset --out runs/avsiam-nce

    About 7 hours for 1.7M clips (145 GMAC a sample). Paper (tables 4 and 8): 41.3 / 64.4; table 4's several ratios, 160
    hours on V100s. Numbers: as avsiam-b.
    """
    return contrastive("avsiam-nce")


def avsiam_none() -> RunConfig:
    """AVSiam-Base without pretraining: the ImageNet-21k ViT as it is, for fine-tuning.

    avkit pretrain avsiam-none --data data/audioset --out runs/avsiam-none

    A few minutes: no step is taken, the start is saved. Paper (table 8, without both losses): 39.9 / 61.2. Numbers: the
    backbone's as avsiam-b.
    """
    run = contrastive("avsiam-none", mask_ratios=(0.0,))
    return replace(run, steps=0, batch_size=1, device_batch_size=1)


def avsiam_nomask() -> RunConfig:
    """AVSiam-Base with the contrastive loss alone and no masking.

    avkit pretrain avsiam-nomask --data data/audioset --out runs/avsiam-nomask

    About 9 hours for 1.7M clips (197 GMAC a sample). Paper (table 4, "contrastive learning"): 40.4 / -, 510 hours on
    V100s. Numbers: as avsiam-b.
    """
    return contrastive("avsiam-nomask", mask_ratios=(0.0,))


def avsiam_fixed(audio: int, image: int) -> RunConfig:
    """AVSiam-Base with the contrastive loss alone and one mask ratio for each modality: 25, 50 or 75 %.

    avkit pretrain avsiam-fixed-25-75 --data data/audioset --out runs/fixed-25-75

    2 (75-75) to 7 (25-25) hours for 1.7M clips. Paper (table 4, mAP; image 25, 50, 75): audio 25: 40.8, 40.3, 40.0;
    50: 39.8, 39.5, 39.4; 75: 39.0, 38.8, 38.6; hours on V100s: 362, 326, 300; 163, 142, 136; 138, 132, 120, which do
    not follow the multiply-adds. Numbers: as avsiam-b.
    """
    return contrastive(f"avsiam-fixed-{audio}-{image}", mask_ratios=(audio / 100,), image_mask_ratios=(image / 100,))


def avsep_l() -> RunConfig:
    """AVSep-Large: AVSiam-Large with a backbone for each modality.

    avkit pretrain avsep-l --data data/audioset --out runs/avsep-l

    About 37 hours for 1.7M clips. Paper (table 5, AudioSet-2M mAP of audio, image, both): 48.0 / 29.8 / 52.0,
    AVSiam-Large 47.8 / 30.1 / 52.1 with 0.52 of its weights. Numbers: as avsiam-l.
    """
    run = avsiam("l")
    return replace(run, name="avsep-l", model=AVSiamConfig(size="large", separate=True))


def avsiam_ast() -> RunConfig:
    """AVSiam-Base that starts from AST, a ViT for spectrograms; the other runs start from one for images.

    avkit pretrain avsiam-ast --data data/audioset --out runs/avsiam-ast

    About 10 hours for 1.7M clips. Paper (table 6, AudioSet-20K mAP of audio, image, both): 37.5 / 9.6 / 38.1 against
    36.5 / 23.7 / 41.6. Numbers: as avsiam-b; how the image kernel starts from the spectrogram's is chosen here.
    """
    return replace(avsiam("b"), name="avsiam-ast", image_weights=None, audio_weights=AST)


def avsiam_alternate() -> RunConfig:
    """AVSiam-Base whose two losses have an optimizer each, stepped one after the other, as in the released trainer.

    avkit pretrain avsiam-alternate --data data/audioset --out runs/avsiam-alternate

    About 10 hours for 1.7M clips. Numbers: as avsiam-b; the paper calls the losses two independent scalars.
    """
    return replace(avsiam("b"), name="avsiam-alternate", model=AVSiamConfig(alternate_steps=True))


def avsiam_released() -> RunConfig:
    """AVSiam-Base as its released code trains it, which is not what its paper describes.

    avkit pretrain avsiam-released --data data/audioset --out runs/avsiam-released

    About 14 hours for 1.7M clips. Ratios of 0 to 80 %, whole lines of the spectrogram first; reconstruction has a
    backbone of its own for audio, no stop-gradient, eight decoder blocks; both joint layers start from the last block;
    embeddings doubled; one optimizer for each loss. Numbers: the released scripts (rate 2e-4, 25 epochs); no separate
    score of it is published.
    """
    model = AVSiamConfig(
        mask_ratios=(0.0, 0.2, 0.4, 0.6, 0.8),
        audio_scheme="tf",
        joint_start="last-twice",
        separate_reconstruction=True,
        stop_gradient=False,
        decoder_depth=8,
        norm_eps=1e-5,
        double_embed=True,
        audio_positions="nearest1d",
        alternate_steps=True,
    )
    optim = replace(ADAM, lr=2e-4, drops=(0.4, 0.6, 0.8))
    return replace(avsiam("b"), name="avsiam-released", model=model, optim=optim, epochs=25)


def avsiam_small() -> RunConfig:
    """A small AVSiam that learns from a thousand clips by contrast alone, for a laptop.

    avkit pretrain avsiam-small --data data/mine --out runs/small

    Some minutes on two cores. On handwritten and spoken digits, and on synth's 24 classes of one object, linear probes
    of image, audio and joint features beat those of random weights by more than three standard errors over three seeds
    (docs/decisions/learning-on-little.md).

    Numbers: chosen here. The size, the optimizer and the windows of `demo`; nothing is hidden; -4.13 and 2.95 are about
    the mean and deviation of log-mels of the profile `paper`; 2,400 steps of 64, as the loss stays at ln 64 for the
    first 300 to 600.
    """
    return RunConfig(
        name="avsiam-small",
        model=AVSiamConfig(**SMALL_SIZE, mask_ratios=(0.0,), reconstruction_weight=0.0, mel_mean=-4.13, mel_std=2.95),
        optim=SMALL_OPTIM,
        data=ONE_SECOND,
        batch_size=64,
        device_batch_size=64,
        steps=2400,
        save_every=600,
    )


def contrastive(name: str, **changes: Any) -> RunConfig:
    """The base run without reconstruction, under another name, its model changed."""
    return replace(avsiam("b"), name=name, model=AVSiamConfig(reconstruction_weight=0.0, **changes))


PRESETS: dict[str, Callable[[], RunConfig]] = {
    **{f"avsiam-{size}": partial(avsiam, size) for size in ("b", "l", "h")},
    "avsiam-b-plus": avsiam_plus,
    "avsiam-none": avsiam_none,
    "avsiam-nce": avsiam_nce,
    "avsiam-nomask": avsiam_nomask,
    **{f"avsiam-fixed-{a}-{v}": partial(avsiam_fixed, a, v) for a in RATIOS for v in RATIOS},
    "avsep-l": avsep_l,
    "avsiam-ast": avsiam_ast,
    "avsiam-alternate": avsiam_alternate,
    "avsiam-released": avsiam_released,
    "avsiam-small": avsiam_small,
}
