"""Decodes every member of a shard, and compares the stored log-mels with log-mels of the stored audio."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import soundfile
from jaxtyping import Float32

from avdata.images import decode_jpeg, decode_picture
from avdata.melspec import log_mel_pieces
from avdata.profiles import PROFILES, MelProfile, num_frames
from avdata.samples import PIECE, pieces
from avdata.shards import ByteFile, Member, TarSample, block_hashes, content_hash, members_of, parse_npy
from avdata.waveform import SAMPLE_RATE, decode_flac
from avmanifest.errors import AvkitError
from avmanifest.parsing import parse_json, parse_object

OnFault = Callable[[str, int, str], None]
"""Called for each fault with the key, the member's offset in the shard, and the problem."""

_HALF_STEP: Final = 0.5 / 32768  # of 16-bit samples: earlier versions computed log-mels before rounding to FLAC
_FLOAT16_ERROR: Final = 2.0**-11  # relative rounding error of the stored values
_ROUNDING: Final = 2e-3  # difference of float32 results between machines
_CLIPPED: Final = 32766.5 / 32768  # louder samples may have been clipped in FLAC
_BLOCK_SAMPLES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DeepCheck:
    """Decodes samples and checks them against the dataset's config. The defaults are for tars of other tools."""

    mel: tuple[str, ...] = ()
    keep_audio: bool = False
    short_side: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DeepCheck":
        """The check for the config of a dataset.json."""
        mel = config.get("mel", ())
        profiles = tuple(name for name in mel if name in PROFILES) if isinstance(mel, list) else ()
        return cls(profiles, bool(config.get("keep_audio", False)), int(config.get("short_side") or 0))

    def missing_members(self, names: Sequence[str], num_frames: int) -> list[str]:
        """Members that the sample lacks, by the config and its number of frames."""
        required = [*self._log_mels(), *(f"frame{number:02d}.jpg" for number in range(num_frames))]
        if self.mel:
            required.append("json")
        if self.keep_audio:
            required.append("flac")
        return [name for name in required if name not in names]

    def check(
        self, file: ByteFile, samples: Sequence[TarSample], rows: Mapping[str, Mapping[str, Any]], on_fault: OnFault
    ) -> None:
        """Decode every member of the samples, and compare audio, log-mels and row of each sample.

        Args:
            file: The open tar.
            samples: Its samples.
            rows: Rows of the manifest by key.
            on_fault: Called for each fault.
        """
        for sample in samples:
            decoded: dict[str, Any] = {}
            row = rows.get(sample.key, {})
            meant = {member.name: member for member in members_of(row)} if row else {}
            stored = {name: member.xxh3 for name, member in meant.items()}
            other: dict[str, int] = {}  # hashes that differ from the stored ones
            for member in sample.members:
                file.seek(member.offset)
                content = file.read(member.size)
                try:
                    if len(content) < member.size:
                        raise _BadMember(f"truncated after {len(content):,} of {member.size:,} bytes")
                    if stored.get(member.name) not in (None, computed := content_hash(content)):
                        other[member.name] = computed
                    elif (blocks := getattr(meant.get(member.name), "blocks", None)) not in (
                        None,
                        block_hashes(content),
                    ):
                        raise _BadMember(f"its row has other hashes of its {len(blocks)} blocks (mel_block_xxh3)")
                    decoded[member.name] = self._decode(sample.key, member, content)
                except (_BadMember, AvkitError) as error:
                    other.pop(member.name, None)
                    on_fault(sample.key, member.offset, f"{member.name}: {error}")
            places = {member.name: member.offset for member in sample.members}
            for name, problem in self._compare(decoded, row):
                other.pop(name, None)
                on_fault(sample.key, places[name], f"{name}: {problem}")
            for name, computed in other.items():
                problem = f"damaged: it has xxh3 {computed:016x}, its row says {stored[name]:016x}"
                on_fault(sample.key, places[name], f"{name}: {problem}")

    def _log_mels(self) -> dict[str, str]:
        """Profile by member."""
        return {f"logmel-{name}.npy" if place else "logmel.npy": name for place, name in enumerate(self.mel)}

    def _decode(self, key: str, member: Member, content: bytes) -> Any:
        suffix = member.name.rsplit(".", 1)[-1]
        if suffix in ("jpg", "jpeg"):
            picture = decode_jpeg(content)
            if self.short_side and member.name.startswith("frame") and min(picture.shape[:2]) != self.short_side:
                raise _BadMember(
                    f"{picture.shape[1]} x {picture.shape[0]} pixels; the short side must be {self.short_side}"
                )
            return None
        if suffix == "png":
            decode_picture(content, cv2.IMREAD_UNCHANGED, "content")
            return None
        if suffix == "flac" and self.mel:
            return decode_flac(content)
        if suffix in ("flac", "wav", "ogg"):
            _decode_sound(content)
            return None
        if suffix == "npy":
            return _decode_array(content)
        if suffix == "json":
            return _decode_json(content, key if self.mel else None)
        return None

    def _compare(self, decoded: Mapping[str, Any], row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Check the duration of the audio and the log-mels. Returns (member, problem)."""
        problems = []
        sound = decoded.get("flac")
        if sound is not None and row.get("duration_s") is not None:
            expected = round(row["duration_s"] * SAMPLE_RATE)
            if abs(len(sound) - expected) > 1:
                problems.append(("flac", f"{len(sound):,} samples; its row's {row['duration_s']:g} s are {expected:,}"))
        for name, profile in self._log_mels().items():
            array = decoded.get(name)
            if array is None:
                continue
            front_end = PROFILES[profile]
            if array.dtype != np.float16 or array.ndim != 2 or len(array) != front_end.n_mels:
                problems.append((name, f"{array.dtype} {array.shape}; expected float16 ({front_end.n_mels}, T)"))
            elif sound is not None and (problem := log_mel_problem(array, sound, front_end)):
                problems.append((name, problem))
        return problems


class _BadMember(Exception):
    """The member is damaged, or its content does not fit its name."""


def _decode_array(content: bytes) -> Any:
    array = parse_npy(content, "content")
    if np.issubdtype(array.dtype, np.floating) and not np.all(np.isfinite(array)):
        raise _BadMember(f"{int(np.sum(~np.isfinite(array)))} of its values are not finite")
    return array


def _decode_json(content: bytes, key: str | None) -> Any:
    values = parse_json(content, "content") if key is None else parse_object(content, "content")
    if key is not None and values.get("key") != key:
        raise _BadMember(f"it has the key {repr(values.get('key'))[:80]}; expected {key!r}")
    return values


def _decode_sound(content: bytes) -> None:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            num_samples = sum(map(len, file.blocks(_BLOCK_SAMPLES, dtype="float32")))
            if num_samples != file.frames:
                raise _BadMember(f"truncated audio: {num_samples:,} of {file.frames:,} samples")
    except soundfile.LibsndfileError as error:
        raise _BadMember(f"damaged audio ({error})") from error


def log_mel_problem(stored: np.ndarray, sound: Float32[np.ndarray, " n"], profile: MelProfile) -> str | None:
    """Compare a stored log-mel with the log-mel of the stored audio.

    Earlier versions computed the stored log-mel before the audio was rounded to 16 bits. Let e be the rounding error
    of a window w. By Parseval, the energy of e in any mel band is at most n_fft / 2 * sum(w^2) * (half a step)^2. The
    root of a band's power is a norm, so it changes by at most the root of that bound. Columns with full-scale samples
    are not compared.

    Args:
        stored: The stored log-mel [mel, t].
        sound: The stored audio, 16 kHz mono.
        profile: How the log-mel was made.

    Returns:
        The problem; None if rounding explains the differences.
    """
    num_columns = num_frames(len(sound), profile)
    if stored.shape != (profile.n_mels, num_columns):
        return f"{stored.shape[1]:,} columns; its audio gives {num_columns:,}"
    is_clipped = _clipped_columns(sound, profile, num_columns)
    num_wrong, worst, example = 0, -1.0, ""
    first = 0
    for piece in log_mel_pieces(sound, profile):  # in pieces, because of long clips
        columns = slice(first, first + piece.shape[1])
        computed, values = piece.astype(np.float64), stored[:, columns].astype(np.float64)
        wrong = _is_wrong(values, computed, profile) & ~is_clipped[columns]
        off = np.abs(values - computed) * wrong
        if wrong.any() and off.max() > worst:
            band, column = (int(place) for place in np.unravel_index(np.argmax(off), off.shape))
            worst = float(off.max())
            example = (
                f"band {band}, column {first + column}: {values[band, column]:.3f} stored, "
                f"{computed[band, column]:.3f} computed"
            )
        num_wrong += int(wrong.sum())
        first = columns.stop
    if not num_wrong:
        return None
    return f"differs from the log-mel of its audio in {num_wrong:,} of {stored.size:,} values, most in mel {example}"


def _is_wrong(stored: np.ndarray, computed: np.ndarray, profile: MelProfile) -> np.ndarray:
    """Which values of a stored log-mel the rounding of the audio does not explain; see log_mel_problem."""
    window = np.hanning(profile.win_length)
    room = _HALF_STEP * np.sqrt(profile.n_fft * np.sum(window**2) / 2) * (2 if profile.kaldi else 1)  # 2: pre-emphasis
    log, power = (np.log, np.exp) if profile.kaldi else (np.log10, _power_of_ten)
    floor = float(np.finfo(np.float32).eps) if profile.kaldi else profile.floor
    root = np.sqrt(np.maximum(power(computed) - (0 if profile.kaldi else floor), 0))
    low = _with_floor(np.maximum(root - room, 0) ** 2, floor, kaldi=profile.kaldi)
    high = _with_floor((root + room) ** 2, floor, kaldi=profile.kaldi)
    slack = _ROUNDING + np.abs(stored) * _FLOAT16_ERROR
    wrong = (stored < log(low) - slack) | (stored > log(high) + slack)
    if profile.pad_columns:
        wrong &= ~((stored == 0) & (computed == 0))  # columns of padding
    return np.asarray(wrong)


def _power_of_ten(values: np.ndarray) -> np.ndarray:
    return np.asarray(10.0**values)


def _with_floor(energy: np.ndarray, floor: float, *, kaldi: bool) -> np.ndarray:
    return np.maximum(energy, floor) if kaldi else energy + floor


def _clipped_columns(sound: Float32[np.ndarray, " n"], profile: MelProfile, num_columns: int) -> np.ndarray:
    """True for columns whose windows may contain clipped samples."""
    hit = np.zeros(num_columns, bool)
    reach = profile.n_fft // profile.hop_length + 1
    for number, piece in enumerate(pieces(sound)):
        last = (np.flatnonzero(np.abs(piece) >= _CLIPPED) + number * PIECE) // profile.hop_length
        for step in range(-reach, reach + 1):
            hit[np.clip(last + step, 0, num_columns - 1)] = True
    return hit
