"""Archives read in place: the listing, the effect of damage, and the bytes of the members."""

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from avdata.prepare.sources import open_source
from avdata.prepare.sources.archives import ArchiveSource, find_archives
from avdata.prepare.sources.local import LocalSource
from avdata.prepare.sources.media import FileRange, hash_media, open_media_file
from avdata.prepare.sources.names import ClipRequest
from avmanifest.errors import ConfigError, DecodeError, DownloadError, MediaError
from tests.serving import serving

ID = "-_A__b-C_3_"


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def videos(count: int, size: int = 3000) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {f"{number:011d}_000030.mp4": rng.bytes(size) for number in range(count)}


def request_of(name: str) -> ClipRequest:
    return ClipRequest(name[:11], 30.0, 40.0)


def read(source: ArchiveSource | LocalSource, request: ClipRequest) -> bytes:
    file = open_media_file(source.locate(request))
    if isinstance(file, Path):
        return file.read_bytes()
    with file:
        return file.read()


def drawn_mp4() -> bytes:
    """One second of a moving bar, with the index (moov) at the end of the file."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            image = np.zeros((48, 64, 3), np.uint8)
            image[:, number * 6 : number * 6 + 6] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


@pytest.fixture
def archive(tmp_path, request) -> Path:
    """Ten members, as a plain tar or as a tar.gz."""
    mode = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}[request.param]
    return write_tar(tmp_path / f"a{request.param}", videos(10), mode)


both = pytest.mark.parametrize("archive", [".tar", ".tar.gz"], indirect=True)


@both
def test_members_are_read_in_place(archive, tmp_path):
    source = open_source(f"wds:{archive}", cache_dir=tmp_path / "cache")
    assert len(source) == 10
    assert source.problems == []
    for name, content in videos(10).items():
        ref = source.locate(request_of(name))
        assert ref.is_clip
        assert ref.name == f"{archive.name}/{name}"
        assert ref.compressed == (archive.suffix == ".gz")
        assert read(source, request_of(name)) == content
        assert hash_media(ref) == (hashlib.sha256(content).hexdigest(), len(content))


@both
def test_a_decoder_reads_a_member(archive, tmp_path):
    video = drawn_mp4()
    mode = "w" if archive.suffix == ".tar" else "w:gz"
    path = write_tar(tmp_path / f"v{archive.name[1:]}", {f"x/{ID}_30.mp4": b"no", f"x/{ID}_000031.mp4": video}, mode)
    source = ArchiveSource([str(path)], cache_dir=tmp_path / "cache")
    with open_media_file(source.locate(ClipRequest(ID, 31.0))) as file, av.open(file) as container:
        frames = [frame.to_ndarray(format="gray8") for frame in container.decode(video=0)]
        container.seek(0)
        again = next(container.decode(video=0)).to_ndarray(format="gray8")
    with av.open(io.BytesIO(video)) as container:
        expected = [frame.to_ndarray(format="gray8") for frame in container.decode(video=0)]
    assert len(frames) == 10
    assert np.array_equal(frames, expected)
    assert np.array_equal(again, expected[0])


def test_another_process_reads_a_member_of_a_tar_gz(tmp_path):
    members = videos(3)
    path = write_tar(tmp_path / "a.tar.gz", members, "w:gz")
    ref = ArchiveSource([str(path)], cache_dir=tmp_path / "cache").locate(request_of(list(members)[1]))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(hash_media, ref).result() == hash_media(ref)


def test_seek_points_reach_every_member_of_a_large_tar_gz(tmp_path):
    # The bytes are compressible, because seek points in stored blocks need no window. 15 MB have four seek points.
    rng = np.random.default_rng(1)
    members = {f"{number:011d}_000030.mp4": rng.integers(0, 200, 3_000_000, np.uint8).tobytes() for number in range(5)}
    path = tmp_path / "a.tgz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        write_tar(tmp_path / "a.tar", members)
        file.write((tmp_path / "a.tar").read_bytes())
    source = ArchiveSource([str(path)], cache_dir=tmp_path / "cache")
    for name in reversed(members):
        assert read(source, request_of(name)) == members[name]


def test_a_large_member_is_inflated_while_it_is_read(tmp_path):
    content = bytes(65 * 1024**2) + b"end"
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        member = tarfile.TarInfo(f"{ID}_30.mp4")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    ref = ArchiveSource([str(path)], cache_dir=tmp_path / "cache").locate(ClipRequest(ID, 30.0))
    with open_media_file(ref) as file:
        assert file.seek(-5, os.SEEK_END) == len(content) - 5
        assert file.read() == b"\0\0end"
        file.seek(0)
        assert file.read(3) == bytes(3)


def test_the_second_run_reads_the_stored_listing(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", videos(3) | {"0.json": b"{}"}, "w:gz")
    cache = tmp_path / "cache"
    first = ArchiveSource([str(path)], cache_dir=cache)
    kept = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert sorted(file.suffix for file in kept) == [".gzidx", ".json"]
    second = ArchiveSource([str(path)], cache_dir=cache)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == kept
    for name in videos(3):
        assert second.locate(request_of(name)) == first.locate(request_of(name))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"members": [[1]], "problem": "", "refused": {}}'])
def test_a_damaged_listing_is_made_again(tmp_path, damage):
    path = write_tar(tmp_path / "a.tar.gz", videos(3), "w:gz")
    cache = tmp_path / "cache"
    ArchiveSource([str(path)], cache_dir=cache)
    next(cache.glob("*.json")).write_bytes(damage)
    source = ArchiveSource([str(path)], cache_dir=cache)
    assert read(source, request_of("00000000002")) == videos(3)["00000000002_000030.mp4"]


def test_webdataset_metadata_names_the_clip(tmp_path):
    fields = [
        {"youtube_id": ID, "start": 30, "end": 40.0},
        {"url": f"https://www.youtube.com/watch?t=1&v={ID}", "clips": [[50.5, 60.5]]},
        {"url": "https://youtu.be/AAAAAAAAAAA", "start": "70"},
        {"video_id": "BBBBBBBBBBB", "caption": None},
        {"id": "x", "url": 3, "clips": "none"},
    ]
    members: dict[str, bytes] = {}
    for number, document in enumerate(fields):
        pair = {f"{number:09d}.json": json.dumps(document).encode(), f"{number:09d}.mp4": b"video%d" % number}
        members |= pair if number % 2 else dict(reversed(pair.items()))
    members |= {"broken.json": b"\xff{", "broken.mp4": b"v", "list.json": b"[1]", "deep.json": b"[" * 100_000}
    source = ArchiveSource([str(write_tar(tmp_path / "a.tar", members))])
    assert len(source) == 6
    assert read(source, ClipRequest(ID, 30.0, 40.0)) == b"video0"
    assert read(source, ClipRequest(ID, 50.5, 60.5)) == b"video1"
    assert read(source, ClipRequest("AAAAAAAAAAA", 70.0, 80.0)) == b"video2"
    whole = source.locate(ClipRequest("BBBBBBBBBBB", 12.0, 22.0))
    assert not whole.is_clip
    assert whole.name == "a.tar/000000003.mp4"
    assert source.locate(ClipRequest(ID, 31.0, 41.0)) is None


def test_metadata_beside_a_video_as_other_tools_write_it(tmp_path):
    ids = [f"__b-c_D-9_{number}" for number in range(6)]
    members: dict[str, bytes] = {
        "000001.video.mp4": b"0",
        "000001.json": json.dumps({"youtube_id": ids[0], "start_seconds": 30}).encode(),
        "000002.mp4": b"1",
        "000002.json": json.dumps({"ytid": ids[1], "clips": [["00:00:30.000", "00:00:40.000"]]}).encode(),
        "000003.rgb.mp4": b"2",
        "000003.json": json.dumps({"url": f"https://www.youtube.com/v/{ids[2]}", "start": "01:00:30"}).encode(),
        "A [title] [x].mp4": b"3",
        "A [title] [x].info.json": json.dumps({"id": ids[3], "webpage_url": "https://x"}).encode(),
        "a.b c.mp4": b"4",
        "a.json": json.dumps({"youtube_id": ids[4], "start": 1}).encode(),
        "000006.mp4": b"5",
        "000006.json": json.dumps({"id": "6", "webpage_url": f"https://youtu.be/{ids[5]}", "start": "x"}).encode(),
    }
    source = ArchiveSource([str(write_tar(tmp_path / "a.tar", members))])
    for name, content in members.items():  # a folder of the same files gives the same answers
        (tmp_path / name).write_bytes(content)
    folder = LocalSource(tmp_path)
    for found in (source, folder):
        assert read(found, ClipRequest(ids[0], 30.0, 40.0)) == b"0"
        assert read(found, ClipRequest(ids[1], 30.0, 40.0)) == b"1"
        assert read(found, ClipRequest(ids[2], 3630.0, 3640.0)) == b"2"
        assert read(found, ClipRequest(ids[3], 7.0, 9.0)) == b"3"
        assert found.locate(ClipRequest(ids[4], 1.0)) is None
        assert read(found, ClipRequest(ids[5], 7.0, 9.0)) == b"5"
        assert [found.locate(ClipRequest(video_id, 30.0)).is_clip for video_id in (ids[0], ids[5])] == [True, False]


def test_of_a_video_that_is_stored_twice_the_last_one_counts(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for content in (b"cut", b"the whole video"):
            member = tarfile.TarInfo(f"{ID}_30.mp4")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = ArchiveSource([str(path)])
    assert len(source) == 1
    assert read(source, ClipRequest(ID, 30.0)) == b"the whole video"


def test_the_same_key_in_two_archives_is_refused_without_metadata(tmp_path):
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", {"000.mp4": name.encode(), f"{ID}_30.mp4": b"same"})
    source = ArchiveSource([str(tmp_path / "*.tar")])
    assert source.locate(ClipRequest("000")) is None
    assert source.locate(ClipRequest("000", path="000.mp4")) is None
    assert list(source.refused.values()) == [2]
    assert source.locate(ClipRequest(ID, 30.0)).name == f"a.tar/{ID}_30.mp4"


def test_only_regular_files_with_safe_names_are_listed(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("../up.mp4", "/etc/abs.mp4", "a/../../b.mp4", "./good/ok.mp4", "x.txt", "._ok.mp4"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.mp4")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    source = ArchiveSource([str(path)])
    assert len(source) == 1
    assert sorted(source.refused.values()) == [3, 5]
    assert source.problems == []
    assert read(source, ClipRequest("ok", path="good/ok.mp4")) == b"x"
    assert source.locate(ClipRequest("passwd", path="/etc/passwd")) is None


def test_long_names_and_names_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.tar"
    long = "c" * 150 + f"/{ID}_30.mp4"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in (long, os.fsdecode(b"caf\xe9.mp4")):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    source = ArchiveSource([str(path)])
    assert source.locate(ClipRequest(ID, 30.0)).name == f"a.tar/{long}"
    assert source.locate(ClipRequest(os.fsdecode(b"caf\xe9"))).name == "a.tar/caf\\xe9.mp4"


@both
@pytest.mark.parametrize("cut", [1, 511, 512, 700, 3000, 3585, 4096])
def test_a_truncated_archive_lists_the_whole_members_and_reports_the_damage(archive, cut, tmp_path):
    # A member is 512 bytes of header and 3072 of content: the cut falls into the seventh.
    plain = archive.read_bytes() if archive.suffix == ".tar" else gzip.decompress(archive.read_bytes())
    content = plain[: 6 * 3584 + cut - 1]
    if archive.suffix == ".gz":
        content = gzip.compress(content, 1)[:-8]  # the trailer is lost, the content is not
    archive.write_bytes(content)
    source = ArchiveSource([str(archive)], cache_dir=tmp_path / "cache")
    assert len(source) == (7 if cut > 3512 else 6)
    assert len(source.problems) == 1
    assert str(archive) in source.problems[0]
    for name, video in list(videos(10).items())[: len(source)]:
        assert read(source, request_of(name)) == video
    assert ArchiveSource([str(archive)], cache_dir=tmp_path / "cache").problems == source.problems


def test_a_truncated_gzip_stream_lists_the_whole_members(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", videos(100, 100_000), "w:gz")
    path.write_bytes(path.read_bytes()[:5_000_000])
    source = ArchiveSource([str(path)], cache_dir=tmp_path / "cache")
    assert 45 <= len(source) < 50
    assert "damaged" in source.problems[0]
    names = list(videos(100, 100_000).items())[: len(source)]
    for name, video in names:
        assert read(source, request_of(name)) == video


def test_flipped_bits_in_a_gzip_are_reported(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", videos(20), "w:gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    source = ArchiveSource([str(path)], cache_dir=tmp_path / "cache")
    assert len(source.problems) == 1


@pytest.mark.parametrize(
    ("spoil", "listed", "word"),
    [
        (lambda tar: tar[: 3 * 3584], 3, "without an end mark"),
        (
            lambda tar: tar[: 3 * 3584 + 100] + b"\x01" * 400 + tar[3 * 3584 + 500 :],
            3,
            "neither a header nor closing blocks",
        ),
        (lambda tar: tar[: 3 * 3584] + bytes(2_000_000), 3, "zeros of a broken copy"),
        (lambda tar: tar + bytes(2_000_000), 10, "zeros of a broken copy"),
    ],
)
def test_damage_between_members_is_reported(tmp_path, spoil, listed, word):
    path = write_tar(tmp_path / "a.tar", videos(10))
    path.write_bytes(spoil(path.read_bytes()))
    source = ArchiveSource([str(path)])
    assert len(source) == listed
    assert word in source.problems[0]


def test_one_bad_archive_does_not_hide_the_others(tmp_path):
    write_tar(tmp_path / "a.tar", videos(2))
    (tmp_path / "b.tar").write_bytes(b"<html>not found</html>" * 100)
    (tmp_path / "c.tar").write_bytes(b"")
    source = ArchiveSource([str(tmp_path / "{a,b,c}.tar")])
    assert len(source) == 2
    assert [Path(problem.partition(":")[0]).name for problem in source.problems] == ["b.tar", "c.tar"]
    with pytest.raises(ConfigError, match=r"no video in 2 archives.*b\.tar"):
        ArchiveSource([str(tmp_path / "{b,c}.tar")])


@both
def test_an_archive_that_shrank_after_listing_fails_the_clip(archive, tmp_path):
    source = ArchiveSource([str(archive)], cache_dir=tmp_path / "cache")
    ref = source.locate(request_of("00000000009"))
    archive.write_bytes(archive.read_bytes()[:9000])
    with pytest.raises(DecodeError, match="run the same command again") as error:
        hash_media(ref)
    assert error.value.status == "media_corrupt"
    archive.unlink()
    with pytest.raises(MediaError) as error:
        open_media_file(ref)
    assert error.value.status == "unavailable_missing"


def test_a_lost_index_fails_the_clip(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", videos(2), "w:gz")
    ref = ArchiveSource([str(path)], cache_dir=tmp_path / "cache").locate(request_of("00000000001"))
    Path(ref.gzip_index).write_bytes(b"something else, longer than a header")
    with pytest.raises(DecodeError, match="Delete it"):
        hash_media(ref)
    Path(ref.gzip_index).write_bytes(b"")
    with pytest.raises(DecodeError):
        hash_media(ref)
    Path(ref.gzip_index).unlink()
    with pytest.raises(MediaError, match="gzidx: the file no longer exists"):
        hash_media(ref)


def test_patterns_name_archives(tmp_path):
    for number in range(8, 12):
        write_tar(tmp_path / f"{number:03d}.tar", videos(1))
    write_tar(tmp_path / "[x].tgz", videos(1), "w:gz")

    def named(*patterns: str) -> list[str]:
        return [Path(path).name for path in find_archives([f"{tmp_path}/{pattern}" for pattern in patterns])]

    assert named("{008..011}.tar") == ["008.tar", "009.tar", "010.tar", "011.tar"]
    assert named("{008,010}.tar", "*.tar") == ["008.tar", "010.tar", "009.tar", "011.tar"]
    assert named("0{0,0}{8..9}.tar") == ["008.tar", "009.tar"]
    assert named("[x].tgz") == ["[x].tgz"]
    assert len(ArchiveSource([f"{tmp_path}/{{008..011}}.tar"])) == 4


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.tgz", "no file"),
        ("{0..1}.tar", "no file"),
        ("{2..1}.tar", "runs backward"),
        ("b.rar", "Unpack it"),
    ],
)
def test_patterns_without_a_file_are_config_errors(tmp_path, pattern, message):
    write_tar(tmp_path / "0.tar", videos(1))
    (tmp_path / "b.rar").write_bytes(b"Rar!")
    with pytest.raises(ConfigError, match=message):
        ArchiveSource([f"{tmp_path}/{pattern}"])


def test_paths_of_archives_are_sources_and_other_urls_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", videos(1))
    assert len(open_source(str(tmp_path / "a.tar"))) == 1
    assert len(open_source(f"wds:{tmp_path}/a.tar::{tmp_path}/*.tar")) == 1
    for spec in ("wds:https://host/a.tar.gz", "https://host/a.tgz"):
        with pytest.raises(ConfigError, match="Download it"):
            open_source(spec)
    with pytest.raises(ConfigError, match="unknown scheme 'file'; known: http"):
        open_source("wds:file:///etc/a.tar")


@pytest.fixture
def served(tmp_path):
    """A server, and the address of the archive that it serves."""
    write_tar(tmp_path / "a.tar", videos(30))
    with serving(tmp_path) as server:
        yield server, f"{server.url}/a.tar"


@pytest.mark.network
def test_an_archive_on_a_server_is_read_by_ranges(served):
    server, address = served
    source = open_source(f"wds:{address}")
    assert len(source) == 30
    for name, content in videos(30).items():
        assert read(source, request_of(name)) == content
    ref = source.locate(request_of("00000000003"))
    assert hash_media(ref)[1] == 3000
    server.statuses.extend([503] * 9)
    with pytest.raises(DownloadError) as error:
        open_media_file(ref)
    assert error.value.status == "net_http"


@pytest.mark.network
def test_a_server_without_ranges_or_file_is_a_config_error(served):
    server, address = served
    server.statuses.extend([503] * 9)
    with pytest.raises(ConfigError, match="cannot be listed"):
        open_source(f"wds:{address}")
    server.statuses.clear()
    server.sends_ranges = False
    with pytest.raises(ConfigError, match="cannot be listed"):
        open_source(f"wds:{address}")


def test_a_range_is_a_file_of_its_own(tmp_path):
    (tmp_path / "f").write_bytes(b"..0123456789..")
    with FileRange(io.FileIO(tmp_path / "f"), 2, 10, name="range") as file:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert file.read(4) == b"0123"
        assert file.seek(-3, os.SEEK_CUR) == 1
        assert file.read() == b"123456789"
        assert file.read(5) == b""
        assert file.seek(5, os.SEEK_END) == 15
        assert file.read() == b""
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-1)
        with pytest.raises(ValueError, match="whence"):
            file.seek(0, 9)
    with pytest.raises(ValueError, match="closed"):
        file.read(1)
    with pytest.raises(ValueError, match="closed"):
        file.tell()
    with (
        FileRange(io.FileIO(tmp_path / "f"), 10, 10, name="range") as file,
        pytest.raises(DecodeError, match="6 bytes early"),
    ):
        file.read()
