"""Sound in a temporary file gives the bytes that the same sound in memory gives."""

import errno
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avdata.melspec import log_mel, log_mel_pieces
from avdata.profiles import PROFILES, profile
from avdata.samples import IN_MEMORY_BYTES, SampleFile, pairwise_sum, pieces
from avdata.shards import check_member, pack_npy_columns, pack_sample, write_npy_columns, write_sample
from avdata.waveform import encode_flac, rms_dbfs, write_flac
from avmanifest.errors import DamagedMember


def noise(length: int) -> np.ndarray:
    return (np.random.default_rng(length).standard_normal(length) * 0.2).astype(np.float32)


@given(st.integers(0, 300_000), st.integers(128, 10_000))
def test_a_sum_of_pieces_is_numpys_sum_of_the_whole(length, size):
    samples = noise(length)
    assert pairwise_sum(samples, size=size) == samples.sum()
    assert pairwise_sum(samples, squared=True, size=size) == np.square(samples, dtype=np.float64).sum()


@given(st.lists(st.integers(0, 5_000), max_size=6), st.integers(0, 20_000), st.integers(0, 20_000))
def test_a_file_is_sliced_like_an_array(lengths, start, stop):
    parts = [noise(length) for length in lengths]
    whole = np.concatenate([np.zeros(0, np.float32), *parts])
    with SampleFile() as file:
        for part in parts:
            file.append(part)
        assert len(file) == len(whole)
        assert np.array_equal(file[start:stop], whole[start:stop])
        assert np.array_equal(np.concatenate([*pieces(file, 700), np.zeros(0, np.float32)]), whole)


@pytest.mark.parametrize("name", list(PROFILES))
@pytest.mark.parametrize("seconds", [1, 10, 70])
def test_log_mels_in_pieces_are_those_of_the_whole(name, seconds, tmp_path):
    samples = noise(seconds * 16_000 + 7)
    with SampleFile(tmp_path) as file:
        file.append(samples)
        found = np.concatenate(list(log_mel_pieces(file, profile(name))), axis=1)
    assert np.array_equal(found, log_mel(samples, profile(name)))


def test_flac_and_loudness_in_pieces_are_those_of_the_whole(tmp_path):
    samples = noise(IN_MEMORY_BYTES // 4 + 12_345)  # more than is kept in memory
    with SampleFile(tmp_path) as file, io.BytesIO() as flac:
        for start in range(0, len(samples), 1_000_000):
            file.append(samples[start : start + 1_000_000])
        write_flac(flac, file)
        assert flac.getvalue() == encode_flac(samples)
        assert rms_dbfs(file) == rms_dbfs(samples)
    assert list(tmp_path.iterdir()) == [], "the file has no name and is gone when it is closed"


@pytest.mark.parametrize("widths", [[7], [3, 4], [1] * 7])
def test_an_array_in_pieces_of_columns_is_stored_as_the_whole(widths):
    array = np.arange(35, dtype=np.float32).reshape(5, 7)
    parts = np.split(array, np.cumsum(widths)[:-1], axis=1)
    with io.BytesIO() as file:
        write_npy_columns(file, parts, 5, 7, np.float16)
        assert file.getvalue() == pack_npy_columns(array.astype(np.float16))
        file.seek(0)
        assert np.array_equal(np.load(file), array.astype(np.float16))


def test_members_in_files_are_packed_as_those_in_memory():
    members = {"json": b"{}", "a.bin": bytes(range(256)) * 9_000, "b.bin": b""}
    with io.BytesIO() as out:
        placed = write_sample(out, "k", {name: io.BytesIO(content) for name, content in members.items()})
        assert (out.getvalue(), placed) == pack_sample("k", members)
        damaged = io.BytesIO(out.getvalue().replace(b"{}", b"{]"))
    check_member(out_of("k", members), placed[1], "shard", "k")
    with pytest.raises(DamagedMember):
        check_member(damaged, placed[0], "shard", "k")


def out_of(key: str, members: dict[str, bytes]) -> io.BytesIO:
    return io.BytesIO(pack_sample(key, members)[0])


class FullDisk(io.BytesIO):
    def write(self, content) -> int:
        raise OSError(errno.ENOSPC, "full")


def test_a_flac_on_a_full_disk_raises_the_disks_error():
    with pytest.raises(OSError, match="full"):
        write_flac(FullDisk(), noise(100_000))
