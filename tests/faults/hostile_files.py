"""Files that are made to do harm, each with the error that should come of it.

Beside the mutants of `tests/faults/fuzz`: what is known to have gone wrong, and its relatives.
"""

import gzip
import io
import json
import os
import shutil
import signal
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import zstandard

from avmanifest.errors import AvkitError
from tests.faults.fault import Fault
from tests.faults.fuzz import targets as fuzz
from tests.faults.fuzz.mutators import NPY_HEADERS

DEADLINE_S = 60


class Case(NamedTuple):
    """A hostile file: what reads it, and the type of the error or the answer that should come."""

    tried: str
    expected: str
    run: Callable[[Path], object]
    says: str = ""  # a part of the message that must be there


class Hung(BaseException):
    """The reader waits."""


@contextmanager
def deadline() -> Iterator[None]:
    """Raise Hung after DEADLINE_S."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def seen(case: Case, folder: Path) -> str:
    """The type of the error, or the answer."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with deadline():
            return str(case.run(folder))
    except Hung:
        return "hang"
    except AvkitError as error:
        return type(error).__name__ if case.says in str(error) else f"{type(error).__name__} without {case.says!r}"
    except Exception as error:
        return f"traceback of {type(error).__name__}"


# .npy


def _npy(header: str, version: int = 1, length: int | None = None) -> bytes:
    text = header.encode()
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 if version == 1 else 4, "little") + text


def _parse_npy(content: bytes) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avdata.shards import parse_npy

        return parse_npy(content, "a.npy").shape

    return run


def _good_npy(version: tuple[int, int], order: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avdata.shards import parse_npy

        array = np.asarray(np.arange(12.0).reshape(3, 4), order="F" if order == "F" else "C")
        out = io.BytesIO()
        np.lib.format.write_array(out, array, version)
        return "read" if np.array_equal(parse_npy(out.getvalue(), "a.npy"), array) else "another array"

    return run


NPY = {
    **{f".npy: {header[:70]}": Case("parse_npy", "ShardError", _parse_npy(_npy(header))) for header in NPY_HEADERS},
    ".npy: header length beyond the file": Case("parse_npy", "ShardError", _parse_npy(_npy("{}", length=60_000))),
    ".npy: version 2 with a header of 2 GiB": Case("parse_npy", "ShardError", _parse_npy(_npy("{}", 2, 2**31))),
    ".npy: version 9": Case("parse_npy", "ShardError", _parse_npy(_npy("{}", 9))),
    ".npy: empty": Case("parse_npy", "ShardError", _parse_npy(b"")),
    ".npy: versions 1, 2 and 3, C order": Case("parse_npy", "read", _good_npy((3, 0), "C")),
    ".npy: version 2, Fortran order": Case("parse_npy", "read", _good_npy((2, 0), "F")),
}  # fmt: skip


# JSON, TOML, YAML


def _of_target(name: str, file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Read a target of the fuzzer after a change of one of its files."""

    def run(folder: Path) -> object:
        target = fuzz.TARGETS[name]
        target.make(folder)
        path = next(folder.glob(file))
        path.write_bytes(change(path.read_bytes()))
        target.read(folder)
        return "read"

    return run


def _with(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | fields).encode()


def _replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


def _described(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return _of_target("dataset: loaded", "set/dataset.json", change)


def _marked(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return _of_target("dataset: loaded", "set/train/00001_stats.json", change)


_DEEP = b"[" * 100_000 + b"]" * 100_000
_WIDE = b'{"a":' * 300 + b"1" + b"}" * 300
_NO_JSON = {"100,000 lists deep": _DEEP, "300 objects deep": _WIDE, "empty": b"", "not UTF-8": b"\xff\xfe{"}
_DOCUMENTS = {
    "a list": ("list: vgg-ss.json", "v.json", "ManifestError"),
    "a list of JSON lines": ("list: table.jsonl", "t.jsonl", "ManifestError"),
    "dataset.json": ("dataset: loaded", "set/dataset.json", "ManifestError"),
    "a marker": ("dataset: loaded", "set/train/00001_stats.json", "ShardError"),
    "the config of a run": ("run and checkpoint", "config.json", "ConfigError"),
}
PARSED = {
    f"JSON: {what}, {where}": Case(target, error, _of_target(target, file, lambda _, content=content: content))
    for where, (target, file, error) in _DOCUMENTS.items()
    for what, content in _NO_JSON.items()
} | {
    "TOML: 100,000 lists deep, a recipe": Case(
        "load_recipe", "ConfigError", _of_target("recipe.toml", "r.toml", lambda _: b"a = " + _DEEP)
    ),
    "TOML: a table 5,000 levels deep, settings": Case(
        "read_toml", "ConfigError", _of_target("settings.toml", "s.toml", lambda _: b"a" + b".a" * 5000 + b" = 1")
    ),
    "TOML: clip_seconds = nan, a recipe": Case(
        "load_recipe", "ConfigError",
        _of_target("recipe.toml", "r.toml", _replaced("clip_seconds = 10.0", "clip_seconds = nan")),
        says="clip_seconds",
    ),
    "JSON: a key twice, dataset.json": Case(
        "open_dataset", "ManifestError",
        _described(_replaced('"labels"', '"config": {}, "labels"')), says="twice",
    ),
    "JSON: NaN, a marker": Case(
        "open_dataset", "ShardError",
        _marked(_replaced('"count": 2', '"count": NaN')), says="NaN",
    ),
    "JSON: null for files, a marker": Case(
        "open_dataset", "ShardError", _marked(_with(files=None)), says="files",
    ),
    "JSON: bytes is 1e999, a marker": Case(
        "open_dataset", "ShardError",
        _marked(_replaced('"successes": 2', '"successes": 1e999')),
    ),
    "JSON: nested labels, dataset.json": Case(
        "open_dataset", "ManifestError", _described(_with(labels=[["a"], {}])), says="labels",
    ),
    "JSON: mel is a number, dataset.json": Case(
        "open_dataset", "ManifestError", _described(_with(config={"mel": 3})), says="mel",
    ),
}  # fmt: skip


def _foreign_label(value: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avdata.load import CacheConfig, MemberMap, open_dataset

        members = fuzz._members(0) | {"json": f'{{"label": {value}}}'.encode()}
        fuzz._pack(folder / "a.tar", {f"key.{name}": content for name, content in members.items()})
        dataset = open_dataset(
            folder / "a.tar", members=MemberMap(label="json:label"), cache=CacheConfig(root=folder / "cache")
        )
        return list(dataset.classes)

    return run


LABELS = {
    f"label of a sample: {value[:30]}": Case("open_dataset of a tar", expected, _foreign_label(value))
    for value, expected in {
        '["dog", 3]': "['3', 'dog']", '[["dog"]]': "ShardError", '{"a": 1}': "ShardError", "null": "ShardError",
        "NaN": "ShardError", "[" * 5000: "ShardError", '"a\\u0000b"': "ShardError", '"\\ud800"': "ShardError",
    }.items()
}  # fmt: skip


# Lists


def _csv(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return _of_target("list: table.csv", "t.csv", change)


LISTS = {
    "csv: a cell of 10 MB": Case(
        "read_requests", "ManifestError", _csv(_replaced("b,1,3", "b" * 10_000_000 + ",1,3")), says="line 3"
    ),
    "csv: a quote that is never closed, 10 MB": Case(
        "read_requests", "ManifestError", _csv(lambda c: c + b'd,"' + b"x" * 10_000_000), says="line 5"
    ),
    "csv: a NUL in an id": Case("read_requests", "ManifestError", _csv(_replaced("b,1,3", "b\0,1,3")), says="NUL"),
    "csv: a NUL in a label": Case("read_requests", "ManifestError", _csv(_replaced("cat", "c\0at")), says="NUL"),
    "csv: start is inf": Case("read_requests", "ManifestError", _csv(_replaced("b,1,3", "b,inf,3")), says="line 3"),
    "csv: start is nan": Case("read_requests", "ManifestError", _csv(_replaced("b,1,3", "b,nan,3")), says="line 3"),
    "list of lines: a NUL": Case(
        "read_requests", "ManifestError",
        _of_target("list: vggsound.csv", "vggsound.csv", _replaced("--0PQM4-hqg,30", "--0PQM4-hqg\0,30")),
        says="line 2",
    ),
    "list of lines: a line of 10 MB": Case(
        "read_requests", "ManifestError",
        _of_target("list: vggsound.csv", "vggsound.csv", lambda c: c + b"x" * 10_000_000), says="line 7",
    ),
}  # fmt: skip


# Parquet


def _manifest(change: Callable[[Any], Any], file: str = "set/manifest/train.parquet") -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        import pyarrow.parquet as pq

        fuzz.TARGETS["dataset: loaded"].make(folder)
        pq.write_table(change(pq.read_table(folder / file)), folder / file)
        fuzz.TARGETS["dataset: loaded"].read(folder)
        return "read"

    return run


def _column(name: str, value: Any) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        import pyarrow as pa

        place = table.column_names.index(name)
        field = table.schema.field(name)
        values = table.column(name).to_pylist()
        values[1] = value(values[1]) if callable(value) else value
        return table.set_column(place, field, pa.array(values, field.type))

    return change


def _no_utf8(table: Any) -> Any:
    import pyarrow as pa

    offsets = pa.py_buffer(struct.pack("<5i", 0, 2, 4, 6, 8))
    keys = pa.StringArray.from_buffers(4, offsets, pa.py_buffer(b"\xff\xfe" * 4))
    return table.set_column(table.column_names.index("key"), "key", keys)


def _far(members: Any) -> Any:
    return [{**member, "offset": 2**62} for member in members]


PARQUET = {
    "manifest: a null key": Case("open_dataset", "ManifestError", _manifest(_column("key", None)), says="key"),
    "manifest: a null status": Case("open_dataset", "ManifestError", _manifest(_column("status", None)), says="status"),
    "manifest: no members": Case("open_dataset", "ManifestError", _manifest(_column("members", None)), says="members"),
    "manifest: a member without a place": Case(
        "open_dataset", "ManifestError",
        _manifest(_column("members", [{"name": "x.jpg", "offset": None, "size": 5}])), says="null",
    ),
    "manifest: a member at 2**62": Case(
        "open_dataset", "ManifestError", _manifest(_column("members", _far)), says="members"
    ),
    "manifest: a size of -1": Case(
        "open_dataset", "ManifestError",
        _manifest(_column("members", [{"name": "x.jpg", "offset": 0, "size": -1}])), says="negative",
    ),
    "manifest: a frame at inf": Case(
        "open_dataset", "ManifestError", _manifest(_column("frame_times_s", [float("inf"), 0.0])), says="frame_times_s",
    ),
    "manifest: a null label": Case(
        "open_dataset", "ManifestError", _manifest(_column("labels", [None])), says="labels"
    ),
    "manifest: a sample of no shard": Case(
        "open_dataset", "ManifestError", _manifest(_column("shard", None)), says="shard"
    ),
    "manifest: keys that are not UTF-8": Case("open_dataset", "ManifestError", _manifest(_no_utf8), says="UTF"),
    "manifest: no column status": Case(
        "open_dataset", "ManifestError", _manifest(lambda t: t.drop_columns(["status"])), says="status"
    ),
    "manifest: a column twice": Case(
        "open_dataset", "ManifestError", _manifest(lambda t: t.append_column("key", t.column("key"))), says="twice"
    ),
    "manifest: a label of 20 MB": Case(
        "open_dataset", "ManifestError", _manifest(_column("labels", ["x" * 20_000_000]))
    ),
    "manifest: footer of 4 GB": Case(
        "open_dataset", "ManifestError",
        _of_target("dataset: loaded", "set/manifest/train.parquet", lambda c: c[:-8] + b"\xff\xff\xff\xfe" + c[-4:]),
    ),
    "list: a column whose name is not UTF-8": Case(
        "read_requests",
        "ManifestError",
        _of_target("list: table.parquet", "t.parquet", lambda c: c.replace(b"start", b"\xff\xfeart")),
    ),
    "list: footer of nonsense": Case(
        "read_requests", "ManifestError",
        _of_target("list: table.parquet", "t.parquet", lambda c: c[:-300] + bytes(292) + c[-8:]),
    ),
}  # fmt: skip


# Archives


def _archive(
    change: Callable[[bytes], bytes], *, packed: bool = False, asked_to_tell: bool = True
) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avdata.prepare.sources.archives import list_archive

        fuzz._make_archive(folder)
        content = change((folder / "a.tar").read_bytes())
        (folder / "a.tar").write_bytes(gzip.compress(content) if packed else content)
        found = list_archive(
            str((folder / "a.tar").rename(folder / ("a.tar.gz" if packed else "a.tar"))), folder / "cache"
        )
        before = {"d/---g-f_I2yQ_000000.mp4", "d/v0.mp4"} <= {member.name for member in found.members}
        told = ", and the damage is told" if found.problem and asked_to_tell else ""
        return f"the videos before it are {'kept' if before else 'lost'}{told}"

    return run


def _packed(name: str, content: Callable[[], bytes]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avdata.prepare.sources.archives import list_archive

        (folder / name).write_bytes(content())
        found = list_archive(str(folder / name), folder / "cache")
        refused = sum(found.refused.values())
        kept = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
        assert kept < 10**6, "a copy was left"
        if found.members:
            return f"{len(found.members)} listed"
        return "the damage is told" if found.problem else f"{refused} refused"

    return run


def _zip(content: bytes, name: str = "v.mp4", *, size: int | None = None, flags: int = 0) -> bytes:
    """A zip with one video. `size` and `flags` are what its directory says of it, in place of the truth."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    packed = bytearray(out.getvalue())
    place = packed.rindex(b"PK\x01\x02")
    packed[place + 8] |= flags
    if size is not None:
        packed[place + 24 : place + 28] = size.to_bytes(4, "little")
    return bytes(packed)


def _zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def _size_of_third(field: bytes) -> Callable[[bytes], bytes]:
    """The archive with another size in the header of its third video; four members come before it."""

    def change(content: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            at = [info.offset for info in tar.getmembers() if info.name.endswith(".mp4")][2]
        header = bytearray(content[at : at + 512])
        header[124:136] = field
        header[148:156] = b"%06o\0 " % sum(bytes(header[:148]) + b" " * 8 + bytes(header[156:]))
        return content[:at] + bytes(header) + content[at + 512 :]

    return change


def _pax_before_third(record: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            at = [info.offset for info in tar.getmembers() if info.name.endswith(".mp4")][2]
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(record)
        return content[:at] + info.tobuf() + record + bytes(-len(record) % 512) + content[at:]

    return change


_KEPT = "the videos before it are kept"
_TOLD = f"{_KEPT}, and the damage is told"


def _pax(record: bytes) -> Case:
    """Python's versions differ in what they make of a wrong record; none may lose what came before it."""
    return Case("list_archive", _KEPT, _archive(_pax_before_third(record), asked_to_tell=False))


ARCHIVES = {
    "tar: base-256 size of 2**63 - 1": Case(
        "list_archive", _TOLD, _archive(_size_of_third(b"\x80" + bytes(3) + (2**63 - 1).to_bytes(8, "big")))
    ),
    "tar: base-256 size of 2**88": Case(
        "list_archive", _TOLD, _archive(_size_of_third(b"\x80" + b"\xff" * 11))
    ),
    "tar.gz: base-256 size of 2**88": Case(
        "list_archive", _TOLD, _archive(_size_of_third(b"\x80" + b"\xff" * 11), packed=True)
    ),
    "tar: base-256 size below 0": Case("list_archive", _TOLD, _archive(_size_of_third(b"\xff" * 12))),
    "tar: size of 1 TB in octal": Case("list_archive", _TOLD, _archive(_size_of_third(b"17777777777\0"))),
    "tar: pax record of size abc": _pax(b"12 size=abc\n"),
    "tar: pax record longer than its header": _pax(b"99999 a=b\n"),
    "tar: pax record of length 0": _pax(b"0 a=b\n"),
    "tar: sparse map of nonsense": _pax(b"25 GNU.sparse.map=a,b,c\n\n" + b"22 GNU.sparse.size=-1\n"),
    "zip: 100 MB of zeros": Case("list_archive", "1 refused", _packed("a.zip", lambda: _zip(bytes(100_000_000)))),
    "zip: a size of 4 GB": Case("list_archive", "1 refused", _packed("a.zip", lambda: _zip(b"v", size=2**32 - 2))),
    "zip: encrypted": Case("list_archive", "1 refused", _packed("a.zip", lambda: _zip(b"v", flags=1))),
    "zip: a name with ../": Case("list_archive", "1 refused", _packed("a.zip", lambda: _zip(b"v", "../v.mp4"))),
    "zip: cut": Case("list_archive", "the damage is told", _packed("a.zip", lambda: _zip(b"v")[:-30])),
    "tar.zst: 100 MB of zeros": Case(
        "list_archive", "the damage is told", _packed("a.tar.zst", lambda: _zstd(bytes(100_000_000)))
    ),
    "tar.zst: a window of 2 GB": Case(
        "list_archive", "the damage is told", _packed("a.tar.zst", lambda: b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(64))
    ),
    "tar.zst: cut": Case("list_archive", "the damage is told", _packed("a.tar.zst", lambda: _zstd(b"v" * 999)[:-9])),
}  # fmt: skip


# Pictures and sound


def _png(width: int, height: int, color: int = 0, depth: int = 8) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _jpeg(mode: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from PIL import Image

        from avdata.images import decode_jpeg

        out = io.BytesIO()
        Image.new(mode, (32, 16), 0).save(out, "JPEG")
        return decode_jpeg(out.getvalue()).shape

    return run


def _huge_jpeg(folder: Path) -> object:
    from avdata.images import decode_jpeg
    from tests.shards import sample_members

    content = sample_members(0, seconds=0.5, num_frames=1)[0]["frame00.jpg"]
    at = content.index(b"\xff\xc0") + 5
    return decode_jpeg(content[:at] + b"\xc3\x50\xc3\x50" + content[at + 4 :]).shape


def _mask(content: bytes) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avdata.images import decode_mask

        return decode_mask(content).shape

    return run


def _picture(content: bytes) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avdata.draw.images import decode_rgb

        found = decode_rgb(content)
        return found if found is None else found.shape

    return run


def _flac(rate: int, channels: int, claimed: int | None = None) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        import soundfile

        from avdata.waveform import decode_flac

        out = io.BytesIO()
        soundfile.write(out, np.zeros((3200, channels), np.int16), rate, format="FLAC", subtype="PCM_16")
        content = out.getvalue()
        if claimed is not None:
            packed = int.from_bytes(content[18:26], "big") >> 36 << 36 | claimed
            content = content[:18] + packed.to_bytes(8, "big") + content[26:]
        return len(decode_flac(content))

    return run


PICTURES = {
    "PNG: 50,000 x 50,000, a mask": Case(
        "decode_mask", "ShardError", _mask(_png(50_000, 50_000)), says="50000 x 50000"
    ),
    "PNG: 2**31 x 2**31, a mask": Case("decode_mask", "ShardError", _mask(_png(2**31 - 1, 2**31 - 1))),
    "PNG: 16 bits, a mask": Case("decode_mask", "ShardError", _mask(_png(4, 4, depth=16))),
    "PNG: 50,000 x 50,000, shown": Case("decode_rgb", "None", _picture(_png(50_000, 50_000))),
    "PNG: 0 x 0, shown": Case("decode_rgb", "None", _picture(_png(0, 0))),
    "JPEG: 50,000 x 50,000": Case("decode_jpeg", "ShardError", _huge_jpeg, says="50000 x 50000"),
    "JPEG: gray": Case("decode_jpeg", "(16, 32, 3)", _jpeg("L")),
    "JPEG: CMYK": Case("decode_jpeg", "(16, 32, 3)", _jpeg("CMYK")),
    "FLAC: 44.1 kHz": Case("decode_flac", "ShardError", _flac(44_100, 1), says="44100 Hz"),
    "FLAC: 8 channels": Case("decode_flac", "ShardError", _flac(16_000, 8), says="8 channels"),
    "FLAC: claims 2**36 - 1 samples": Case("decode_flac", "ShardError", _flac(16_000, 1, 2**36 - 1)),
}  # fmt: skip


# Weights


def _weights(name: str, content: Callable[[], bytes]) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        from avmodel.weights.files import read_weights

        (folder / name).write_bytes(content())
        return sorted(read_weights(folder / name))

    return run


def _bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        for number in range(4):
            archive.writestr(f"archive/data/{number}", bytes(100_000_000))
    return out.getvalue()


def _int_weights(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(name for name in header if header[name].get("dtype") == "F32")
    header[name]["dtype"] = "I32"
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


WEIGHTS = {
    "zip bomb: 400 MB in a .pth": Case("read_weights", "ConfigError", _weights("w.pth", _bomb), says="unpack"),
    "safetensors: header of 2**60 bytes": Case(
        "read_weights", "CheckpointError", _weights("w.safetensors", lambda: (2**60).to_bytes(8, "little") + b"{}")
    ),
    "safetensors: int32 weights in a checkpoint": Case(
        "load_model", "CheckpointError",
        _of_target("run and checkpoint", "checkpoints/*/model.safetensors", _int_weights),
    ),
    "safetensors: a header of lists, 100,000 deep": Case(
        "read_weights", "ConfigError", _weights("w.safetensors", lambda: len(_DEEP).to_bytes(8, "little") + _DEEP)
    ),
}  # fmt: skip

CASES = NPY | PARSED | LABELS | LISTS | PARQUET | ARCHIVES | PICTURES | WEIGHTS


# What is no file at all


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    # A socket's path may have about 100 characters.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path], None]] = {
    "a FIFO": _fifo, "a socket": _socket, "a device": _device, "a folder": Path.mkdir,
}  # fmt: skip


def in_place_of_files(target: str, folder: Path) -> dict[str, str]:
    """What came when each of KINDS was in the place of a file of the target, one of each suffix."""
    made, copy = folder / "made", folder / "copy"
    made.mkdir(parents=True)
    fuzz.TARGETS[target].make(made)
    files = sorted(path for path in made.glob(fuzz.TARGETS[target].files) if path.is_file())
    found = {}
    for path in {path.name.partition(".")[2]: path for path in files}.values():
        for kind, put in KINDS.items():
            shutil.copytree(made, copy)
            (copy / path.relative_to(made)).unlink()
            put(copy / path.relative_to(made))
            came = seen(Case("", "", fuzz.TARGETS[target].read), copy)
            is_bad = came == "hang" or came.startswith("traceback")
            found[f"{kind} in place of {path.name}"] = came if is_bad else "typed or harmless"
            shutil.rmtree(copy)
    return found


def hostile_faults(folder: Path) -> Iterator[Fault]:
    """The rows of the fault table."""
    for number, (name, case) in enumerate(CASES.items()):
        yield Fault(name, case.tried, case.expected, seen(case, folder / str(number)))
        shutil.rmtree(folder / str(number), ignore_errors=True)
    for target in fuzz.TARGETS:
        found = in_place_of_files(target, folder / "kind")
        bad = sorted(f"{fault}: {came}" for fault, came in found.items() if came != "typed or harmless")
        kinds = f"{', '.join(KINDS)} in place of a file: {target}"
        yield Fault(kinds, f"{len(found)} times", "typed or harmless", ", ".join(bad) or "typed or harmless")
        shutil.rmtree(folder / "kind")
