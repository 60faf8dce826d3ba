"""Loads shards as batches: `open_dataset` finds the samples, `Loader` iterates over batches of them."""

from typing import TYPE_CHECKING, Any

from avdata.dataset import Dataset, Part, balanced, each_frame, relabel, select, unite
from avdata.load.batch import ArrayBatch
from avdata.load.cache import CacheConfig
from avdata.load.decode import StoredSample
from avdata.load.loader import DataLoaderLike, Loader, LoaderConfig, LoaderStats, evaluation_config
from avdata.load.mixture import Amount, described_parts, is_mixture, mix, open_mixture, source_of
from avdata.load.open import describe_dataset, is_folder, manifest_rows, open_dataset, splits_of
from avdata.load.order import LoaderState, OrderConfig
from avdata.load.sample import Sample
from avdata.load.views import AllFramesView, BatchArray, ClipView, EvalView, FunctionView, TrainView, View
from avdata.members import MemberMap

if TYPE_CHECKING:
    from avdata.load.tensors import Batch

__all__ = [
    "AllFramesView",
    "Amount",
    "ArrayBatch",
    "Batch",
    "BatchArray",
    "CacheConfig",
    "ClipView",
    "DataLoaderLike",
    "Dataset",
    "EvalView",
    "FunctionView",
    "Loader",
    "LoaderConfig",
    "LoaderState",
    "LoaderStats",
    "MemberMap",
    "OrderConfig",
    "Part",
    "Sample",
    "StoredSample",
    "TrainView",
    "View",
    "balanced",
    "describe_dataset",
    "described_parts",
    "each_frame",
    "evaluation_config",
    "is_folder",
    "is_mixture",
    "manifest_rows",
    "mix",
    "open_dataset",
    "open_mixture",
    "relabel",
    "select",
    "source_of",
    "splits_of",
    "unite",
]


def __getattr__(name: str) -> Any:
    """Import `Batch` on first use: it needs torch, which is an optional dependency."""
    if name == "Batch":
        from avdata.load.tensors import Batch  # noqa: PLC0415

        return Batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
