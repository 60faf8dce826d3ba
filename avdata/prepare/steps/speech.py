"""Share of a clip's sound in which somebody speaks, by the voice activity detector of silero-vad.

The wheel of silero-vad holds the network and its weights. onnxruntime computes it: importing silero_vad itself would
import torch, which takes each process a second and a gigabyte of address space.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from avdata.prepare.steps.step import Clip, Need, StepResult, outside
from avdata.samples import Samples
from avmanifest.columns import Column
from avmanifest.errors import ConfigError
from avmanifest.extras import require_extras
from avmanifest.settings import SHARE, check

WINDOW: int = 512
"""Samples of which one probability is computed: 32 ms at 16 kHz."""

_CONTEXT = 64  # samples before each window that the network sees, too
_BLOCK = 512  # windows that are computed at a time
_NETWORK = "silero_vad_16k_sequence.onnx"  # takes all windows of a block; the results are those of one after the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """How much of the sound is speech."""

    name: ClassVar[str] = "speech"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            name="speech_share",
            dtype=pa.float64(),
            meaning="share of the windows of 32 ms whose probability of speech is `threshold` or more, 0 to 1",
            title="Share of speech",
        ),
    )
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("waveform",)

    threshold: Annotated[float, "Probability of speech.", SHARE] = 0.5
    min_share: Annotated[float | None, "Drop clips with less speech.", SHARE] = None
    max_share: Annotated[float | None, "Drop clips with more speech.", SHARE] = None

    def __post_init__(self) -> None:
        check(self, "speech:")
        _network_path()

    def run(self, clip: Clip) -> StepResult:
        """Measure the share."""
        probabilities = speech_probabilities(clip.waveform)
        share = float((probabilities >= self.threshold).mean()) if len(probabilities) else 0.0
        values = {"speech_share": share}
        return StepResult(values=values, dropped=outside(values, speech_share=(self.min_share, self.max_share)))


def speech_probabilities(samples: Samples) -> Float32[np.ndarray, " n"]:
    """Probability of speech in each window of 32 ms, 0 to 1; the last window is filled with zeros.

    Args:
        samples: From -1 to 1, 16 kHz.
    """
    session = _session()
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    found, context = [np.zeros(0, np.float32)], np.zeros(_CONTEXT, np.float32)
    for start in range(0, len(samples), _BLOCK * WINDOW):
        block = samples[start : start + _BLOCK * WINDOW]
        block = np.concatenate([context, block, np.zeros(-len(block) % WINDOW, np.float32)])
        windows = np.lib.stride_tricks.sliding_window_view(block, _CONTEXT + WINDOW)[::WINDOW]
        context = block[-_CONTEXT:]
        inputs = {"input": np.ascontiguousarray(windows), "h": hidden, "c": cell}
        probabilities, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
        found.append(probabilities.reshape(-1))
    return np.concatenate(found)


def _network_path() -> Path:
    """The file of the network. Raises ConfigError if a library is missing or too old; none is imported."""
    require_extras("onnxruntime", "silero_vad")
    spec = find_spec("silero_vad")
    assert spec is not None and spec.origin is not None, "it was found above"
    path = Path(spec.origin).parent / "data" / _NETWORK
    if not path.is_file():
        raise ConfigError(f"{path}: not there. The step speech needs silero-vad 6.2.3 or newer; update it.")
    return path


@lru_cache(maxsize=1)
def _session() -> Any:
    """The network, on one thread."""
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(_network_path()), options, providers=["CPUExecutionProvider"])
