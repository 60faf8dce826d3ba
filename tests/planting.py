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

SECRET_URLS = [
    ("http://anna:PW@host/x.tar?sig=TOKEN", "http://***@host/x.tar?…"),
    ("wds:http://anna:PW@host/{00..03}.tar?sig=TOKEN", "wds:http://***@host/{00..03}.tar?…"),
    ("wds:http://a:PW@h/x.tar?sig=TOKEN::https://b:PW@h/y.tar", "wds:http://***@h/x.tar?…::https://***@h/y.tar"),
    ("http:https://h/{id}_{start:06d}.mp4?id={id}&key=TOKEN", "http:https://h/{id}_{start:06d}.mp4?id={id}&…"),
    ("https://{anna:PW,otto:PW}@h/x.tar", "https://***@h/x.tar"),
    ("https://anna:P%40W%2F@h:8080/x", "https://***@h:8080/x"),
    ("https://anna:P/W?x#y@h:8080/x", "https://***@h:8080/x"),
    ("https://anna:P W@h/x", "https://***@h/x"),
    ("https://TOKEN@h/x", "https://***@h/x"),
    ("https://anna:PW", "https://***"),  # cut off
    ("https:/anna:PW@h/x", "https:/***@h/x"),  # a Path of a URL
    ("s3://b/k?X-Amz-Credential=TOKEN&X-Amz-Signature=TOKEN&versionId=3", "s3://b/k?…&versionId=3"),
    ("https://h/x?TOKEN", "https://h/x?…"),
    ("https://h/x?v=a/TOKEN", "https://h/x?…"),
    ("https://h/x#access_token=TOKEN", "https://h/x#…"),
    ("https://h/x;jsessionid=TOKEN", "https://h/x;…"),
    ("https://h/x;sig=TOKEN?v=2&sig=TOKEN#TOKEN", "https://h/x;…?v=2&…#…"),
    ("file://anna:PW@h/x", "file://***@h/x"),
    (
        "https://anna:PW@web.archive.org/web/http://otto:PW@h/x?TOKEN",
        "https://***@web.archive.org/web/http://***@h/x?…",
    ),
    ("bad://http://anna:PW@h/x", "bad://http://***@h/x"),
    ("https://h/x?to=http://anna:PW@h2&sig=TOKEN", "https://h/x?…"),
    ("anna:PW@proxy:8080", "***@proxy:8080"),
    ("pipe:curl -H 'Authorization: Bearer TOKEN' https://anna:PW@h/x", "pipe:curl …"),
    ("pipe:A=TOKEN curl", "pipe:…"),
    ("wds:pipe:curl -u anna:PW https://h/x", "wds:pipe:curl …"),
    (" PIPE:curl -u anna:PW https://h/x", " PIPE:curl …"),
    ("http:///anna:PW@h/x?sig=TOKEN", "http:///***@h/x?…"),
    ("HTTPS:\\\\anna:PW@h/x?sig=TOKEN", "HTTPS:\\\\***@h/x?…"),
    ("//anna:PW@h/x?sig=TOKEN", "//***@h/x?…"),
    ("wds://anna:PW@h/x.tar", "wds://***@h/x.tar"),
]
"""URLs with the password PW, the token TOKEN or the user anna, and how each is shown."""


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
