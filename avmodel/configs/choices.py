"""Choices of settings that several configs have."""

WEIGHTS = (MODEL_WEIGHTS, EMA_WEIGHTS) = ("model", "ema")  # which of a checkpoint are evaluated and applied
ENCODINGS = ("together", "alone")  # of image and audio
