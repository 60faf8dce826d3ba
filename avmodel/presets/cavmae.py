"""CAV-MAE's run."""

from collections.abc import Callable
from dataclasses import replace

from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.configs.run import RunConfig
from avmodel.presets.avsiam import ADAM
from avmodel.presets.data import ROLL_AND_NOISE, WHOLE_CLIP

IMAGE_WEIGHTS = "weights/mae_pretrain_vit_base_full.pth"


def cavmae() -> RunConfig:
    """CAV-MAE, the largest of its three sizes: a tower for each modality, one joint block, 75 % masked.

    avkit pretrain cavmae --data data/audioset --out runs/cavmae

    About 7 hours for 1.8M clips (116 GMAC a sample), one for VGGSound. Paper: 42.0 / 65.5 (AudioSet-20K mAP, VGGSound
    accuracy); pretrained on VGGSound alone 64.8, by its published log, which ends at losses of 2.21 (audio),
    1.33 (image).

    Numbers: the paper and the released scripts (256 samples a step, rate 2e-4, 25 epochs, halved from epoch 10 every
    five), where a rate of 1e-4 goes with 108 samples and 5e-5 with 48. A frame is the center square of its short side
    (its script that extracts frames). Both towers start from the image MAE with its decoder. Contrast is over all 256
    samples, on any number of devices and with any device_batch_size.
    """
    return RunConfig(
        name="cavmae",
        model=CAVMAEConfig(),
        optim=replace(ADAM, lr=2e-4, drops=(0.4, 0.6, 0.8)),
        data=replace(WHOLE_CLIP, fit="short-side-crop"),
        augment=ROLL_AND_NOISE,
        batch_size=256,
        device_batch_size=256,
        gradient_cache=True,
        epochs=25,
        image_weights=IMAGE_WEIGHTS,
        audio_weights=IMAGE_WEIGHTS,
        precision="bfloat16",
        compile="blocks",
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {"cavmae": cavmae}
