"""One sample while a view reads it: its members, read, checked and decoded when they are asked for."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from avdata.dataset import ByteRange, Dataset
from avdata.images import decode_jpeg, decode_mask
from avdata.load.crops import Crop, crop_into
from avdata.load.native import NativeQueue, Source
from avdata.load.reader import BlockRange, Leases, Scratch, ShardReader, ThreadMemory
from avdata.melspec import log_mel
from avdata.profiles import MelProfile, profile
from avdata.shards import MEL_BLOCK_BYTES, NPY_HEADER_BYTES, parse_npy
from avdata.waveform import decode_flac, flac_num_samples
from avmanifest.errors import ConfigError, DamagedMember, ShardError

_VALUE_BYTES: Final = 2  # of float16
_INFINITE: Final = 0x7C00  # float16's infinity as an integer; NaNs are above. With the sign bit: 0xFC00


class _StoredMel(NamedTuple):
    """Where the log-mel of a sample is; size 0: it isn't stored."""

    profile: str
    n_mels: int
    offset: int
    size: int
    first_block: int  # the first of the hashes of its blocks; -1: it has none

    @property
    def columns(self) -> int:
        """Its columns, if its blocks have hashes."""
        return (self.size - NPY_HEADER_BYTES) // (_VALUE_BYTES * self.n_mels)


class StoredSample:
    """A sample that a view fills a row of a batch from.

    Every byte that it gives was compared with its hash. A member that cannot be read or decoded raises ShardError: let
    it pass, as the loader knows what to do with a damaged sample. Valid within one call of `View.fill`.
    """

    __slots__ = (
        "_dataset", "_first", "_flac", "_leases", "_mel", "_memory", "_place", "_reader", "_shard", "_windows",
        "careful", "frame_times_s", "key", "number",
    )  # fmt: skip

    def __init__(
        self, dataset: Dataset, reader: ShardReader, leases: Leases, memory: ThreadMemory, number: int, key: str
    ) -> None:
        """Describe a sample without reading anything.

        Args:
            dataset: Where the samples are.
            reader: Reads their bytes.
            leases: The open shards of the calling thread.
            memory: Memory of the calling thread.
            number: Row of the dataset.
            key: Key of the sample.
        """
        self.key, self.number = key, number
        self._dataset, self._reader, self._leases, self._memory = dataset, reader, leases, memory
        self._shard = int(dataset.shard_of[number])
        self._first = first = int(dataset.frame_start[number])
        # Seconds of the clip; NaN: unknown.
        self.frame_times_s: list[float] = dataset.frame_time_s[first : dataset.frame_start[number + 1]].tolist()
        self._flac: bytes | None = None
        self._mel: tuple[str, np.ndarray] | None = None
        self._place: _StoredMel | None = None  # of the log-mel that was asked for last
        self._windows = 0  # that were copied
        self.careful = False  # True: without compiled code

    def frame(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """The stored frame with this number, from 0, as RGB. Raises ConfigError if the sample has no such frame."""
        return decode_jpeg(self.jpeg(number), self.where(self._frame_name(number)))

    def crop_frame(
        self, number: int, choose: Callable[[int, int], Crop], out: UInt8[np.ndarray, "s s 3"]
    ) -> tuple[int, int, Crop]:
        """Crop a frame and resize the crop into `out`.

        Args:
            number: Number of the frame, from 0.
            choose: Chooses the crop, by height and width of the frame in pixels.
            out: Receives the pixels.

        Returns:
            Height and width of the frame, and the crop.
        """
        rgb = self.frame(number)
        crop = choose(rgb.shape[0], rgb.shape[1])
        crop_into(rgb, crop, out)
        return rgb.shape[0], rgb.shape[1], crop

    def crop_frame_later(
        self, number: int, choose: Callable[[int, int], Crop], out: UInt8[np.ndarray, "s s 3"]
    ) -> None:
        """As `crop_frame`, but the pixels may come after `View.fill`, with those of other rows: it must not read them.

        That is faster where compiled code makes them. Its pixels differ by up to 1 level.
        """
        queue = self._queue
        if queue is not None:
            source = self._source(self._frame_name(number), self._dataset.frames.at(self._entry(number)))
            if source is not None and queue.add_crop(source, choose, out):
                return
        self.crop_frame(number, choose, out)

    def jpeg(self, number: int) -> memoryview:
        """The JPEG of a frame. It is valid until the next member is read."""
        return self._read(self._frame_name(number), self._dataset.frames.at(self._entry(number)))

    def mask(self, number: int) -> UInt8[np.ndarray, "h w"] | None:
        """The mask of a frame; None: it has none. Its size may differ from the frame's."""
        entry, dataset = self._entry(number), self._dataset
        place = dataset.masks.at(entry)
        if not place.size:
            return None
        name = dataset.mask_names[dataset.frame_member[entry]]
        return decode_mask(bytes(self._read(name, place)), self.where(name))

    def mel_columns(self, profile_name: str) -> int | None:
        """Columns of the clip's stored log-mel of this profile; None: it isn't stored."""
        place = self._place_of(profile_name)
        if not place.size:
            return None
        return place.columns if place.first_block >= 0 else int(self._stored_mel(profile_name).shape[1])

    def copy_mel(self, profile_name: str, first: int, out: np.ndarray) -> None:
        """Copy columns of the stored log-mel.

        Args:
            profile_name: The profile.
            first: First column.
            out: Receives the columns, `[n_mels, columns]`.

        Raises:
            DamagedMember: A value of them isn't finite.
            ConfigError: The log-mel doesn't have these columns, or isn't stored.
        """
        self._copy_mel(profile_name, first, out)
        self.require_finite(out, profile_name)

    def copy_mel_later(self, profile_name: str, first: int, out: np.ndarray) -> None:
        """As `copy_mel`, but the values may come after `View.fill`, with those of other rows: it must not read them.

        `out` is a row of the array `log_mel` of the batch, whose values the loader checks.
        """
        end, queue = first + out.shape[1], self._queue
        if queue is not None and self._has_window(profile_name, first, end):
            place, skipped = self._blocks(profile_name, first, end)
            source = self._source(self._dataset.log_mel_member[profile_name], place)
            if source is not None and queue.add_window(source, skipped, out):
                self._windows += 1
                return
        self._copy_mel(profile_name, first, out)

    def _copy_mel(self, profile_name: str, first: int, out: np.ndarray) -> None:
        columns, end = self.mel_columns(profile_name), first + out.shape[1]
        if columns is None or not 0 <= first <= end <= columns:
            has = "it is not stored" if columns is None else f"it has {columns}"
            raise ConfigError(
                f"{self.where()}: columns {first} to {end} of the {profile_name!r} log-mel: {has}. Ask "
                "StoredSample.mel_columns first."
            )
        if self._has_window(profile_name, first, end):
            window = self._read_window(profile_name, first, end)
        else:
            window = self._stored_mel(profile_name)[:, first:end]
        self._windows += 1
        if not _copied_in_order(window, out):
            np.copyto(out, window, casting="same_kind")

    def num_samples(self) -> int:
        """Samples of the clip's waveform, at 16 kHz. Raises ShardError if the sample has none."""
        return flac_num_samples(self._sound(), self.where("flac"))

    def waveform(self, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, " n"]:
        """Samples [start, stop) of the waveform in [-1, 1), 16 kHz; None: to the end of the clip."""
        return decode_flac(self._sound(), start, stop, self.where("flac"))

    def compute_mel(self, waveform: Float32[np.ndarray, " n"], mel: MelProfile, first: int, out: np.ndarray) -> None:
        """Compute the log-mel of a waveform and copy its columns from `first` on into out, `[n_mels, columns]`."""
        out[:] = log_mel(waveform, mel)[:, first : first + out.shape[1]]
        self.require_finite(out, mel.name)

    def require_finite(self, values: np.ndarray, profile_name: str) -> None:
        """Raise DamagedMember for values of the log-mel of this profile that aren't finite."""
        if not all_finite(values):
            member = self._dataset.log_mel_member.get(profile_name, "flac")
            count = int(np.sum(~np.isfinite(values)))
            problem = f"{count} of the window's {values.size} log-mel values are not finite in float16"
            raise DamagedMember(self._reader.shards[self._shard].name, self.key, member, problem)

    def refetched(self) -> bool:
        """Whether the sample is of a cached copy that was damaged. It was removed; the next read fetches the shard."""
        partial = self._leases.end(self._shard)
        self._flac, self._mel, self._windows = None, None, 0
        return self._reader.refetched(self._shard, partial=partial)

    def where(self, member: str = "") -> str:
        """Shard, key and member, for messages."""
        return f"{self._reader.shards[self._shard].name}: {self.key}{'.' if member else ''}{member}"

    def error(self, member: str, problem: str) -> ShardError:
        """An error that names the sample and a member of it ("": none)."""
        return ShardError(f"{self.where(member)}: {problem}")

    def _frame_name(self, number: int) -> str:
        return self._dataset.frame_names[int(self._dataset.frame_member[self._entry(number)])]

    def _entry(self, number: int) -> int:
        """The place of a frame among those of all samples. Raises ConfigError if the sample has no such frame."""
        if not 0 <= number < len(self.frame_times_s):
            raise ConfigError(f"{self.where()}: no frame {number}; it has {len(self.frame_times_s)}, counted from 0")
        return self._first + number

    def _place_of(self, profile_name: str) -> _StoredMel:
        """Where the log-mel of this profile is."""
        place, number = self._place, self.number
        if place is None or place.profile != profile_name:
            ranges, blocks = self._dataset.log_mel.get(profile_name), self._dataset.mel_blocks.get(profile_name)
            if ranges is None:
                return _StoredMel(profile_name, 0, 0, 0, -1)
            offset, size, first = int(ranges.offset[number]), int(ranges.size[number]), -1
            if blocks is not None:
                first = int(blocks[number])
            self._place = place = _StoredMel(profile_name, profile(profile_name).n_mels, offset, size, first)
        return place

    @property
    def _queue(self) -> NativeQueue | None:
        """Makes windows and crops later; None: Python makes them at once."""
        return None if self.careful else self._memory.queue

    def _has_window(self, profile_name: str, first: int, end: int) -> bool:
        """Whether columns first to end can be read without the rest. A second window is copied from all of them."""
        if self._mel is not None or self._windows:
            return False
        place = self._place_of(profile_name)
        return place.size > 0 and place.first_block >= 0 and 0 <= first <= end <= place.columns

    def _blocks(self, profile_name: str, first: int, end: int) -> tuple[BlockRange, int]:
        """The blocks that hold columns first to end of a log-mel, and the bytes before the columns in them."""
        _, n_mels, offset, size, block = self._place_of(profile_name)
        begin, stop = _VALUE_BYTES * n_mels * first, _VALUE_BYTES * n_mels * end
        low, high = begin // MEL_BLOCK_BYTES, -(-stop // MEL_BLOCK_BYTES)
        skipped = low * MEL_BLOCK_BYTES
        place = BlockRange(
            offset + NPY_HEADER_BYTES + skipped,
            min(high * MEL_BLOCK_BYTES, size - NPY_HEADER_BYTES) - skipped,
            self._dataset.block_xxh3[block + low : block + high],
        )
        return place, begin - skipped

    def _read_window(self, profile_name: str, first: int, end: int) -> np.ndarray:
        """Columns first to end of a log-mel whose blocks have hashes, `[n_mels, columns]`. No other blocks are read."""
        place, skipped = self._blocks(profile_name, first, end)
        shard, member = self._shard, self._dataset.log_mel_member[profile_name]
        descriptor = self._leases.descriptor(shard)
        content = self._reader.read_blocks(descriptor, shard, self.key, member, place, self._memory.log_mel)
        n_mels = profile(profile_name).n_mels
        values = np.frombuffer(content, np.float16, (end - first) * n_mels, skipped)
        return values.reshape(end - first, n_mels).T

    def _stored_mel(self, profile_name: str) -> np.ndarray:
        """The stored log-mel of the whole clip."""
        if self._mel is not None and self._mel[0] == profile_name:
            return self._mel[1]
        name = self._dataset.log_mel_member[profile_name]
        place = self._dataset.log_mel[profile_name].at(self.number)
        array = read_npy(self._read(name, place, self._memory.log_mel), self.where(name))
        if array.shape[0] != profile(profile_name).n_mels:
            raise self.error(
                name, f"shape {array.shape}, expected [{profile(profile_name).n_mels}, T]. Prepare it again."
            )
        self._mel = profile_name, array
        return array

    def _sound(self) -> bytes:
        """The FLAC of the whole clip."""
        if self._flac is None:
            place = self._dataset.waveform.at(self.number)
            if not place.size:
                raise self.error(
                    "",
                    "no FLAC is stored, for a waveform or for a log-mel of a profile that is not stored (stored: "
                    f"{', '.join(self._dataset.log_mel) or 'none'}). Prepare with audio, or with --mel PROFILE.",
                )
            self._flac = bytes(self._read("flac", place))
        return self._flac

    def _source(self, member: str, place: ByteRange | BlockRange) -> Source | None:
        """A member or blocks of one, to be read by compiled code; None: Python has to read it."""
        shard = self._shard
        return self._reader.source(self._leases.descriptor(shard), shard, self.key, member, place)

    def _read(self, member: str, place: ByteRange, scratch: Scratch | None = None) -> memoryview:
        """A member's content. It is valid until the next read into the same memory."""
        shard = self._shard
        descriptor = self._leases.descriptor(shard)
        return self._reader.read_member(descriptor, shard, self.key, member, place, scratch or self._memory.members)


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is infinite or not a number. Two passes over float16, without memory for what is between."""
    if values.dtype != np.float16 or not values.size:
        return bool(np.isfinite(values).all())
    bits = values.view(np.uint16)  # with the sign bit, infinity and what is not a number are the largest integers
    return bool(bits.max() < _INFINITE | 0x8000 and bits.view(np.int16).max() < _INFINITE)


def _copied_in_order(window: np.ndarray, out: np.ndarray) -> bool:
    """Copy columns that follow each other in memory, in both arrays. False: they don't, and nothing was copied.

    numpy's copy gives up the GIL, for which threads then wait. This one takes 1 us and does not.
    """
    columns, to = window.T, out.T
    if not (columns.flags.c_contiguous and to.flags.c_contiguous and window.dtype == out.dtype):
        return False
    to.reshape(-1).view(np.uint8).data[:] = columns.reshape(-1).view(np.uint8).data
    return True


def read_npy(content: memoryview, where: str) -> np.ndarray:
    """View a .npy file's array without copying. Raises ShardError unless it is 2-d float16 or float32."""
    array = parse_npy(content, where)
    if array.ndim != 2 or array.dtype not in (np.float16, np.float32) or not array.size:
        raise ShardError(
            f"{where}: not a float .npy file (shape {array.shape}, type {array.dtype}). Prepare the shard again."
        )
    return array
