"""The libraries that optional extras of avkit install, and the error when one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Final

from avmanifest.errors import ConfigError

EXTRA_OF: Final = {
    **dict.fromkeys(
        ("einops", "huggingface_hub", "safetensors", "scipy", "sklearn", "tensorboard", "timm", "torch", "torchaudio"),
        "train",
    ),
    **dict.fromkeys(("torchvision", "webdataset"), "interop"),
    **{name: name for name in ("trackio", "wandb")},
    **dict.fromkeys(("onnx", "onnxscript"), "onnx"),
    **dict.fromkeys(("onnxruntime", "scenedetect", "silero_vad"), "steps"),
}
"""Import name of a library -> the extra that installs it."""


@contextmanager
def naming_extras() -> Iterator[None]:
    """Convert the failed import of a library in EXTRA_OF into a ConfigError that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRA_OF:
            raise
        raise ConfigError(
            f"this needs {library}, which is not installed. Install it with pip install 'avkit[{EXTRA_OF[library]}]'."
        ) from error


def require_extras(*libraries: str) -> None:
    """Raise ConfigError, as `naming_extras` does, if a library is not installed. None is imported."""
    with naming_extras():
        for library in libraries:
            if find_spec(library) is None:
                raise ModuleNotFoundError(f"No module named {library!r}", name=library)
