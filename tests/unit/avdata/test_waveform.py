import io

import numpy as np
import pytest
import soundfile

from avdata.waveform import (
    RMS_FLOOR_DBFS,
    SAMPLE_RATE,
    StoredSamples,
    decode_flac,
    encode_flac,
    rms_dbfs,
    stored_samples,
)
from avmanifest.errors import ShardError
from tests.drawn import sine


def noise(num_samples: int = 32_000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, num_samples).astype(np.float32)


def test_flac_keeps_sixteen_bits() -> None:
    waveform = noise()
    found = decode_flac(encode_flac(waveform))
    assert found.dtype == np.float32
    assert np.abs(found - waveform).max() <= 1 / 32768
    assert np.array_equal(decode_flac(encode_flac(found)), found)


@pytest.mark.parametrize("num_samples", [1, 5_000_000])
def test_stored_samples_are_those_of_the_flac(num_samples: int) -> None:
    waveform = noise(num_samples) * np.float32(1.01)
    meant = StoredSamples(waveform)
    with stored_samples(io.BytesIO(encode_flac(waveform)), None, "clip.flac") as found:
        assert len(found) == len(meant) == num_samples
        assert np.array_equal(found[0:num_samples], meant[:])
        assert np.array_equal(found[1000:1100], meant[1000:1100])


def test_equal_samples_give_equal_bytes_that_others_read() -> None:
    data = encode_flac(noise())
    assert data == encode_flac(noise())
    info = soundfile.info(io.BytesIO(data))
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", SAMPLE_RATE, 1)


def test_a_range_is_a_slice() -> None:
    data = encode_flac(noise())
    whole = decode_flac(data)
    for start, stop in [(0, 0), (0, 100), (12_345, 20_000), (31_999, 32_000), (5_000, None)]:
        assert np.array_equal(decode_flac(data, start, stop), whole[start:stop])


def test_samples_beyond_full_scale_are_clipped() -> None:
    assert decode_flac(encode_flac(np.array([2.0, -2.0], np.float32))).tolist() == [32767 / 32768, -1.0]


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_damaged_flac_names_its_member(damage: str) -> None:
    data = encode_flac(noise())
    content = {"empty": b"", "text": b"not a sound" * 100, "cut": data[: len(data) // 2]}[damage]
    with pytest.raises(ShardError, match=r"clip\.flac"):
        decode_flac(content, name="clip.flac")
    with pytest.raises(ShardError, match=r"clip\.flac"):
        stored_samples(io.BytesIO(content), None, "clip.flac")


def test_another_format_or_range_is_refused() -> None:
    with io.BytesIO() as file:
        soundfile.write(file, np.zeros((100, 2), np.int16), 44_100, format="FLAC")
        stereo = file.getvalue()
    with pytest.raises(ShardError, match="2 channels at 44100 Hz"):
        decode_flac(stereo)
    with pytest.raises(ShardError, match="it has 32000"):
        decode_flac(encode_flac(noise()), 0, 32_001)


def test_loudness_is_finite_and_right() -> None:
    assert rms_dbfs(sine(1, 16_000, amplitude=1.0)) == pytest.approx(-3.01, abs=0.01)
    assert rms_dbfs(np.ones(10, np.float32)) == 0.0
    assert rms_dbfs(np.zeros(16_000, np.float32)) == RMS_FLOOR_DBFS
    assert rms_dbfs(np.zeros(0, np.float32)) == RMS_FLOOR_DBFS
    assert rms_dbfs(np.full(10, 1e-30, np.float32)) == RMS_FLOOR_DBFS
