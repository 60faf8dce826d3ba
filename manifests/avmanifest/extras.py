"""The libraries that an extra of avkit brings, and what is said when one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from avmanifest.errors import ConfigError

EXTRA_OF: Final = {
    **dict.fromkeys(
        ("einops", "safetensors", "scipy", "sklearn", "tensorboard", "timm", "torch", "torchaudio"),
        "train",
    ),
    **dict.fromkeys(("torchvision", "webdataset"), "interop"),
}
"""Import name of a library -> the extra it comes with."""


@contextmanager
def naming_extras() -> Iterator[None]:
    """Turn the failed import of such a library into a ConfigError that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRA_OF:
            raise
        raise ConfigError(
            f"this needs {library}, which is not installed. It comes with pip install 'avkit[{EXTRA_OF[library]}]'."
        ) from error
