"""Seeded changes of files: of their bytes, and of what their formats say.

A mutator gets the content and a random generator, and returns what was changed, in words, and the new content.
"""

import io
import json
import random
import re
import struct
import tarfile
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Mutated = tuple[str, bytes]
Mutator = Callable[[bytes, random.Random], Mutated]

DEEP = 20_000
_NUMBERS = (0, -1, 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308)
_TEXTS = (
    "",
    "\0",
    "a\0b",
    "../../etc/passwd",
    "/etc/passwd",
    "x" * 100_000,
    "é",
    "\u202e",
    "nan",
    "-1",
    "1e999",
    "%s{0}",
)


def mutate_bytes(content: bytes, chance: random.Random) -> Mutated:
    """One to three changes of bytes, whatever the format."""
    data, said = bytearray(content), []
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(max(len(data), 1))
        length = min(chance.choice((1, 2, 4, 8, 64, 512)), max(len(data) - at, 0))
        change = chance.choice(("flip", "set", "zeros", "ones", "cut", "shorter", "longer", "twice", "number", "empty"))
        match change:
            case "flip" if data:
                data[at] ^= 1 << chance.randrange(8)
            case "set" if data:
                data[at] = chance.randrange(256)
            case "zeros" | "ones":
                data[at : at + length] = (b"\0" if change == "zeros" else b"\xff") * length
            case "cut":
                del data[at:]
            case "shorter":
                del data[at : at + length]
            case "longer":
                data[at:at] = chance.randbytes(length)
            case "twice":
                data[at:at] = data[at : at + length]
            case "number":
                order = chance.choice(("<", ">"))
                value = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 0xFFFFFFF0))
                data[at : at + 4] = struct.pack(order + "I", value)
            case "empty" if chance.random() < 0.1:
                data.clear()
        said.append(f"{change} at {at}")
    return f"bytes: {', '.join(word.split()[0] for word in said)}", bytes(data)


def mutate_json(content: bytes, chance: random.Random) -> Mutated:
    """A hostile value in place of one of a JSON document, or text that is no JSON."""
    change = chance.choice(
        ("value", "value", "value", "missing", "twice", "nan", "infinity", "deep", "surrogate", "bytes")
    )
    if change == "bytes":
        return mutate_bytes(content, chance)
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []
    found: list[Any] = [document]
    while found:
        node = found.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in list(items):
            places.append((node, key))
            found.append(value)
    node, key = chance.choice(places)
    marker = "@@fuzz@@"
    if change == "missing":
        if isinstance(node, dict):
            del node[key]
        else:
            node.pop(key)
        return "json: an entry missing", json.dumps(document).encode()
    if change == "twice" and isinstance(node, dict):
        value = json.dumps(node[key])
        node[key] = marker
        text = json.dumps(document).replace(f'"{marker}"', f"{value}, {json.dumps(key)}: null", 1)
        return "json: a key twice", text.encode()
    node[key] = marker
    hostile = {
        "nan": ("NaN", "NaN"),
        "infinity": ("Infinity", chance.choice(("-Infinity", "1e999"))),
        "deep": (
            "nested deeply",
            chance.choice(("[" * DEEP + "]" * DEEP, '{"a":' * 500 + "1" + "}" * 500, "[" * DEEP)),
        ),
        "surrogate": ("half a surrogate", '"\\ud800"'),
    }
    words, text = hostile.get(change) or _hostile_value(chance)
    return f"json: {words}", json.dumps(document).replace(f'"{marker}"', text, 1).encode()


def _hostile_value(chance: random.Random) -> tuple[str, str]:
    value = chance.choice((None, True, False, [], {}, [None], {"": None}, [[1, 2]], *_NUMBERS, *_TEXTS))
    words = {type(None): "null", bool: "true or false", list: "a list", dict: "an object", str: "another text"}
    return words.get(type(value), "another number"), json.dumps(value)


def mutate_lines(content: bytes, chance: random.Random) -> Mutated:
    """A hostile cell, line or encoding in a text table."""
    change = chance.choice(("cell", "cell", "cell", "long", "quote", "line", "columns", "encoding", "nul", "bytes"))
    if change == "bytes":
        return mutate_bytes(content, chance)
    if change == "encoding":
        text = content.decode()
        encoded = chance.choice(
            (text.encode("utf-16"), text.encode("utf-16-le"), b"\xef\xbb\xbf" + content, b"\xff" + content)
        )
        return "lines: another encoding", encoded
    lines = content.split(b"\n")
    at = chance.randrange(len(lines))
    separator = chance.choice((b",", b"\t", b";"))
    cells = lines[at].split(b",")
    place = chance.randrange(len(cells))
    match change:
        case "cell":
            cells[place] = str(chance.choice((*_NUMBERS, *_TEXTS, "inf", "NaN"))).encode()
        case "long":
            cells[place] = b"x" * chance.choice((200_000, 3_000_000))
        case "quote":
            cells[place] = chance.choice((b'"', b'"a', b'a"b', b'""""', b'"\n'))
        case "nul":
            cells[place] = b"a\0b"
        case "columns":
            cells = cells[:-1] if chance.random() < 0.5 else [*cells, b"more"]
    lines[at] = (separator if chance.random() < 0.05 else b",").join(cells)
    if change == "line":
        lines[at:at] = chance.choice(([lines[at]], [b""], [b"\r"], [b'{"id": 1}'], [b"[" * DEEP]))
    return f"lines: {change}", b"\n".join(lines)


def mutate_toml(content: bytes, chance: random.Random) -> Mutated:
    """A hostile value in a TOML file."""
    lines = content.decode().split("\n")
    places = [number for number, line in enumerate(lines) if "=" in line]
    if not places or chance.random() < 0.2:
        return mutate_bytes(content, chance)
    at = chance.choice(places)
    name = lines[at].partition("=")[0]
    values = (
        "nan",
        "-inf",
        "1e999",
        str(10**40),
        "[" * DEEP,
        "[]",
        "{}",
        '"\\u0000"',
        '"' + "x" * 50_000 + '"',
        "true",
        "-1",
    )
    lines[at] = chance.choice(
        (
            f"{name}={chance.choice(values)}",
            lines[at] + "\n" + lines[at],
            "a" + ".a" * 3000 + " = 1",
            f"{name}",
            "[[x]]",
        )
    )
    return "toml: a hostile value", "\n".join(lines).encode()


NPY_HEADERS = (
    "{'descr': '<f2', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
    f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({2**70}, 0)}}",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (True, True)}",
    "{'descr': '<f2', 'fortran_order': True, 'shape': (128, 332)}",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 5)}",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (128, 332), 1: 2}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (128, 332)}",
    "{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (128, 332)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': 128}",
    "{'descr': '>c16', 'fortran_order': 0, 'shape': [128, 332]}",
    "(" * 300,
    "-" * 300 + "1",
    "__import__('os').getcwd()",
    "{}",
)


def mutate_npy(content: bytes, chance: random.Random) -> Mutated:
    """Another header: shapes, types, keys, versions and lengths that do not fit."""
    if chance.random() < 0.3:
        return mutate_bytes(content, chance)
    header = chance.choice(NPY_HEADERS).encode() + b"\n"
    version = chance.choice((1, 1, 2, 3, 0, 9))
    length = chance.choice((len(header), len(header), 0xFFFF, 0, 5))
    prefix = b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 if version == 1 else 4, "little")
    return "npy: a hostile header", prefix + header + content[128:]


def mutate_tar(content: bytes, chance: random.Random) -> Mutated:
    """A field of a header with a good checksum, a header before a member, or another order."""
    headers = _headers(content)
    if not headers or chance.random() < 0.25:
        return mutate_bytes(content, chance)
    at = chance.choice(headers)
    data = bytearray(content)
    if chance.random() < 0.3:
        extra = chance.choice(
            (
                _pax(b"size=abc"), _pax(b"size=-5"), _pax(b"size=99999999999999999999"), _pax(b"path=a\0b.mp4"),
                _pax(b"GNU.sparse.major=1\n30 GNU.sparse.minor=0\n"), _pax(b"GNU.sparse.map=1,x,2"), _pax(b"=\xff\xfe"),
                _pax(b"mtime=nan"), _pax(b"hdrcharset=BINARY"), _member("././@LongLink", b"x" * 5000, b"L"),
                _member("././@LongLink", b"x\0", b"L") * 3000, _pax(b""), _member("pax", b"9999999 a=b\n", b"x"),
                _member("pax", b"0 a=b\n", b"x"), _member("pax", b"-5 a=b\n", b"g"),
            )
        )  # fmt: skip
        data[at:at] = extra
        return "tar: a header before a member", bytes(data)
    field = chance.choice(("size", "size", "size", "name", "type", "magic", "mode", "prefix"))
    start, length = {
        "name": (0, 100),
        "mode": (100, 8),
        "size": (124, 12),
        "type": (156, 1),
        "magic": (257, 8),
        "prefix": (345, 155),
    }[field]
    values = {
        "size": (
            b"\x80" + bytes(3) + (2**63 - 1).to_bytes(8, "big"), b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0",
            b"-0000000001\0", b"99999999999\0", b"\0" * 12, b"            ",
            b"\x80" + bytes(3) + (2**40).to_bytes(8, "big"),
        ),
        "name": (b"", b"..", b"/etc/x.mp4", b"\xff\xfe.jpg", b"a" * 100, b"__x.jpg", b"key.json", b"x\n.jpg"),
        "type": (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"S", b"x", b"g", b"L", b"Z", b"V"),
        "magic": (b"ustar  \0", b"nothing\0", b"ustar\x0000"), "mode": (b"zzzzzzz\0",),
        "prefix": (b"../..", b"p" * 155),
    }  # fmt: skip
    data[at + start : at + start + length] = chance.choice(values[field])[:length].ljust(length, b"\0")
    data[at : at + 512] = _with_checksum(bytes(data[at : at + 512]))
    return f"tar: another {field}", bytes(data)


def _headers(content: bytes) -> list[int]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            return [member.offset for member in tar.getmembers()]
    except tarfile.TarError:
        return []


def _with_checksum(header: bytes) -> bytes:
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def _member(name: str, content: bytes, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def _pax(record: bytes) -> bytes:
    length = len(record) + 5
    return _member("pax", b"%d %s\n" % (length if length > 99 else len(record) + 4, record), b"x")


def mutate_parquet(content: bytes, chance: random.Random) -> Mutated:
    """Other columns, types or values in a readable file; or other bytes, most of them in its footer."""
    change = chance.choice(("bytes", "footer", "drop", "retype", "nulls", "values", "texts", "rows", "twice"))
    if change == "bytes":
        return mutate_bytes(content, chance)
    if change == "footer":
        tail = min(len(content), 8 + int.from_bytes(content[-8:-4], "little"))
        words, footer = mutate_bytes(content[-tail:], chance)
        return "parquet: " + words.replace("bytes", "footer"), content[:-tail] + footer
    table = pq.read_table(io.BytesIO(content))
    name = chance.choice(table.column_names)
    place, kind = table.column_names.index(name), table.schema.field(name).type
    column = table.column(name)
    if change == "retype":
        kind = chance.choice((pa.int64(), pa.binary(), pa.list_(pa.int8()), pa.dictionary(pa.int32(), pa.string())))
    if change in ("nulls", "retype"):
        column = pa.nulls(len(table), kind)
    elif change in ("values", "texts"):
        column = _hostile_column(kind, len(table), chance)
    if change == "drop":
        table = table.drop_columns([name])
    elif change == "rows":
        table = pa.concat_tables([table] * 3) if chance.random() < 0.5 else table.slice(0, 0)
    elif change == "twice":
        table = table.append_column(name, column)
    else:
        table = table.set_column(place, pa.field(name, kind), column)
    out = io.BytesIO()
    pq.write_table(table, out)
    return f"parquet: {change}", out.getvalue()


def _hostile_column(kind: pa.DataType, rows: int, chance: random.Random) -> pa.Array:
    if pa.types.is_list(kind):
        if chance.random() < 0.3:
            return pa.array([[None]] * rows, kind)
        return pa.ListArray.from_arrays(
            pa.array(range(rows + 1), pa.int32()), _hostile_column(kind.value_type, rows, chance)
        )
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([_hostile_column(f.type, rows, chance) for f in kind], fields=list(kind))
    if pa.types.is_floating(kind):
        return pa.array([chance.choice((float("nan"), float("inf"), -1.0, 1e300))] * rows, kind)
    if pa.types.is_integer(kind):
        largest = 2 ** (kind.bit_width - 1) - 1
        return pa.array([chance.choice((-1, largest, -largest, 0))] * rows, kind)
    if pa.types.is_boolean(kind):
        return pa.array([None] * rows, kind)
    if pa.types.is_string(kind):
        if chance.random() < 0.3:  # not UTF-8
            offsets = pa.py_buffer(struct.pack(f"<{rows + 1}i", *range(0, 2 * rows + 2, 2)))
            return pa.StringArray.from_buffers(rows, offsets, pa.py_buffer(b"\xff\xfe" * max(rows, 1)))
        return pa.array([chance.choice(_TEXTS)] * rows, kind)
    return pa.nulls(rows, kind)


def mutate_safetensors(content: bytes, chance: random.Random) -> Mutated:
    """Another length of the header, or another entry in it."""
    if chance.random() < 0.3:
        return mutate_bytes(content, chance)
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    if chance.random() < 0.3:
        claimed = chance.choice((2**60, 2**63, 2**64 - 1, 0, 1, length - 1, length + 8, 100_000_000))
        return "safetensors: another header length", claimed.to_bytes(8, "little") + header + body
    entries = json.loads(header)
    name = chance.choice([name for name in entries if name != "__metadata__"])
    entry = entries[name]
    change = chance.choice(("dtype", "shape", "offsets", "metadata", "config", "missing", "json"))
    match change:
        case "dtype":
            entry["dtype"] = chance.choice(("I32", "F64", "BF16", "U8", "XYZ", ""))
        case "shape":
            entry["shape"] = chance.choice(([2**62, 4], [0], [-1], [], [2**64], entry["shape"][::-1]))
        case "offsets":
            entry["data_offsets"] = chance.choice(([0, 2**60], [5, 1], [0, 0], [-1, 4]))
        case "metadata" if entries.get("__metadata__"):
            key = chance.choice(list(entries["__metadata__"]))
            entries["__metadata__"][key] = str(chance.choice((*_NUMBERS, *_TEXTS, "[" * 3000, "{}", "[]", "null")))
        case "config" if "config" in entries.get("__metadata__", {}):
            config = mutate_json(entries["__metadata__"]["config"].encode(), chance)[1]
            entries["__metadata__"]["config"] = config.decode(errors="replace")
        case "missing":
            del entries[name]
    text = json.dumps(entries).encode()
    if change == "json":
        text = mutate_json(text, chance)[1]
    return f"safetensors: another {change}", len(text).to_bytes(8, "little") + text + body


def mutate_png(content: bytes, chance: random.Random) -> Mutated:
    """Another size or color type in the header, with a good checksum."""
    if chance.random() < 0.5:
        return mutate_bytes(content, chance)
    data = bytearray(content)
    at, value = chance.choice(((16, 50_000), (20, 50_000), (16, 2**31), (16, 0), (24, 0x10020000), (24, 0x10060000)))
    data[at : at + 4] = struct.pack(">I", value)
    if at != 24:
        data[16:20], data[20:24] = struct.pack(">I", value), struct.pack(">I", value)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return "png: another size or type", bytes(data)


def mutate_jpeg(content: bytes, chance: random.Random) -> Mutated:
    """Another size, precision or number of components in the frame's header."""
    found = re.search(rb"\xff[\xc0-\xc2]..", content, re.DOTALL)
    if found is None or chance.random() < 0.5:
        return mutate_bytes(content, chance)
    data, at = bytearray(content), found.start()
    change, value = chance.choice(
        (("precision", b"\x10"), ("size", b"\xff\xff\xff\xff"), ("size", b"\0\0\0\0"), ("components", b"\4"))
    )
    start = at + {"precision": 4, "size": 5, "components": 9}[change]
    data[start : start + len(value)] = value
    return f"jpeg: another {change}", bytes(data)


def mutate_flac(content: bytes, chance: random.Random) -> Mutated:
    """Another rate, number of channels, or number of samples in STREAMINFO."""
    if chance.random() < 0.5:
        return mutate_bytes(content, chance)
    packed = int.from_bytes(content[18:26], "big")
    change = chance.choice(("rate", "channels", "samples"))
    if change == "rate":
        packed = (packed & ((1 << 44) - 1)) | (chance.choice((0, 1, 44_100, 655_350, 2**20 - 1)) << 44)
    elif change == "channels":
        packed |= 7 << 41
    else:
        packed = (packed >> 36 << 36) | chance.choice((0, 1, 2**31, 2**36 - 1))
    return f"flac: another number of {change}", content[:18] + packed.to_bytes(8, "big") + content[26:]


MUTATORS: dict[str, Mutator] = {
    ".json": mutate_json, ".jsonl": mutate_lines, ".csv": mutate_lines, ".txt": mutate_lines, ".toml": mutate_toml,
    ".npy": mutate_npy, ".tar": mutate_tar, ".parquet": mutate_parquet, ".safetensors": mutate_safetensors,
    ".png": mutate_png, ".jpg": mutate_jpeg, ".flac": mutate_flac,
}  # fmt: skip
"""By suffix; the bytes of any other file are changed."""


def mutate(name: str, content: bytes, chance: random.Random) -> Mutated:
    """A change of a file by the format that its name has."""
    return MUTATORS.get(name[name.rfind(".") :], mutate_bytes)(content, chance)
