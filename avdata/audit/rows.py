"""The clips of a dataset as arrays that are searched, filtered and sorted: what pages of clips ask.

The page's script answers the same queries on the rows that a page holds (`avdata/draw/js/local.js`), in the same order.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int

from avdata.audit.maps import Maps
from avdata.audit.summary import histogram_range
from avmanifest.columns import Column, flags, measured
from avmanifest.errors import ConfigError
from avmanifest.parsing import parse_object
from avmanifest.schema import StatusClass, find_status, status_meaning

BINS: Final = 40
"""Bars of a histogram; a brush chooses whole bars."""

FAILED: Final = -1
"""In place of the number of a status: every clip that is no sample."""

MOST_LABELS: Final = 2000
"""Labels that a list to choose from has, at most: the most frequent ones."""

MOST_ROWS: Final = 500
"""Rows of an answer, at most."""

_RANKS: Final = {
    StatusClass.BUG: 0, StatusClass.TRANSIENT: 1, StatusClass.PERMANENT: 2, StatusClass.FILTERED: 3,
    StatusClass.REMOVED: 4, StatusClass.OK: 6,
}  # fmt: skip
_UNKNOWN_RANK: Final = 5
_SORTS: Final = ("status", "key", "split", "labels", "flags")
_LONGEST_TEXT: Final = 1000
_MOST_WORDS: Final = 20
_BETWEEN: Final = "\x01"  # in a line that is searched, so that no word is found across two columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """A rectangle on a map, in its coordinates from 0 to 1, both ends included."""

    stream: int
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which clips are asked for, and which of them are shown. Numbers are places in the lists of `ClipRows.choices`."""

    text: str = ""  # words, all of which stand in key, video, labels, status, reason or source; case does not matter
    status: int | None = None  # FAILED: every status but ok
    split: int | None = None
    flag: int | None = None
    label: int | None = None
    bins: tuple[tuple[int, int, int], ...] = ()  # measured column, first bar, last bar
    area: Area | None = None
    sort: str | int = "status"  # one of _SORTS, or a measured column; by status: failures first
    descending: bool = False
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True, slots=True)
class _Measured:
    """A measured column: its values (NaN: none), and the bar of each (-1: none)."""

    column: Column
    values: Float64[np.ndarray, " n"]
    bars: Int[np.ndarray, " n"]
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.column.title,
            "unit": self.column.unit,
            "low": self.low,
            "high": self.high,
            "counts": np.bincount(self.bars[self.bars >= 0], minlength=BINS).tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class ClipRows:
    """Clips as arrays.

    Args:
        table: Rows of a manifest, with at least the columns that an `AuditDataset` keeps.
        columns: What is known of the columns.
        maps: Maps of features; None: there are none.
    """

    table: pa.Table = field(repr=False)
    columns: Sequence[Column] = field(repr=False)
    maps: Maps | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def with_maps(self, maps: Maps | None) -> "ClipRows":
        """The same rows with maps."""
        return replace(self, maps=maps)

    def warm(self) -> None:
        """Make what the first query would wait for: the text that is searched, and the columns as arrays."""
        self.answer(Query(text="a", limit=0))

    @cached_property
    def statuses(self) -> list[str]:
        """The statuses that there are, those of failures first."""
        return sorted(_names(self._text("status")), key=lambda name: (_rank(name), name))

    @cached_property
    def splits(self) -> list[str]:
        """The splits, in the order of the rows."""
        return _names(self._text("split"))

    @cached_property
    def flag_names(self) -> list[str]:
        """The flags that are set somewhere."""
        return [flag.name for flag in flags(self.columns) if flag.name in self._flags]

    @cached_property
    def labels(self) -> list[str]:
        """The labels to choose from, by name: the MOST_LABELS most frequent ones."""
        counts = np.bincount(self._label_codes, minlength=len(self._label_names))
        most = np.argsort(-counts, kind="stable")[:MOST_LABELS]
        return sorted(self._label_names[place] for place in most.tolist())

    @cached_property
    def measured(self) -> list[_Measured]:
        """The measured columns that have values."""
        found = []
        for column in measured(self.columns):
            if column.name not in self.table.column_names:
                continue
            values = self.table.column(column.name).cast(pa.float64()).to_numpy().astype(np.float64, copy=True)
            values[~np.isfinite(values)] = np.nan
            known = ~np.isnan(values)
            if not known.any():
                continue
            low, high = histogram_range(values[known])
            bars = np.full(len(values), -1, np.int8)
            shares = (np.clip(values[known], low, high) - low) / ((high - low) or np.inf)
            bars[known] = np.minimum(np.floor(shares * BINS), BINS - 1)
            found.append(_Measured(column, values, bars, low, high))
        return found

    def choices(self) -> dict[str, Any]:
        """What can be chosen among, with counts, as the page's script reads it."""
        label_counts = dict(zip(self._label_names, np.bincount(self._label_codes, minlength=1).tolist(), strict=False))
        meanings = {column.name: column.meaning for column in self.columns}
        return {
            "bars": BINS,
            "statuses": [
                [name, count, status_meaning(name)]
                for name, count in zip(self.statuses, _counts(self._status_codes, self.statuses), strict=True)
            ],
            "ok": self.statuses.index("ok") if "ok" in self.statuses else None,
            "splits": [
                [name, count] for name, count in zip(self.splits, _counts(self._split_codes, self.splits), strict=True)
            ],
            "flags": [[name, int(self._flags[name].sum()), meanings.get(name, "")] for name in self.flag_names],
            "labels": [[name, label_counts[name]] for name in self.labels],
            "other_labels": len(self._label_names) - len(self.labels),
            "columns": [one.as_dict() for one in self.measured],
            "maps": None if self.maps is None else self.maps.as_dict(self._first_labels(self.maps.rows)),
            "total": len(self),
        }

    def _first_labels(self, places: Int[np.ndarray, " n"]) -> list[str]:
        lists = self.table.column("labels").take(pa.array(places, pa.int64())).to_pylist()
        return [str(labels[0] or "") if labels else "no label" for labels in lists]

    def answer(self, query: Query) -> dict[str, Any]:
        """The clips that a query asks for.

        Returns:
            total: Number of clips that meet the query.
            rows: `limit` of them from `offset` on, as `row_data` gives them.
            counts: For each measured column, the clips in each bar that meet all of the query but its own brush.
            mapped: For each point of the maps "1" if its clip meets the query, else "0".

        Raises:
            ConfigError: The query names a status, split, flag, label, column or map that there is not.
        """
        others = self._others(query)
        brushes = {place: self._brushed(place, first, last) for place, first, last in query.bins}
        holds = others.copy()
        for brush in brushes.values():
            holds &= brush
        order = self._order(query.sort, descending=query.descending)
        found = order[holds[order]]
        counts = []
        for place, one in enumerate(self.measured):
            rest = others.copy()
            for other, brush in brushes.items():
                if other != place:
                    rest &= brush
            bars = one.bars[rest]
            counts.append(np.bincount(bars[bars >= 0], minlength=BINS).tolist())
        shown = found[query.offset : query.offset + query.limit]
        return {
            "total": len(found),
            "rows": list(self.row_data(shown)),
            "counts": counts,
            "mapped": "" if self.maps is None else "".join("01"[int(is_met)] for is_met in holds[self.maps.rows]),
        }

    def row_data(self, places: Int[np.ndarray, " n"]) -> Iterator[list[Any]]:
        """Rows as the page's script reads them.

        Each is place, key, split, status, reason, video, source, labels, flags, and the values of the measured columns
        (empty if there is none). Splits, statuses and flags are places in `choices`.
        """
        part = self.table.select(["key", "reason", "video_id", "source", "labels"]).take(pa.array(places, pa.int64()))
        set_flags = [self._flags[name][places] for name in self.flag_names]
        numbers = [one.values[places] for one in self.measured]
        for at, (place, row) in enumerate(zip(places.tolist(), part.to_pylist(), strict=True)):
            values = [None if math.isnan(column[at]) else float(column[at]) for column in numbers]
            yield [
                place,
                row["key"] or "",
                int(self._split_codes[place]),
                int(self._status_codes[place]),
                row["reason"] or "",
                row["video_id"] or "",
                row["source"] or "",
                [label or "" for label in row["labels"] or []],
                [number for number, flag in enumerate(set_flags) if flag[at]],
                values if any(value is not None for value in values) else [],
            ]

    def _others(self, query: Query) -> Bool[np.ndarray, " n"]:
        """True for the clips that meet all of a query but its brushes."""
        holds = np.ones(len(self), bool)
        for word in query.text.lower().split()[:_MOST_WORDS]:
            holds &= pc.match_substring(self._lines, word).to_numpy(zero_copy_only=False)
        if query.status == FAILED:
            names = np.array([name != "ok" for name in self.statuses], bool)
            holds &= names[self._status_codes]
        elif query.status is not None:
            holds &= self._status_codes == _place(query.status, self.statuses, "status")
        if query.split is not None:
            holds &= self._split_codes == _place(query.split, self.splits, "split")
        if query.flag is not None:
            holds &= self._flags[self.flag_names[_place(query.flag, self.flag_names, "flag")]]
        if query.label is not None:
            name = self.labels[_place(query.label, self.labels, "label")]
            having = np.zeros(len(self), bool)
            having[self._label_rows[self._label_codes == self._label_names.index(name)]] = True
            holds &= having
        if query.area is not None:
            holds &= self._inside(query.area)
        return holds

    def _brushed(self, place: int, first: int, last: int) -> Bool[np.ndarray, " n"]:
        bars = self.measured[_place(place, self.measured, "measured column")].bars
        return np.asarray((bars >= max(first, 0)) & (bars <= last))

    def _inside(self, area: Area) -> Bool[np.ndarray, " n"]:
        streams = [] if self.maps is None else list(self.maps.streams.values())
        places = np.round(streams[_place(area.stream, streams, "map")], 4)
        assert self.maps is not None
        x, y = places.T
        inside = (x >= area.left) & (x <= area.right) & (y >= area.top) & (y <= area.bottom)
        found = np.zeros(len(self), bool)
        found[self.maps.rows[inside]] = True
        return found

    def _order(self, sort: str | int, *, descending: bool) -> Int[np.ndarray, " n"]:
        known = self._orders.get((sort, descending))
        if known is None:
            known = self._sorted(sort, descending=descending)
            if len(self._orders) > _MOST_ORDERS:
                self._orders.clear()
            self._orders[sort, descending] = known
        return known

    def _sorted(self, sort: str | int, *, descending: bool) -> Int[np.ndarray, " n"]:
        """Places of all clips in an order; equal ones as they stand, those without a value last."""
        if sort in ("key", "labels"):
            texts = self._text("key") if sort == "key" else self._joined_labels
            way = "descending" if descending else "ascending"
            return np.asarray(pc.array_sort_indices(texts, order=way).to_numpy(), np.int64)
        values: Float64[np.ndarray, " n"]
        if sort == "status":
            values = self._status_codes.astype(np.float64)
        elif sort == "split":
            values = self._split_codes.astype(np.float64)
        elif sort == "flags":
            values = np.sum([self._flags[name] for name in self.flag_names], axis=0, dtype=np.float64) + np.zeros(
                len(self)
            )
        elif isinstance(sort, int):
            values = self.measured[_place(sort, self.measured, "measured column")].values
        else:
            raise ConfigError(f"sort={sort!r} is not known; known: {', '.join(_SORTS)}, or the place of a column")
        return np.argsort(-values if descending else values, kind="stable")

    @cached_property
    def _orders(self) -> dict[tuple[str | int, bool], Int[np.ndarray, " n"]]:
        return {}

    def _text(self, name: str) -> pa.Array:
        """A column of texts, without nulls."""
        return _whole(pc.fill_null(self.table.column(name).cast(pa.large_string()), ""))

    @cached_property
    def _status_codes(self) -> Int[np.ndarray, " n"]:
        return _codes(self._text("status"), self.statuses)

    @cached_property
    def _split_codes(self) -> Int[np.ndarray, " n"]:
        return _codes(self._text("split"), self.splits)

    @cached_property
    def _flags(self) -> dict[str, Bool[np.ndarray, " n"]]:
        """The flags that are set somewhere, each with the clips that have it."""
        found = {}
        for flag in flags(self.columns):
            if flag.name in self.table.column_names:
                values = pc.fill_null(self.table.column(flag.name), False).to_numpy().astype(bool)
                if values.any():
                    found[flag.name] = values
        return found

    @cached_property
    def _label_lists(self) -> pa.LargeListArray:
        column = self.table.column("labels")
        return _whole(pc.fill_null(column.cast(pa.large_list(pa.large_string())), []))

    @cached_property
    def _label_rows(self) -> Int[np.ndarray, " m"]:
        return np.asarray(pc.list_parent_indices(self._label_lists).to_numpy())

    @cached_property
    def _encoded_labels(self) -> pa.DictionaryArray:
        return pc.fill_null(self._label_lists.flatten(), "").dictionary_encode()

    @property
    def _label_codes(self) -> Int[np.ndarray, " m"]:
        return np.asarray(self._encoded_labels.indices.to_numpy())

    @cached_property
    def _label_names(self) -> list[str]:
        names: list[str] = self._encoded_labels.dictionary.to_pylist()
        return names

    @cached_property
    def _joined_labels(self) -> pa.Array:
        """The labels of each clip as one text; null without labels, so that it is sorted last."""
        names = pc.fill_null(self._label_lists.flatten(), "")
        offsets = self._label_lists.offsets
        lists = pa.LargeListArray.from_arrays(pc.subtract(offsets, offsets[0]), names)
        texts = pc.binary_join(lists, pa.scalar(", ", pa.large_string()))
        return pc.if_else(pc.equal(pc.list_value_length(self._label_lists), 0), pa.scalar(None, texts.type), texts)

    @cached_property
    def _lines(self) -> pa.Array:
        """What is searched of each clip, in lower case."""
        parts = [self._text(name) for name in ("key", "video_id", "status", "reason", "source")]
        labels = pc.fill_null(self._joined_labels, "")
        return pc.utf8_lower(pc.binary_join_element_wise(*parts, labels, pa.scalar(_BETWEEN, pa.large_string())))


_MOST_ORDERS: Final = 6  # that are kept


def parse_query(text: str) -> Query:
    """The query of a JSON object with the fields of `Query`. Raises ConfigError for what is no query."""
    fields = parse_object(text, "the query", ConfigError)
    try:
        area = fields.get("area")
        return Query(
            text=_typed(fields.get("text", ""), str)[:_LONGEST_TEXT],
            status=_number(fields.get("status")),
            split=_number(fields.get("split")),
            flag=_number(fields.get("flag")),
            label=_number(fields.get("label")),
            bins=tuple(_bin(one) for one in _typed(fields.get("bins", []), list)),
            area=None if area is None else _area(area),
            sort=fields["sort"] if fields.get("sort") in _SORTS else _required(fields.get("sort")),
            descending=_typed(fields.get("descending", False), bool),
            offset=max(_required(fields.get("offset", 0)), 0),
            limit=min(max(_required(fields.get("limit", 50)), 0), MOST_ROWS),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the query: {error}") from error


def _typed(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{str(value)[:80]!r} is not {kind.__name__}")
    return value


def _required(value: Any) -> int:
    return int(_typed(value, int))


def _number(value: Any) -> int | None:
    return None if value is None else _required(value)


def _bin(value: Any) -> tuple[int, int, int]:
    place, first, last = map(_required, _typed(value, list))
    return place, first, last


def _area(value: Any) -> Area:
    stream, *ends = _typed(value, list)
    left, top, right, bottom = (float(end) for end in ends)
    return Area(stream=_required(stream), left=left, top=top, right=right, bottom=bottom)


def _place(place: int, known: Sequence[Any], what: str) -> int:
    if not 0 <= place < len(known):
        raise ConfigError(f"{what} {place} is not one of the {len(known)} that there are")
    return place


def _whole(column: pa.ChunkedArray) -> Any:
    found = column.combine_chunks()
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _names(texts: pa.Array) -> list[str]:
    names: list[str] = pc.unique(texts).to_pylist()
    return names


def _codes(texts: pa.Array, names: Sequence[str]) -> Int[np.ndarray, " n"]:
    found = pc.index_in(texts, value_set=pa.array(names, texts.type))
    return np.asarray(found.to_numpy(), np.int32)


def _counts(codes: Int[np.ndarray, " n"], names: Sequence[str]) -> list[int]:
    counts: list[int] = np.bincount(codes, minlength=len(names)).tolist()
    return counts


def _rank(status: str) -> int:
    found = find_status(status)
    return _RANKS[found.status_class] if found else _UNKNOWN_RANK
