"""Expands URL patterns of shards, and refuses URLs that must not be read."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from avmanifest.errors import ConfigError
from avmanifest.secrets import lacks_secret, shown_url

PIPE: Final = "pipe:"
REMOTE: Final = ("http", "https", "s3", "s3a", "gs", "gcs", "hf", "abfs", "az", "memory")
"""Protocols that fsspec may read. Others are refused: some of fsspec's protocols run commands or chain files."""

COMPRESSIONS: Final = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".tzst": "zstd"}
"""Suffixes of compressed tars that are unpacked into the cache, and how they are compressed."""

TAR_SUFFIXES: Final = (".tar", *COMPRESSIONS, ".bz2", ".xz")
"""Suffixes of files that are taken for tars; the last two are refused."""

MAX_SHARDS: Final = 1_000_000
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_REVISION: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)
_PROTOCOL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://")


def expand_urls(patterns: str | Path | Sequence[str | Path]) -> list[str]:
    """Expand patterns such as `train/{00000..00183}.tar` and `{train,val}/00000.tar` to URLs, in order.

    Ranges count up and keep leading zeros. `pipe:` commands are not expanded.

    Raises:
        ConfigError: A pattern is malformed, a URL occurs twice, or there are no URLs or more than MAX_SHARDS.
    """
    listed = [patterns] if isinstance(patterns, str | Path) else list(patterns)
    urls: list[str] = []
    for pattern in map(str, listed):
        if pattern.startswith(PIPE):
            urls.append(pattern)
            continue
        if len(urls) + _num_urls(pattern) > MAX_SHARDS:
            raise ConfigError(f"{shown_url(pattern)!r} names more than {MAX_SHARDS} shards")
        urls.extend(_expand(pattern))
    if not urls:
        raise ConfigError("no shard URL given")
    if len(set(urls)) < len(urls):
        twice = next(url for number, url in enumerate(urls) if url in urls[:number])
        raise ConfigError(f"shard {shown_url(twice)!r} is named twice. To see samples more often, give weights.")
    return urls


def check_url(url: str, *, allow_pipe: bool) -> None:
    """Raise ConfigError for a URL that must not or cannot be read.

    Such are an unknown protocol, a chained URL, a command unless allow_pipe is set, and a URL as avkit shows or stores
    it: without its password or token.
    """
    if lacks_secret(url):
        raise ConfigError(
            f"{url!r}: is stored and shown without its password or token, which avkit does not keep. Give the "
            "whole URL again, on the command line."
        )
    if url.startswith(PIPE):
        if not allow_pipe:
            raise ConfigError(
                f"{shown_url(url)!r} runs a command. If you trust it, allow it with --allow-pipe (allow_pipe=True)."
            )
        return
    if "::" in url:
        raise ConfigError(f"{shown_url(url)!r}: chained URLs (::) are not read. Give the shard's own URL.")
    if "://" in url and _PROTOCOL.match(url) is None:
        raise ConfigError(
            f"{shown_url(url)!r}: neither a path nor a URL. A URL begins with its protocol, such as https://, and a "
            "command with pipe:"
        )
    name = protocol(url)
    if name not in ("", *REMOTE):
        raise ConfigError(f"{shown_url(url)!r}: unknown protocol {name!r}; known: {', '.join(REMOTE)}, and local paths")


def protocol(url: str) -> str:
    """The protocol of a URL in lower case; `pipe` for commands; empty for local paths."""
    if url.startswith(PIPE):
        return "pipe"
    match = _PROTOCOL.match(url)
    name = match[1].lower() if match else ""
    return "" if name in ("file", "local") else name


def local_path(url: str) -> Path | None:
    """The path of a local URL; None for a remote one. `~` and `~/...` are in the home."""
    if protocol(url):
        return None
    match = _PROTOCOL.match(url)
    return Path(with_home(url[match.end() :] if match else url))


def with_home(path: str) -> str:
    """The path with the home in the place of `~` at its start."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path


def is_tar(url: str) -> bool:
    """Whether a path or URL has the name of a tar, compressed or not."""
    return protocol(url) != "pipe" and url.partition("?")[0].endswith(TAR_SUFFIXES)


def compression(url: str) -> str | None:
    """How a shard is compressed, by its name: gzip or zstd; None for a plain tar and for the output of a command.

    Raises ConfigError for a compression that is not read.
    """
    if not is_tar(url):
        return None
    suffix = "." + url.partition("?")[0].rpartition(".")[2]
    if suffix != ".tar" and suffix not in COMPRESSIONS:
        raise ConfigError(
            f"{shown_url(url)}: tars compressed with {', '.join(COMPRESSIONS)} are read, not {suffix}. Unpack it to "
            ".tar first."
        )
    return COMPRESSIONS.get(suffix)


def is_cached(url: str) -> bool:
    """Whether the loader reads a copy of the shard in its cache: of remote and of compressed shards."""
    return local_path(url) is None or compression(url) is not None


def _num_urls(pattern: str) -> int:
    """Number of URLs of a pattern, without expanding it."""
    bounds = [(_RANGE.fullmatch(inside), inside) for inside in _BRACES.findall(pattern)]
    return math.prod(int(found[2]) - int(found[1]) + 1 if found else inside.count(",") + 1 for found, inside in bounds)


def _expand(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        if "{" in pattern or "}" in pattern:
            raise ConfigError(f"shard pattern {shown_url(pattern)!r} has a brace without its partner")
        yield pattern
        return
    for choice in _choices(pattern, match[1]):
        yield from _expand(pattern[: match.start()] + choice + pattern[match.end() :])


def _choices(pattern: str, inside: str) -> Iterator[str]:
    if bounds := _RANGE.fullmatch(inside):
        first, last = int(bounds[1]), int(bounds[2])
        if last < first:
            raise ConfigError(f"shard pattern {shown_url(pattern)!r}: the range {{{inside}}} counts down")
        width = len(bounds[1]) if bounds[1].startswith("0") else 0
        yield from (str(number).zfill(width) for number in range(first, last + 1))
    elif "," in inside:
        yield from inside.split(",")
    else:
        found = f"{{{inside}}}" if f"{{{inside}}}" in shown_url(pattern) else "a brace"
        raise ConfigError(f"shard pattern {shown_url(pattern)!r}: {found} is neither a range 00..09 nor a list a,b")


def hub_repository(word: str, *, revisions: bool = False) -> tuple[str, str | None] | None:
    """USER/NAME and the revision of `hf:USER/NAME` or, with `revisions`, `hf:USER/NAME@REVISION`; None: another word.

    Raises:
        ConfigError: The word begins with `hf:` and is neither such a name nor an hf:// URL.
    """
    if not word.startswith("hf:") or word.startswith("hf://"):
        return None
    name, at, revision = word.removeprefix("hf:").partition("@")
    if _HUB_NAME.fullmatch(name) and (not at or (revisions and _HUB_REVISION.fullmatch(revision))):
        return name, revision or None
    form = "hf:USER/NAME or hf:USER/NAME@REVISION" if revisions else "hf:USER/NAME"
    raise ConfigError(f"{word!r}: write a repository as {form}")
