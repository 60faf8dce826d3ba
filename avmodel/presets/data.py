"""What the families that hear whole clips share: ten seconds of Kaldi spectrogram, and a little variation."""

from avmodel.configs.augment import AugmentConfig
from avmodel.configs.data import DataConfig

# A ten-second clip as 128 x 1024 Kaldi log-mels, stored (`avkit prepare --mel kaldi`) or made from the FLAC; a random
# frame of it, whole and squashed to a square, as CAV-MAE and AVSiam see it.
WHOLE_CLIP = DataConfig(profile="kaldi", window_s=None, max_gain_db=0.0, min_area=1.0, flip_probability=0.0)

# Rolled anywhere; noise of up to a tenth of AudioSet's deviation of 4.4849: a tenth of a normalized mel, as released.
ROLL_AND_NOISE = AugmentConfig(roll=1024, noise=0.44849)
