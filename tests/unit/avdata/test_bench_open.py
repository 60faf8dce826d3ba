"""The benchmark of opening a dataset, on few samples."""

import pytest

from avdata.load.bench_open import OpenBench, bench_open
from avmanifest.errors import ConfigError


@pytest.mark.slow
@pytest.mark.parametrize("manifest", [True, False])
def test_every_way_to_open_is_measured(manifest: bool) -> None:
    found = bench_open(OpenBench(samples=500, frames=2, shard_samples=50, batches=2, manifest=manifest))
    ways = ("manifest", "build", "index") if manifest else ("index",)
    assert {f"{way}_{figure}" for way in ways for figure in ("s", "processor_s", "mb", "peak_mb")} <= found.keys()
    assert ("manifest_s" in found) == manifest
    assert found["samples"] == 500


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be 1 or more"):
        OpenBench(samples=0)
