"""Share of a clip's sound in which somebody speaks, by the voice activity detector of silero-vad.

The wheel of silero-vad holds the network and its weights. onnxruntime computes it: importing silero_vad itself would
import torch, which takes each process a second and a gigabyte of address space.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from avdata.samples import Samples
from avmanifest.errors import ConfigError
from avmanifest.extras import naming_extras

WINDOW: int = 512
"""Samples of which one probability is computed: 32 ms at 16 kHz."""

_CONTEXT = 64  # samples before each window that the network sees, too
_BLOCK = 512  # windows that are computed at a time
_NETWORK = "silero_vad_16k_sequence.onnx"  # takes all windows of a block; the results are those of one after the other


def speech_probabilities(samples: Samples) -> Float32[np.ndarray, " n"]:
    """Probability of speech in each window of 32 ms, 0 to 1; the last window is filled with zeros.

    Args:
        samples: From -1 to 1, 16 kHz.

    Raises:
        ConfigError: silero-vad or onnxruntime is not installed.
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


@lru_cache(maxsize=1)
def _session() -> Any:
    """The network, on one thread."""
    with naming_extras():
        import onnxruntime  # noqa: PLC0415 - an extra

        spec = find_spec("silero_vad")  # finds the folder; the package itself would import torch
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("no silero_vad", name="silero_vad")
    path = Path(spec.origin).parent / "data" / _NETWORK
    if not path.is_file():
        raise ConfigError(f"{path}: not there. The step speech needs silero-vad 6.2.3 or newer; update it.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
