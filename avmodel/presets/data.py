"""Data settings of the families that train on whole clips: ten seconds of Kaldi log-mels, with augmentation."""

from avmodel.configs.augment import AugmentConfig
from avmodel.configs.data import DataConfig

# A ten-second clip as 128 x 1024 Kaldi log-mels, stored (`avkit prepare --mel kaldi`) or made from the FLAC; a random
# frame of it. Which part of a frame a model sees is its family's.
WHOLE_CLIP = DataConfig(profile="kaldi", window_s=None, max_gain_db=0.0, min_area=1.0, flip_probability=0.0)

# Roll by any number of columns; noise of up to 0.1 of a normalized log-mel (AudioSet's deviation: 4.4849), as released.
ROLL_AND_NOISE = AugmentConfig(roll=1024, noise=0.44849)
