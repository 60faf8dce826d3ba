"""Shards to batches."""

from avdata.load.batch import Batch
from avdata.load.cache import CacheConfig
from avdata.load.index import Dataset, balanced, mix, unite
from avdata.load.loader import Loader, LoaderConfig, LoaderStats, evaluation_config
from avdata.load.members import MemberMap
from avdata.load.opening import is_folder, open_dataset
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
    "evaluation_config",
    "is_folder",
    "mix",
    "open_dataset",
    "unite",
]
