"""Secrets in a finished dataset, as earlier versions stored them, and the search for secrets in files and outputs."""

import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from avmanifest.files import sha256_of_file
from avmanifest.layout import Layout

PASSWORD, TOKEN = "hunter2PASSWORD", "sigTOKENsig"
SECRETS = (PASSWORD, TOKEN)
URL = f"http://anna:{PASSWORD}@127.0.0.1:9/x.tar?sig={TOKEN}"
OLD_SOURCE = f"wds:{URL}/x.tar?sig={TOKEN}/clip.mp4"
OLD_REASON = f"Traceback (most recent call last):\n  File 'x.py'\nValueError: {URL}: no answer"


def plant(layout: Layout, columns: dict[str, str]) -> None:
    """Write the texts into these columns of every second row of every parquet file; markers and Croissant agree."""
    for split in layout.splits():
        for shard in layout.shards(split):
            stats = json.loads(layout.stats(shard).read_bytes())
            stats["files"]["parquet"] = _rewrite(layout.clips(shard), columns)
            layout.stats(shard).write_text(json.dumps(stats, indent=1, sort_keys=True))
        before = sha256_of_file(layout.manifest(split))
        after = _rewrite(layout.manifest(split), columns)["sha256"]
        croissant = layout.croissant.read_text()
        assert before in croissant
        layout.croissant.write_text(croissant.replace(before, str(after)))


def _rewrite(path: Path, columns: dict[str, str]) -> dict[str, object]:
    table = pq.read_table(path, partitioning=None)
    for name, text in columns.items():
        values = table.column(name).to_pylist()
        values[::2] = [text] * len(values[::2])
        field = table.schema.field(name)
        table = table.set_column(table.column_names.index(name), field, pa.array(values, field.type))
    pq.write_table(table, path, compression="zstd", version="2.6", write_page_checksum=True)
    return {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def leaks(folder: Path, secrets: Sequence[str] = SECRETS) -> list[str]:
    """Each place below a folder that holds a secret: names, bytes, parquet values and metadata, members of tars."""
    found = []
    for path in sorted(folder.rglob("*")):
        for secret in secrets:
            found += [
                f"{path.relative_to(folder)} ({where})" for where, text in _texts(path) if secret.encode() in text
            ]
    return found


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    yield "name", str(path.name).encode(errors="surrogateescape")
    if not path.is_file() or path.is_symlink():
        return
    content = path.read_bytes()
    yield "bytes", content
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        yield "rows", json.dumps(table.to_pylist(), ensure_ascii=False, default=str).encode()
        yield "metadata", repr(table.schema.metadata).encode()
    elif path.suffix == ".tar":
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                yield member.name, b"" if file is None else file.read()
    elif path.suffix == ".png":
        yield "text", b"".join(_png_text(content))


def _png_text(content: bytes) -> Iterator[bytes]:
    place = 8
    while place + 8 <= len(content):
        size, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        if kind in (b"zTXt", b"iTXt"):
            _, _, packed = content[place + 8 : place + 8 + size].partition(b"\0\0")
            try:
                yield zlib.decompress(packed)
            except zlib.error:
                yield packed
        place += size + 12
