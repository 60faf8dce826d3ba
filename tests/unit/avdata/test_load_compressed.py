"""Compressed tars of other tools: unpacked once into the cache, read as the plain tar, refused if damaged."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from avdata.audit.dataset import open_audit_dataset
from avdata.images import encode_jpeg
from avdata.load import CacheConfig, EvalView, Loader, LoaderConfig, MemberMap, evaluation_config, open_dataset
from avdata.melspec import log_mel
from avdata.retrying import RetryPolicy
from avdata.waveform import encode_flac
from avmanifest.errors import AvkitError, ConfigError, ShardError, StorageError
from tests.serving import serving
from tests.shards import flat_frame, waveform_of

VIEW = EvalView(image_size=8)
MEMBERS = MemberMap(image="jpg", label="cls")
KEYS = [f"{number:03d}" for number in range(4)]


def tar_of(keys: list[str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for key in keys:
            sound = waveform_of(int(key), 4.0)
            mel = io.BytesIO()
            np.save(mel, log_mel(sound, VIEW.mel).astype(np.float16))
            members = {"jpg": encode_jpeg(flat_frame(int(key), 0)), "logmel.npy": mel.getvalue()}
            for name, content in (members | {"flac": encode_flac(sound), "cls": b"rain"}).items():
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


SKIPPABLE = b"\x5e\x2a\x4d\x18\x04\0\0\0abcd"  # what the seekable format of zstd ends with
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "a.tar.gz": gzip.compress,
    "a.tgz": lambda tar: gzip.compress(tar[:5000]) + gzip.compress(tar[5000:]),  # as pigz and bgzip write it
    "a.tar.zst": zstd,
    "a.tzst": lambda tar: zstd(tar[:5000]) + zstd(tar[5000:]) + SKIPPABLE,
}


@pytest.fixture(scope="module")
def tar() -> bytes:
    return tar_of(KEYS)


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(root=tmp_path / "cache", retry=RetryPolicy(attempts=1))


def loaded(source: str | Path | list[Path], cache: CacheConfig) -> list[tuple[str, bytes]]:
    config = evaluation_config(LoaderConfig(batch_size=8, num_workers=0, cache=cache))
    return [
        (key, batch.images[row].tobytes() + batch.log_mel[row].tobytes())
        for batch in Loader(open_dataset(source, members=MEMBERS, cache=cache), VIEW, config).arrays()
        for row, key in enumerate(batch.keys)
        if batch.valid[row]
    ]


def copies(cache: CacheConfig) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.root.glob("*.shard")}


@pytest.mark.parametrize("name", PACKED)
def test_a_compressed_tar_is_unpacked_once_and_read_as_the_plain_one(
    name: str, tar: bytes, tmp_path: Path, cache: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain.tar").write_bytes(tar)
    (tmp_path / name).write_bytes(PACKED[name](tar))
    expected = loaded(tmp_path / "plain.tar", cache)
    assert [key for key, _ in expected] == KEYS
    assert not copies(cache)
    assert loaded(tmp_path / name, cache) == expected
    (made,) = before = copies(cache)
    assert (cache.root / made).read_bytes() == tar
    monkeypatch.chdir(tmp_path)
    assert loaded(name, cache) == loaded(f"file://{tmp_path}/{name}", cache) == expected  # the same file by other names
    assert loaded(name, CacheConfig(root=cache.root, offline=True)) == expected
    assert copies(cache) == before
    (tmp_path / name).write_bytes(PACKED[name](tar_of(KEYS[2:])))
    assert [key for key, _ in loaded(tmp_path / name, cache)] == KEYS[2:]


def test_compressed_and_plain_tars_are_one_dataset(tar: bytes, tmp_path: Path, cache: CacheConfig) -> None:
    (tmp_path / "0.tar").write_bytes(tar)
    (tmp_path / "1.tar.gz").write_bytes(gzip.compress(tar_of(["007", "008"])))
    found = loaded([tmp_path / "0.tar", tmp_path / "1.tar.gz"], cache)
    assert [key for key, _ in found] == [*KEYS, "007", "008"]
    dataset = open_dataset([tmp_path / "0.tar", tmp_path / "1.tar.gz"], members=MEMBERS, cache=cache)
    assert dataset.classes == ("rain",)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.zst"])
def test_a_compressed_tar_on_a_server_is_fetched_once(
    name: str, tar: bytes, tmp_path: Path, cache: CacheConfig
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / name).write_bytes(PACKED[name](tar))
    with serving(folder) as server:
        for _ in range(2):
            assert [key for key, _ in loaded(f"{server.url}/{name}", cache)] == KEYS
        assert server.count(name) == 1
    (made,) = copies(cache)
    assert (cache.root / made).read_bytes() == tar
    assert [key for key, _ in loaded(f"{server.url}/{name}", CacheConfig(root=cache.root, offline=True))] == KEYS


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "damaged (gzip|zstd).*Truncated"),
        (lambda content: content[:-20], "damaged|not a whole"),
        (flipped, "damaged (gzip|zstd)"),
        (lambda content: content + b"more of something", "damaged (gzip|zstd)"),
        (lambda content: b"<html>404</html>" * 100, "damaged (gzip|zstd)"),
        (lambda content: b"", "not a whole"),
    ],
    ids=["cut", "cut at the end", "flipped", "continued", "a page", "empty"],
)
def test_a_damaged_archive_is_refused_and_leaves_nothing(
    name: str, spoil: Callable[[bytes], bytes], said: str, tar: bytes, tmp_path: Path, cache: CacheConfig
) -> None:
    content = PACKED[name](tar)
    if name == "a.tzst" and spoil(b"x" * 100) == b"x" * 80:
        content = content[: -len(SKIPPABLE)]
    (tmp_path / name).write_bytes(spoil(content))
    with pytest.raises(ShardError, match=said) as refusal:
        open_dataset(tmp_path / name, members=MEMBERS, cache=cache)
    assert name in str(refusal.value)
    assert not list(cache.root.glob("*unfinished*"))


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_an_archive_that_would_fill_the_disk_is_refused(
    pack: Callable[[bytes], bytes], tmp_path: Path, cache: CacheConfig
) -> None:
    path = tmp_path / ("bomb.tar.gz" if pack is gzip.compress else "bomb.tar.zst")
    path.write_bytes(pack(bytes(110 * 1024**2)))
    with pytest.raises(ShardError, match=r"bomb.*unpack to more than 200 times as many"):
        open_dataset(path, members=MEMBERS, cache=cache)
    assert sum(file.stat().st_size for file in cache.root.iterdir()) < 10_000


def test_a_cache_that_is_too_small_is_told(tar: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar))
    with pytest.raises((StorageError, ConfigError), match="max_bytes"):
        open_dataset(
            tmp_path / "a.tar.gz", members=MEMBERS, cache=CacheConfig(root=tmp_path / "cache", max_bytes=len(tar) // 2)
        )


def test_a_copy_that_was_removed_is_made_again(tar: bytes, tmp_path: Path, cache: CacheConfig) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar))
    dataset = open_dataset(tmp_path / "a.tar.gz", members=MEMBERS, cache=cache)
    for name in copies(cache):
        (cache.root / name).unlink()
    config = evaluation_config(LoaderConfig(batch_size=4, num_workers=0, cache=cache))
    (batch,) = Loader(dataset, VIEW, config).arrays()
    assert list(batch.keys) == KEYS


@pytest.mark.parametrize("name", ["a.tar.bz2", "a.tar.xz"])
def test_other_compressions_are_refused(name: str, tar: bytes, tmp_path: Path, cache: CacheConfig) -> None:
    with tarfile.open(tmp_path / name, f"w:{name[-3:].strip('.')}"):
        pass
    with pytest.raises(ConfigError, match=r"\.gz, \.tgz, \.zst, \.tzst are read"):
        open_dataset(tmp_path / name, members=MEMBERS, cache=cache)


def test_what_is_no_regular_file_is_refused(tmp_path: Path, cache: CacheConfig) -> None:
    os.mkfifo(tmp_path / "pipe.tar.gz")
    for name in ("pipe.tar.gz", "absent.tar.gz"):
        with pytest.raises(AvkitError, match=name):
            open_dataset(tmp_path / name, members=MEMBERS, cache=cache)


def test_a_command_may_unpack(tar: bytes, tmp_path: Path, cache: CacheConfig) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar))
    found = open_dataset(f"pipe:gzip -dc {tmp_path}/a.tar.gz", members=MEMBERS, cache=cache, allow_pipe=True)
    assert found.keys.to_pylist() == KEYS


def test_inspect_says_that_it_needs_the_plain_tar(tar: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(zstd(tar))
    with pytest.raises(ConfigError, match="can be trained on, not inspected"):
        open_audit_dataset(str(tmp_path / "a.tar.zst"))
