"""Keys of clips, from the recipe's key template, and a short id of a set of keys."""

import hashlib
import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.errors import ManifestError
from avmanifest.recipe import Recipe
from avmanifest.schema import KEY_PATTERN

_FIELD: Final = re.compile(r"\{(\w+)\}")
_HASH_DIGITS: Final = 16
_SLUG_LENGTH: Final = 40
_SUBSET_DIGITS: Final = 16
_HASHED_AT_ONCE: Final = 65_536  # keys


def clip_keys(recipe: Recipe, table: pa.Table) -> pa.Array:
    """One key per row. Keys match KEY_PATTERN; rows with different ids or starts have different keys.

    In the template, `{start}` is the start in whole seconds with six digits, and `{start_ms}` the start in
    milliseconds. `{slug}` is the id if it is valid in a key; otherwise its letters and digits, followed by 64 bits of a
    hash of the id (and of a start that is not a whole millisecond).

    Args:
        recipe: The recipe with the key template.
        table: The clips, with the columns `video_id` and `start_s` (seconds).

    Raises:
        ManifestError: The template cannot represent an id or a start without ambiguity.
    """
    video_id = _column(table, "video_id")
    start_s = _column(table, "start_s")
    start_ms = pc.round(pc.multiply(start_s, 1000.0))
    whole_ms = pc.equal(pc.divide(start_ms, 1000.0), start_s)
    fields = set(_FIELD.findall(recipe.key))
    if "start" in fields:
        _refuse(pc.not_equal(pc.floor(start_s), start_s), table, recipe, "does not begin on a whole second")
    elif "start_ms" not in fields:
        _refuse(pc.not_equal(start_s, 0.0), table, recipe, "does not begin at 0")
    elif "slug" not in fields:
        _refuse(pc.invert(whole_ms), table, recipe, "does not begin on a whole millisecond")
    if "video_id" in fields:
        invalid = pc.invert(pc.match_substring_regex(video_id, r"\A[A-Za-z0-9_-]+\z"))
        _refuse(invalid, table, recipe, "has an id with characters other than letters, digits, - and _")
    parts: list[pa.Array | str] = []
    for position, text in enumerate(_FIELD.split(recipe.key)):
        if position % 2 == 0:
            parts.append(text)
        elif text == "video_id":
            parts.append(video_id)
        elif text == "slug":
            parts.append(_slugs(video_id, start_s, whole_ms))
        elif text == "start":
            parts.append(pc.utf8_lpad(_digits(start_s), 6, "0"))
        else:
            parts.append(_digits(start_ms))
    keys = pc.binary_join_element_wise(*parts, "")
    _refuse(
        pc.invert(pc.match_substring_regex(keys, rf"\A(?:{KEY_PATTERN.pattern})\z")),
        table,
        recipe,
        f"gives a key that does not match {KEY_PATTERN.pattern}",
    )
    return keys


def subset_id(keys: pa.Array | pa.ChunkedArray) -> str:
    """A short id of a set of samples, to report which samples a score was computed on.

    It is the first 16 hexadecimal digits of the SHA-256 of the sorted keys, one per line. Equal sets have equal ids.
    """
    wide = keys.cast(pa.large_string())
    ordered = wide.take(pc.sort_indices(wide))
    sha256 = hashlib.sha256()
    for first in range(0, len(ordered), _HASHED_AT_ONCE):
        sha256.update("".join(f"{key}\n" for key in ordered.slice(first, _HASHED_AT_ONCE).to_pylist()).encode())
    return sha256.hexdigest()[:_SUBSET_DIGITS]


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def _digits(numbers: pa.Array) -> pa.Array:
    return pc.cast(pc.cast(numbers, pa.int64()), pa.string())


def _slugs(video_id: pa.Array, start_s: pa.Array, whole_ms: pa.Array) -> pa.Array:
    """Ids that are valid in a key, unchanged; other ids, and those that end like a hash, with a hash appended."""
    valid = pc.match_substring_regex(video_id, rf"\A[A-Za-z0-9][A-Za-z0-9_-]{{0,{_SLUG_LENGTH - 1}}}\z")
    looks_hashed = pc.match_substring_regex(video_id, rf"-[0-9a-f]{{{_HASH_DIGITS}}}\z")
    kept = pc.and_(pc.and_not(valid, looks_hashed), whole_ms)
    changed = pc.invert(kept)
    if not pc.any(changed).as_py():
        return video_id
    replaced = pc.filter(video_id, changed)
    stems = pc.utf8_slice_codeunits(
        pc.ascii_ltrim(pc.replace_substring_regex(replaced, r"[^A-Za-z0-9_]+", "-"), "-_"), 0, _SLUG_LENGTH
    )
    stems = pc.if_else(pc.equal(stems, ""), "clip", stems)
    exact = pc.if_else(pc.filter(whole_ms, changed), "", pc.cast(pc.filter(start_s, changed), pa.string()))
    hashes = [
        hashlib.blake2b(f"{start}\0{name}".encode(), digest_size=_HASH_DIGITS // 2).hexdigest()
        for start, name in zip(exact.to_pylist(), replaced.to_pylist(), strict=True)
    ]
    slugs = pc.binary_join_element_wise(stems, pa.array(hashes, pa.string()), "-")
    return pc.replace_with_mask(video_id, changed, slugs)


def _refuse(bad: pa.Array, table: pa.Table, recipe: Recipe, why: str) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        video_id, start_s = (table.column(name)[row].as_py() for name in ("video_id", "start_s"))
        raise ManifestError(
            f"clip {row} of the list: {video_id!r} at {start_s} s {why}, so the key template {recipe.key!r} "
            "cannot represent it. Use {slug}_{start_ms} in a recipe of your own."
        )
