"""Masked autoencoders without fusion, which table 4 of DeepAVFusion compares it with.

Hours as in the other presets: for one H200, from the operations of a step. Scores are that paper's accuracy on
VGGSound-Music and VGGSound, of linear probe / fine-tuning. It doesn't say how its baselines were trained: all numbers
are DeepAVFusion's, so that a difference is the fusion's.
"""

from collections.abc import Callable
from dataclasses import replace

from avmodel.configs.mae import MAEConfig
from avmodel.configs.run import RunConfig
from avmodel.presets.deepavfusion import deepavfusion


def mae() -> RunConfig:
    """MAE of the frames alone.

    avkit pretrain mae --data data/vggsound --out runs/mae

    About 1.5 hours for 184k clips. Paper (table 4): 48.25 / 53.18, 37.12 / 43.86. Evaluate with data.mode=image.
    Numbers: as `deepavfusion`.
    """
    run = deepavfusion()
    return replace(run, name="mae", model=MAEConfig(modalities="image"), audio_weights=None)


def audiomae() -> RunConfig:
    """AudioMAE: a masked autoencoder of the log-mels alone.

    avkit pretrain audiomae --data data/vggsound --out runs/audiomae

    About 0.6 hours for 184k clips. Paper (table 4): 52.73 / 58.29, 42.05 / 49.53. Evaluate with data.mode=audio.
    Numbers: as `deepavfusion`.
    """
    run = deepavfusion()
    return replace(run, name="audiomae", model=MAEConfig(modalities="audio"), image_weights=None)


def mae_audiomae() -> RunConfig:
    """MAE and AudioMAE beside each other, without any token that reads both.

    avkit pretrain mae-audiomae --data data/vggsound --out runs/mae-audiomae

    About 2 hours for 184k clips. The paper has no such row; its `deepavfusion-none` also has fusion tokens, which no
    layer changes, and a head on them. Numbers: as `deepavfusion`.
    """
    return replace(deepavfusion(), name="mae-audiomae", model=MAEConfig())


PRESETS: dict[str, Callable[[], RunConfig]] = {"mae": mae, "audiomae": audiomae, "mae-audiomae": mae_audiomae}
