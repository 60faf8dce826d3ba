"""Shards: what was packed is read back, by us and by tarfile, and a cut or changed archive is never a whole one."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avdata.shards import end_of_archive, index_bytes, pack_json, pack_npy, pack_sample, walk_samples
from avmanifest.errors import ShardError

keys = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", fullmatch=True)
names = st.sampled_from(["json", "logmel.npy", "logmel-released.npy", "frame00.jpg", "frame01.jpg", "flac"])
members = st.dictionaries(names, st.binary(max_size=1_200), min_size=1, max_size=4)
samples = st.dictionaries(keys, members, max_size=4)


def packed(content: dict[str, dict[str, bytes]]) -> tuple[bytes, list[int], int]:
    blocks, starts = b"", []
    for key, files in content.items():
        starts.append(len(blocks))
        blocks += pack_sample(key, files)[0]
    return blocks + end_of_archive(len(blocks)), starts, len(blocks)


@given(samples)
def test_what_is_packed_is_read_back(tmp_path_factory, content):
    archive, starts, end = packed(content)
    path = tmp_path_factory.getbasetemp() / "packed.tar"
    path.write_bytes(archive)
    found = list(walk_samples(path))
    assert [(key, start) for key, start, _ in found] == list(zip(content, starts, strict=True))
    for key, _, placed in found:
        assert {m.name: archive[m.offset : m.offset + m.size] for m in placed} == content[key]
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"{key}.{name}" for key, files in content.items() for name in files]
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} <= {(0, 0, 0, "")}
    assert len(archive) % tarfile.RECORDSIZE == 0
    assert np.frombuffer(index_bytes(starts, end), "<u8").tolist() == [*starts, end]


@given(samples.filter(bool), st.data())
def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path_factory, content, data):
    archive, _, end = packed(content)
    length = data.draw(st.integers(0, end + 1_023) | st.sampled_from(range(0, end + 512, 512)))
    path = tmp_path_factory.getbasetemp() / "cut.tar"
    path.write_bytes(archive[:length])
    with pytest.raises(ShardError, match=r"cut\.tar"):
        list(walk_samples(path))


@given(st.integers(1, 4), st.integers(0, 9), st.sampled_from([np.float16, np.float32]), st.integers())
def test_an_array_is_read_back_behind_a_header_of_128_bytes(rows, columns, dtype, seed):
    array = np.random.default_rng(abs(seed)).normal(size=(rows, columns)).astype(dtype)
    content = pack_npy(array)
    assert len(content) == 128 + array.nbytes
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False), array)
    assert pack_npy(np.asfortranarray(array)) == content


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_the_json_of_a_sample_holds_no_null_and_no_nan(value):
    with pytest.raises(ValueError, match="fps"):
        pack_json({"fps": value})


def test_an_archive_with_anything_but_files_is_refused(tmp_path):
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ShardError, match="not a regular file"):
        list(walk_samples(path))


def test_members_that_are_not_adjacent_are_refused(tmp_path):
    blocks = b"".join(pack_sample(key, {name: b"x"})[0] for key, name in (("a", "json"), ("b", "json"), ("a", "flac")))
    path = tmp_path / "apart.tar"
    path.write_bytes(blocks + end_of_archive(len(blocks)))
    with pytest.raises(ShardError, match="members of 'a' are not adjacent"):
        list(walk_samples(path))
