"""Mixtures: several datasets, and how much of each is in an epoch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from avdata.dataset import Dataset, Part, balanced, require_unmixed, unite
from avdata.load.open import is_folder, open_dataset
from avdata.urls import local_path
from avmanifest.errors import ConfigError
from avmanifest.files import sha256_of
from avmanifest.keys import subset_id
from avmanifest.secrets import shown_url

_NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf|infinity)"
_AMOUNT: Final = re.compile(rf"(?P<number>{_NUMBER})(?P<unit>x|/epoch)?", re.IGNORECASE)
_FORMS: Final = "a share such as 0.7, a number of repeats such as 2x, or a number of samples such as 5000/epoch"


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of a dataset is in an epoch.

    `share`: of the epoch, relative to the shares of the others. `repeats`: how often each sample comes, such as 2 or
    0.5. `samples`: their number.
    """

    kind: Literal["share", "repeats", "samples"]
    number: float

    def __post_init__(self) -> None:
        if not (0 < self.number < math.inf) or (self.kind == "samples" and self.number != int(self.number)):
            whole = "a whole number above 0" if self.kind == "samples" else "above 0 and finite"
            raise ConfigError(f"{self.kind} {self.number:g} of a dataset in a mixture: must be {whole}")

    @classmethod
    def of(cls, value: "float | str | Amount") -> "Amount":
        """The amount that a number (a share) or a text such as `0.7`, `2x` or `5000/epoch` says.

        Raises:
            ConfigError: It is none, or not above 0.
        """
        if isinstance(value, Amount):
            return value
        if not isinstance(value, str):
            return cls("share", float(value))
        found = _AMOUNT.fullmatch(value.strip())
        if found is None:
            raise ConfigError(f"{value!r} is no amount of a dataset: give {_FORMS}")
        unit = (found["unit"] or "").lower()
        return cls("repeats" if unit == "x" else "samples" if unit else "share", float(found["number"]))


class Entry(NamedTuple):
    """A dataset of a mixture as it is named: folder or shard URLs, and how much of it; None: nothing was said."""

    source: str
    amount: Amount | None

    @property
    def name(self) -> str:
        """The source without its secrets."""
        return shown_url(self.source)


def read_entry(text: str) -> Entry:
    """Read `SOURCE` or `SOURCE=AMOUNT`, such as `data/vggsound=0.7`, `data/music=2x` or `data/as=5000/epoch`.

    A folder or file whose name ends like an amount is a source, and so is a URL whose query ends so.

    Raises:
        ConfigError: The amount is not above 0, or what follows the last `=` of an existing folder's name is no amount.
    """
    source, equals, amount = text.rpartition("=")
    path = local_path(text)
    if not equals or not source or (path is not None and _exists(path)):
        return Entry(text, None)
    parameter = re.split(r"[?&]", source)[-1]
    if "?" in source and "=" not in parameter:
        return Entry(text, None)
    if _AMOUNT.fullmatch(amount.strip()) is None:
        before = local_path(source)
        if before is not None and before.is_dir():
            raise ConfigError(f"{shown_url(text)}: {amount!r} is no amount of {shown_url(source)}. Give {_FORMS}.")
        return Entry(text, None)
    try:
        return Entry(source, Amount.of(amount))
    except ConfigError as error:
        raise ConfigError(f"{shown_url(text)}: {error}") from error


def is_mixture(entries: Sequence[str]) -> bool:
    """Whether an amount of one of these datasets is given."""
    return any(read_entry(entry).amount is not None for entry in entries)


def source_of(entry: str) -> str:
    """The folder or URL of an entry, without its amount."""
    return read_entry(entry).source


def open_mixture(
    entries: Sequence[str],
    split: str | Sequence[str] | None = None,
    *,
    epoch_samples: int | None = None,
    class_balanced: bool = False,
    **options: Any,
) -> Dataset:
    """Open the datasets that texts such as `data/vggsound=0.7` name, and mix them.

    Args:
        entries: See `read_entry`. Without any amount, all samples of all datasets come once per epoch. Where others
            have repeats or numbers of samples, a dataset without an amount comes once (1x).
        split: Split or splits of the datasets that are folders; see `open_dataset`. Several are one dataset, in which
            each has the share of its size. Aliases are each dataset's own.
        epoch_samples: See `mix`. Without any amount, each dataset has the share of its size.
        class_balanced: Draw the samples of each dataset by the weights of `balanced`.
        options: Further arguments of `open_dataset`.

    Raises:
        ConfigError: A dataset is named twice, or as `mix` and `open_dataset`.
    """
    read = [read_entry(entry) for entry in entries]
    if not read:
        raise ConfigError("a mixture of no dataset. Name at least one.")
    places = [str(Path(entry.source).resolve()) if local_path(entry.source) else entry.source for entry in read]
    if twice := next((entry.name for entry, place in zip(read, places, strict=True) if places.count(place) > 1), None):
        raise ConfigError(f"{twice} is named twice. Name it once, with a greater share or with repeats such as =2x.")
    datasets = [open_dataset(entry.source, split if is_folder(entry.source) else None, **options) for entry in read]
    if class_balanced:
        datasets = [_balanced(dataset, entry.name) for dataset, entry in zip(datasets, read, strict=True)]
    kinds = {None if entry.amount is None else entry.amount.kind for entry in read}
    lacking = [entry.name for entry in read if entry.amount is None]
    if "share" in kinds and lacking:
        raise ConfigError(f"{', '.join(lacking)}: no share, but others have one. Give one to each, such as =0.5.")
    as_they_are = kinds == {None} and epoch_samples is not None
    amounts = [
        entry.amount or (Amount("share", float(len(dataset))) if as_they_are else Amount("repeats", 1.0))
        for entry, dataset in zip(read, datasets, strict=True)
    ]
    names = [entry.name for entry in read]
    return mix(list(zip(datasets, amounts, strict=True)), epoch_samples=epoch_samples, names=names)


def mix(
    datasets: Sequence[tuple[Dataset, float | str | Amount]],
    *,
    epoch_samples: int | None = None,
    names: Sequence[str] | None = None,
) -> Dataset:
    """Combine datasets, with a given number of samples of each in every epoch.

    The numbers are the same in every epoch. Of each dataset, the samples come equally often: in any e consecutive
    epochs with d of n samples each comes e * d / n times, rounded up or down; so a subsampled dataset is passed
    through from end to end. With weights (`balanced`), a sample comes d * weight / (sum of weights) times an epoch,
    randomly rounded up or down. Within an epoch the datasets are merged evenly. Classes are merged by name.

    Args:
        datasets: (dataset, amount): a share relative to the other shares, `"2x"` for each sample twice, or
            `"5000/epoch"` for so many samples.
        epoch_samples: Samples of an epoch, to which shares refer; None: as many as all datasets have together.
        names: A name for each, for messages and records; None: their numbers.

    Raises:
        ConfigError: The list is empty, a dataset is in it twice, an amount is not above 0 or gives no sample, or shares
            stand beside other amounts.

    Example:
        ```python
        mixed = mix([(open_dataset("data/vggsound"), 0.7), (open_dataset("data/audioset"), 0.3)])
        ```
    """
    if not datasets:
        raise ConfigError("a mixture of no dataset. Give at least one.")
    if epoch_samples is not None and epoch_samples < 1:
        raise ConfigError(f"data.epoch_samples={epoch_samples}: must be 1 or more")
    names = [str(number) for number in range(len(datasets))] if names is None else names
    parts, amounts = [dataset for dataset, _ in datasets], [Amount.of(amount) for _, amount in datasets]
    for part in parts:
        require_unmixed(part, "a mixture")
    _require_distinct(parts, names)
    if any(amount.kind == "share" for amount in amounts):
        if any(amount.kind != "share" for amount in amounts):
            raise ConfigError("shares stand beside repeats or numbers of samples. Give all datasets shares, or none.")
        drawn = _apportioned([amount.number for amount in amounts], epoch_samples or sum(map(len, parts)))
    else:
        if epoch_samples is not None:
            raise ConfigError(
                f"data.epoch_samples={epoch_samples}: repeats and numbers of samples fix the length of an epoch. Give "
                "shares, or leave data.epoch_samples out."
            )
        drawn = [
            round(amount.number * len(part)) if amount.kind == "repeats" else int(amount.number)
            for part, amount in zip(parts, amounts, strict=True)
        ]
    for name, count in zip(names, drawn, strict=True):
        if not count:
            raise ConfigError(f"{name}: no sample of it would be in an epoch of {sum(drawn)}. Give it a greater share.")
    weights = None
    if any(part.weights is not None for part in parts):
        weights = np.concatenate([np.ones(len(part)) if part.weights is None else part.weights for part in parts])
    return replace(
        unite(parts),
        weights=weights,
        parts=tuple(Part(name, len(part), count) for name, part, count in zip(names, parts, drawn, strict=True)),
    )


def described_parts(dataset: Dataset, name: str = "") -> list[dict[str, Any]]:
    """What a record of a training keeps of each part of its data: name, subset id, shards, samples, samples per epoch.

    Args:
        dataset: The mixture, or a dataset, which is one part.
        name: Name of a dataset that is no mixture.
    """
    return [
        {
            "name": part.name or name,
            "subset_id": subset_id(dataset.keys[rows]),
            "shards_sha256": _shards_sha256(dataset, rows),
            "samples": part.samples,
            "epoch_samples": part.drawn,
        }
        for part, rows in dataset.rows_of_parts()
    ]


def _shards_sha256(dataset: Dataset, rows: slice) -> str:
    """A hash of the bytes of the shards that have these rows; empty if those of one are not known."""
    found = [dataset.shards[number].sha256 for number in np.unique(dataset.shard_of[rows]).tolist()]
    return sha256_of("".join(map(str, found))) if all(found) else ""


def _balanced(dataset: Dataset, name: str) -> Dataset:
    try:
        return balanced(dataset)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _apportioned(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers whose sum is `total`, in proportion to the shares: each rounded down, or up where most is lost."""
    exact = np.array(shares) / max(shares)
    exact *= total / exact.sum()
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return [int(count) for count in counts]


def _require_distinct(datasets: Sequence[Dataset], names: Sequence[str]) -> None:
    """Raise ConfigError if two of the datasets have a shard in common."""
    owner: dict[str, int] = {}
    for number, dataset in enumerate(datasets):
        for shard in dataset.shards:
            if (other := owner.setdefault(shard.url, number)) != number:
                raise ConfigError(
                    f"shard {shard.name} is in two datasets of the mixture, {names[other]} and {names[number]}: its "
                    "samples would come more often than the amounts say. Give a dataset once, with a greater amount."
                )
