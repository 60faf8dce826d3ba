"""Settings that several configs have, and their choices."""

from typing import Annotated

from avmanifest.settings import Bounds

WEIGHTS = (MODEL_WEIGHTS, EMA_WEIGHTS) = ("model", "ema")  # which of a checkpoint are evaluated and applied
Weights = Annotated[str, "The weights as trained, or their moving average, of a run with ema_decay.", WEIGHTS]
Device = Annotated[str, "auto, cpu, cuda or cuda:1."]
DeviceBatchSize = Annotated[int, "Samples that one device takes at once, at most; more become micro-steps.", Bounds(1)]
Epochs = Annotated[int, "Passes over the training data.", Bounds(1)]
DropPath = Annotated[float, "Probability of dropping each residual branch of a block in training.", Bounds(0, 0.99)]
ENCODINGS = ("together", "alone")  # of image and audio
