"""avkit from Python: prepare videos, read datasets, embed clips.

    import avkit

    report = avkit.prepare("folder", source="local:my_videos", out="data/mine")
    dataset = avkit.open_dataset("data/mine", where="not silent")
    model = avkit.load_model("runs/first")
    vectors = model.embed("clip.mp4")

Importing this package imports nothing else: each name is imported on first use, and torch when a model is loaded or
batches of tensors are asked for. All errors raised on purpose are `AvkitError`s. docs/python.md describes all names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avdata.load.sample import Sample as Sample
    from avdata.prepare.report import PrepareReport as PrepareReport
    from avkit.clips import ClipWindow as ClipWindow
    from avkit.clips import windows as windows
    from avkit.data import Dataset as Dataset
    from avkit.data import open_dataset as open_dataset
    from avkit.models import Embeddings as Embeddings
    from avkit.models import Model as Model
    from avkit.models import load_model as load_model
    from avkit.preparing import prepare as prepare
    from avmanifest.errors import AvkitError as AvkitError
    from avmanifest.errors import CheckpointError as CheckpointError
    from avmanifest.errors import ConfigError as ConfigError
    from avmanifest.errors import DamagedMember as DamagedMember
    from avmanifest.errors import DecodeError as DecodeError
    from avmanifest.errors import DivergedError as DivergedError
    from avmanifest.errors import DownloadError as DownloadError
    from avmanifest.errors import ManifestError as ManifestError
    from avmanifest.errors import MediaError as MediaError
    from avmanifest.errors import MissingSplit as MissingSplit
    from avmanifest.errors import ShardError as ShardError
    from avmanifest.errors import StorageError as StorageError

    __version__: str

_ERRORS = (
    "AvkitError", "CheckpointError", "ConfigError", "DamagedMember", "DecodeError", "DivergedError", "DownloadError",
    "ManifestError", "MediaError", "MissingSplit", "ShardError", "StorageError",
)  # fmt: skip
_HOMES = {
    **dict.fromkeys(_ERRORS, "avmanifest.errors"),
    "ClipWindow": "avkit.clips",
    "Dataset": "avkit.data",
    "Embeddings": "avkit.models",
    "Model": "avkit.models",
    "PrepareReport": "avdata.prepare.report",
    "Sample": "avdata.load.sample",
    "load_model": "avkit.models",
    "open_dataset": "avkit.data",
    "prepare": "avkit.preparing",
    "windows": "avkit.clips",
}

__all__ = ["__version__"]
__all__ += list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a name on first use."""
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("avkit")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        like = "" if name.startswith("_") else import_module("avmanifest.names").did_you_mean(name, _HOMES)
        raise AttributeError(f"module 'avkit' has no attribute {name!r}{like}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
