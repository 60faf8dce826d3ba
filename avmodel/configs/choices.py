"""Choices of settings that several configs have."""

from typing import Annotated

WEIGHTS = (MODEL_WEIGHTS, EMA_WEIGHTS) = ("model", "ema")  # which of a checkpoint are evaluated and applied
Weights = Annotated[str, "The weights as trained, or their moving average, of a run with ema_decay.", WEIGHTS]
Device = Annotated[str, "auto, cpu, cuda or cuda:1."]
ENCODINGS = ("together", "alone")  # of image and audio
