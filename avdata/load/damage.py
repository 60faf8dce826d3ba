"""Damaged samples of a rank's epoch: they are logged, counted, and bounded to a share of the epoch."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from avdata.dataset import Dataset
from avmanifest.errors import ShardError

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that could not be read into a row of a batch, and why."""

    row: int
    sample: int
    key: str
    error: ShardError


class DamageCount:
    """Counts the damaged samples of an epoch, each once.

    Args:
        max_share: Share of the samples that may be damaged. Above 0 one sample always may be.
        num_samples: Samples of an epoch that this rank reads.
    """

    def __init__(self, max_share: float, num_samples: float) -> None:
        self._max_share = max_share
        self._per_epoch = num_samples
        self.begin(0)

    def begin(self, epoch: int, left: float | None = None) -> None:
        """Count from 0 on in an epoch of which `left` samples are still to be read; None: all.

        The share is one of these: what was damaged before a resume is not known any more.
        """
        self._epoch, self._seen = epoch, set[int]()
        self._num_samples = self._per_epoch if left is None else left
        self._most = max(1, math.floor(self._max_share * self._num_samples + 1e-9)) if self._max_share else 0

    def add(self, epoch: int, bad: Sequence[BadSample], replaced_by: Sequence[str | None]) -> int:
        """Log and count the damaged samples of a batch.

        Args:
            epoch: The epoch of the batch. A new epoch is counted from 0.
            bad: The samples.
            replaced_by: Key of the sample that now is in each row of the batch; None: no sample is.

        Returns:
            How many of them this epoch did not have before.

        Raises:
            ShardError: More samples of the epoch are damaged than may be.
        """
        if self._epoch != epoch:
            self.begin(epoch)
        new = {one.sample: one for one in bad if one.sample not in self._seen}
        for one in new.values():
            other = replaced_by[one.row]
            instead = "" if other is None else f" {other} takes its place."
            _LOG.warning("skipped: %s: %s%s", one.key, one.error, instead)
        self._seen.update(new)
        if len(self._seen) > self._most:
            rest = "" if self._num_samples == self._per_epoch else "the rest of "
            raise ShardError(
                f"{len(self._seen)} of {self._num_samples:.0f} samples of {rest}an epoch are damaged, more than "
                f"data.max_bad_share={self._max_share} allows; the last one: {bad[-1].error} Look at the dataset with "
                "`avkit verify --deep`, or raise data.max_bad_share."
            )
        return len(new)


def excluded_samples(dataset: Dataset, keys: Sequence[str]) -> Bool[np.ndarray, " n"] | None:
    """Whether each sample has one of the keys; None: no sample has. Keys that no sample has are logged."""
    if not keys:
        return None
    excluded = pc.is_in(dataset.keys, value_set=pa.array(keys, dataset.keys.type)).to_numpy(zero_copy_only=False)
    if unknown := set(keys) - set(dataset.keys.filter(pa.array(excluded)).to_pylist()):
        _LOG.warning("exclude_keys: %d of %d keys are in no sample, such as %r", len(unknown), len(keys), min(unknown))
    return np.asarray(excluded) if excluded.any() else None
