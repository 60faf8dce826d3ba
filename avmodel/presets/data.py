"""What runs of several families share: whole clips with augmentation; the data and optimizer of small runs."""

from collections.abc import Mapping
from typing import Any

from avmodel.configs.augment import AugmentConfig
from avmodel.configs.data import DataConfig
from avmodel.configs.optim import OptimConfig

# For a thousand clips: windows of a second; frames are not flipped, as digits and letters are not.
ONE_SECOND = DataConfig(window_s=1.05, min_area=0.7, flip_probability=0.0)
SMALL_OPTIM = OptimConfig(lr=2e-3, warmup=0.1, clip_grad=1.0)
SMALL_SIZE: Mapping[str, Any] = {
    "size": "48x3x4",
    "image_size": (64, 64),
    "audio_size": (128, 64),
    "decoder_embed_dim": 48,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
}

# A ten-second clip as 128 x 1024 Kaldi log-mels, stored (`avkit prepare --mel kaldi`) or made from the FLAC; a random
# frame of it. Which part of a frame a model sees is its family's.
WHOLE_CLIP = DataConfig(profile="kaldi", window_s=None, max_gain_db=0.0, min_area=1.0, flip_probability=0.0)

# Roll by any number of columns; noise of up to 0.1 of a normalized log-mel (AudioSet's deviation: 4.4849), as released.
ROLL_AND_NOISE = AugmentConfig(roll=1024, noise=0.44849)
