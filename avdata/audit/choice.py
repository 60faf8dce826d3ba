"""Which clips a page holds: samples drawn over the whole dataset by a seed, and the clips without one."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from avdata.audit.dataset import AuditDataset
from avmanifest.columns import flags, joined
from avmanifest.wording import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The clips of a page: places in the rows of all splits, in the order of the manifests."""

    failed: Int[np.ndarray, " f"]
    samples: Int[np.ndarray, " n"]
    whole: Int[np.ndarray, " w"]  # samples that are shown with all frames and sound
    num_failed: int  # in the dataset
    num_samples: int
    seed: int

    @property
    def rows(self) -> Int[np.ndarray, " r"]:
        """All of them, in the order of the manifests."""
        return np.sort(np.concatenate([self.failed, self.samples]))

    def said(self) -> str:
        """How the clips were chosen, in a few sentences."""
        return f"{self._said_samples()} {self._said_failed()}".strip()

    def _said_samples(self) -> str:
        if not self.num_samples:
            return ""
        if len(self.samples) == self.num_samples:
            text = _all(self.num_samples, "sample")
        else:
            text = f"{len(self.samples):,} of {counted(self.num_samples, 'sample')}, {self._drawn(len(self.samples))}"
        if len(self.whole) in (0, len(self.samples)):
            return f"{text}."
        how = "drawn of them likewise" if len(self.samples) < self.num_samples else self._drawn(len(self.whole))
        return f"{text}; {len(self.whole):,}, {how}, with all frames and sound, the others as thumbnails."

    def _drawn(self, count: int) -> str:
        return (
            f"drawn with seed {self.seed} (one of each of {count:,} equal stretches of the manifest; up to a "
            "quarter of samples with a flag)"
        )

    def _said_failed(self) -> str:
        if not self.num_failed:
            return ""
        if len(self.failed) == self.num_failed:
            return f"{_all(self.num_failed, 'clip')} without a sample."
        return f"The first {len(self.failed):,} of {self.num_failed:,} clips without a sample."


def _all(count: int, noun: str) -> str:
    return f"All {counted(count, noun)}" if count > 1 else f"The one {noun}"


def all_rows(dataset: AuditDataset) -> pa.Table:
    """The rows of all splits, one after the other."""
    return joined(content.table for content in dataset.splits.values())


def choose(
    table: pa.Table, dataset: AuditDataset, *, num_samples: int, num_whole: int, most_failures: int, seed: int
) -> Choice:
    """Choose the clips of a page.

    Args:
        table: The rows of all splits, from `all_rows`.
        dataset: The dataset, for its flags.
        num_samples: Samples, at most.
        num_whole: How many of them are shown with all frames and sound.
        most_failures: Clips without a sample, at most: the first ones.
        seed: Of the draw.
    """
    is_ok = pc.equal(table.column("status"), "ok").to_numpy(zero_copy_only=False).astype(bool)
    flagged = np.zeros(len(table), bool)
    for flag in flags(dataset.columns):
        flagged |= pc.fill_null(table.column(flag.name), False).to_numpy().astype(bool)
    places, failed = np.flatnonzero(is_ok), np.flatnonzero(~is_ok)
    samples = drawn(places, flagged[places], num_samples, seed)
    return Choice(
        failed=failed[:most_failures],
        samples=samples,
        whole=drawn(samples, flagged[samples], min(num_whole, len(samples)), seed),
        num_failed=len(failed),
        num_samples=len(places),
        seed=seed,
    )


def drawn(places: Int[np.ndarray, " n"], flagged: np.ndarray, count: int, seed: int) -> Int[np.ndarray, " m"]:
    """`count` of the places, one of each of as many equal stretches; up to a quarter is drawn of the flagged ones."""
    generator = np.random.default_rng(seed)
    chosen = _one_a_stretch(places[flagged], count // 4, generator)
    rest = np.setdiff1d(places, chosen)
    return np.sort(np.concatenate([chosen, _one_a_stretch(rest, count - len(chosen), generator)]))


def _one_a_stretch(places: Int[np.ndarray, " n"], count: int, generator: np.random.Generator) -> Int[np.ndarray, " m"]:
    if count >= len(places) or not count:
        return places[: len(places) if count else 0]
    edges = np.linspace(0, len(places), count + 1).round().astype(np.int64)
    return np.asarray(places[generator.integers(edges[:-1], edges[1:])])
