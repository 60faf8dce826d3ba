"""Shards to batches."""

from avdata.load.batch import Batch
from avdata.load.cache import CacheConfig
from avdata.load.index import Dataset, balanced, each_frame, mix, relabel, select, unite
from avdata.load.loader import Loader, LoaderConfig, LoaderStats, evaluation_config
from avdata.load.members import MemberMap
from avdata.load.opening import describe_dataset, is_folder, manifest_rows, open_dataset
from avdata.load.order import LoaderState, OrderConfig
from avdata.load.views import AllFramesView, EvalView, TrainView, View

__all__ = [
    "AllFramesView",
    "Batch",
    "CacheConfig",
    "Dataset",
    "EvalView",
    "Loader",
    "LoaderConfig",
    "LoaderState",
    "LoaderStats",
    "MemberMap",
    "OrderConfig",
    "TrainView",
    "View",
    "balanced",
    "describe_dataset",
    "each_frame",
    "evaluation_config",
    "is_folder",
    "manifest_rows",
    "mix",
    "open_dataset",
    "relabel",
    "select",
    "unite",
]
