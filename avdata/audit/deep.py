"""Members decoded: every picture, every sound, every array; and log-mels computed again from the sound."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import soundfile
from jaxtyping import Float32

from avdata.images import decode_jpeg
from avdata.melspec import log_mel
from avdata.profiles import PROFILES, MelProfile
from avdata.shards import ByteFile, Member, TarSample
from avdata.waveform import SAMPLE_RATE, decode_flac
from avmanifest.errors import AvkitError

OnFault = Callable[[str, int, str], None]
"""Told of a fault: the key, the offset of the member in the shard, and what is wrong."""

_HALF_STEP: Final = 0.5 / 32768  # of 16-bit samples: what FLAC may have taken from the sound the log-mel was made of
_FLOAT16_ERROR: Final = 2.0**-11  # relative, of what is stored
_ROUNDING: Final = 2e-3  # between two machines' float32
_LOUDEST: Final = 32766.5 / 32768  # from here on FLAC may have cut samples off
_MAX_PNG_BYTES: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class DeepCheck:
    """Decodes samples. The fields are what the dataset's config promises; empty for tars that others wrote."""

    mel: tuple[str, ...] = ()
    keep_audio: bool = False
    short_side: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DeepCheck":
        """What a dataset.json's config promises."""
        mel = config.get("mel", ())
        known = tuple(name for name in mel if name in PROFILES) if isinstance(mel, list) else ()
        return cls(known, bool(config.get("keep_audio", False)), int(config.get("short_side") or 0))

    def missing_members(self, names: Sequence[str], num_frames: int) -> list[str]:
        """Members that the config and the row promise and the sample does not have."""
        wanted = [*self._log_mels(), *(f"frame{number:02d}.jpg" for number in range(num_frames))]
        if self.mel:
            wanted.append("json")
        if self.keep_audio:
            wanted.append("flac")
        return [name for name in wanted if name not in names]

    def check(
        self, file: ByteFile, found: Sequence[TarSample], rows: Mapping[str, Mapping[str, Any]], on_fault: OnFault
    ) -> None:
        """Decode every member of the samples, and compare within each."""
        for sample in found:
            decoded: dict[str, Any] = {}
            for member in sample.members:
                file.seek(member.offset)
                content = file.read(member.size)
                try:
                    if len(content) < member.size:
                        raise _Bad(f"cut after {len(content):,} of {member.size:,} bytes")
                    decoded[member.name] = self._decode(sample.key, member, content)
                except (_Bad, AvkitError) as error:
                    on_fault(sample.key, member.offset, f"{member.name}: {error}")
            places = {member.name: member.offset for member in sample.members}
            for name, problem in self._compare(decoded, rows.get(sample.key, {})):
                on_fault(sample.key, places[name], f"{name}: {problem}")

    def _log_mels(self) -> dict[str, str]:
        """Member -> profile."""
        return {f"logmel-{name}.npy" if place else "logmel.npy": name for place, name in enumerate(self.mel)}

    def _decode(self, key: str, member: Member, content: bytes) -> Any:
        suffix = member.name.rsplit(".", 1)[-1]
        if suffix in ("jpg", "jpeg"):
            picture = decode_jpeg(content)
            if self.short_side and member.name.startswith("frame") and min(picture.shape[:2]) != self.short_side:
                raise _Bad(f"{picture.shape[1]} x {picture.shape[0]} pixels; the short side must be {self.short_side}")
            return None
        if suffix == "png":
            if cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) is None:
                raise _Bad(f"a damaged PNG of {len(content):,} bytes")
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
        """(member, problem): sound that is as long as the row says; log-mels that are its."""
        problems = []
        sound = decoded.get("flac")
        if sound is not None and row.get("duration_s") is not None:
            wanted = round(row["duration_s"] * SAMPLE_RATE)
            if abs(len(sound) - wanted) > 1:
                problems.append(("flac", f"{len(sound):,} samples; its row's {row['duration_s']:g} s are {wanted:,}"))
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


class _Bad(Exception):
    """A member that is not what its name says."""


def _decode_array(content: bytes) -> Any:
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise _Bad(f"not an array ({error})") from error
    if np.issubdtype(array.dtype, np.floating) and not np.all(np.isfinite(array)):
        raise _Bad(f"{int(np.sum(~np.isfinite(array)))} of its values are not finite")
    return array


def _decode_json(content: bytes, key: str | None) -> Any:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise _Bad(f"not JSON ({error})") from error
    if key is not None and (not isinstance(found, dict) or found.get("key") != key):
        raise _Bad(
            f"it is of {found.get('key') if isinstance(found, dict) else type(found).__name__!r}, not of {key!r}"
        )
    return found


def _decode_sound(content: bytes) -> None:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if len(file.read(dtype="float32")) != file.frames:
                raise _Bad("cut sound")
    except soundfile.LibsndfileError as error:
        raise _Bad(f"damaged sound ({error})") from error


def log_mel_problem(stored: np.ndarray, sound: Float32[np.ndarray, " n"], profile: MelProfile) -> str | None:
    """How the stored log-mel differs from the one of the sound, or None: no more than FLAC's 16 bits explain.

    The log-mel was made before the sound was rounded to 16 bits. With e the rounding of a window, Parseval bounds the
    energy of e in any mel band by n_fft / 2 * sum(w^2) * half a step^2, and the root of a band's power is a norm: it
    changes by at most the root of that. Columns in which the sound reaches full scale are not compared.
    """
    again = log_mel(sound, profile).astype(np.float64)
    held = stored.astype(np.float64)
    if again.shape != held.shape:
        return f"{held.shape[1]:,} columns; those of its sound are {again.shape[1]:,}"
    window = np.hanning(profile.win_length)
    room = _HALF_STEP * np.sqrt(profile.n_fft * np.sum(window**2) / 2) * (2 if profile.kaldi else 1)  # 2: pre-emphasis
    log, power = (np.log, np.exp) if profile.kaldi else (np.log10, _power_of_ten)
    floor = float(np.finfo(np.float32).eps) if profile.kaldi else profile.floor
    root = np.sqrt(np.maximum(power(again) - (0 if profile.kaldi else floor), 0))
    low = _with_floor(np.maximum(root - room, 0) ** 2, floor, kaldi=profile.kaldi)
    high = _with_floor((root + room) ** 2, floor, kaldi=profile.kaldi)
    slack = _ROUNDING + np.abs(held) * _FLOAT16_ERROR
    wrong = (held < log(low) - slack) | (held > log(high) + slack)
    if profile.pad_columns:
        wrong &= ~((held == 0) & (again == 0))  # the columns of filling
    wrong &= ~_clipped_columns(sound, profile, held.shape[1])
    if not wrong.any():
        return None
    band, column = (int(place) for place in np.unravel_index(np.argmax(np.abs(held - again) * wrong), wrong.shape))
    return (
        f"differs from the log-mel of its sound in {int(wrong.sum()):,} of {wrong.size:,} places, most in mel band "
        f"{band}, column {column}: {held[band, column]:.3f} stored, {again[band, column]:.3f} computed"
    )


def _power_of_ten(values: np.ndarray) -> np.ndarray:
    return np.asarray(10.0**values)


def _with_floor(energy: np.ndarray, floor: float, *, kaldi: bool) -> np.ndarray:
    return np.maximum(energy, floor) if kaldi else energy + floor


def _clipped_columns(sound: Float32[np.ndarray, " n"], profile: MelProfile, num_columns: int) -> np.ndarray:
    """True for columns whose samples reach full scale."""
    loud = np.flatnonzero(np.abs(sound) >= _LOUDEST)
    hit = np.zeros(num_columns, bool)
    if len(loud):
        reach = profile.n_fft // profile.hop_length + 1
        last = loud // profile.hop_length
        for step in range(-reach, reach + 1):
            hit[np.clip(last + step, 0, num_columns - 1)] = True
    return hit
