"""Videos on a web server, at addresses that a URL template gives."""

import base64
import email.utils
import functools
import json
import re
import string
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote, unquote_to_bytes, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
)

from avdata.prepare.config import HttpOptions
from avdata.prepare.sources.names import ClipRequest, safe_relative
from avdata.prepare.sources.remote import FetchedFile, Fetcher, RemoteRef, Span, fetch_key
from avdata.redirects import RedirectRefusedError, next_address, same_origin
from avdata.urls import check_url
from avmanifest.clipnames import display_name
from avmanifest.errors import ConfigError, DownloadError
from avmanifest.files import read_file
from avmanifest.parsing import metadata_of
from avmanifest.secrets import Url, shown_url

BODY: Final = "body"  # the downloaded file, complete or partial
_STATE: Final = "body.json"  # the version (ETag or Last-Modified) and the size of the file on the server
_UNPACKED: Final = ("gzip", "x-gzip", "deflate")
_CHUNK_BYTES: Final = 256 * 1024
_MAX_RETRY_AFTER_S: Final = 3600.0
_NO_RETRIES: Final = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=False)
_SPEC: Final = re.compile(r"0?[1-9]?[0-9]?d?")
_FIELDS: Final = ("id", "path", "start", "end", "start_ms", "end_ms")


class Template:
    """A URL with the fields {id}, {path}, {start}, {end} (seconds), {start_ms}, {end_ms}; formats such as {start:06d}.

    Values are percent-encoded, so that they cannot change the host, the folder or the query. Raises ConfigError for
    anything but an http or https URL with {id} or {path} after the host.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts: list[tuple[str, str, str]] = []  # literal, field, format
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise self._error(f"cannot be parsed ({error})") from error
        for literal, name, spec, conversion in parsed:
            if name is not None and (name not in _FIELDS or conversion or not _SPEC.fullmatch(spec or "")):
                raise self._error(f"has the unknown field {{{name}{':' if spec else ''}{spec or ''}}}")
            if spec and name in ("id", "path"):
                raise self._error(f"has a number format for the text {{{name}}}")
            self._parts.append((literal, name or "", spec or ""))
        self.fields = {name for _, name, _ in self._parts if name}
        host = urlsplit(self._parts[0][0] if self._parts else "")
        if host.scheme not in ("http", "https") or not host.netloc or "/" not in self._parts[0][0][8:]:
            raise self._error("is not an http:// or https:// URL with its fields after the host")
        if not self.fields & {"id", "path"}:
            raise self._error("has neither {id} nor {path}, so all clips would have the same URL")

    @property
    def is_clip(self) -> bool:
        """Whether the files are clips (the template has a start) or whole videos."""
        return bool(self.fields & {"start", "start_ms"})

    def fill(self, request: ClipRequest) -> str | None:
        """The URL for a request; None if a value is missing, or a format such as 06d gets a fraction."""
        filled = ""
        for literal, name, spec in self._parts:
            value = self._value(name, request) if name else ""
            if isinstance(value, float):
                if spec and not value.is_integer():
                    return None
                value = format(round(value), spec) if value.is_integer() else repr(value)
            if value is None:
                return None
            filled += literal + value
        return filled

    def _value(self, name: str, request: ClipRequest) -> str | float | None:
        """A percent-encoded text, or a time in seconds or milliseconds."""
        match name:
            case "id":
                # A path segment that is only dots would mean a parent folder.
                quoted = quote(request.video_id, safe="", errors="surrogateescape")
                return quoted.replace(".", "%2E") if set(request.video_id) <= {"."} else quoted
            case "path":
                path = safe_relative(request.path)
                return None if path is None else quote(path, safe="/", errors="surrogateescape")
            case _:
                time_s = request.start_s if name.startswith("start") else request.end_s
                in_ms = name.endswith("_ms")
                return None if time_s is None else float(round(time_s * 1000) if in_ms else time_s)

    def _error(self, why: str) -> ConfigError:
        fields = ", ".join(f"{{{name}}}" for name in _FIELDS)
        return ConfigError(
            f"source http:{shown_url(self.text)}: the template {why}. Fields are {fields}, with formats such as "
            "{start:06d}: http:https://host/videos/{id}_{start:06d}.mp4"
        )


class HttpSource:
    """Videos at the URLs that a template gives. Whether the server has a video is known only after the download."""

    rate_per_hour: float | None = None
    probes = False
    remedy = "Lower --rate or --download-workers, or ask the server's owner. Run the same command later to continue."

    def __init__(self, template: str, options: HttpOptions) -> None:
        check_url(template, allow_pipe=False)
        self.template = Template(template)
        self.name = f"http:{shown_url(template.partition('?')[0])}"
        self.problems: list[str] = []
        self.refused: Counter[str] = Counter()
        self.proxy = None if options.proxy is None else Url(options.proxy)
        self.fetcher: Fetcher = HttpFetcher(options)

    def locate(self, request: ClipRequest) -> RemoteRef | None:
        """The URL for a request; None if the request lacks a value that the template needs."""
        filled = self.template.fill(request)
        if filled is None:
            self.refused["the row lacks a field of the template, or its time is not a whole number"] += 1
            return None
        address = Url(filled)
        name = display_name(urlsplit(str(address)).path.rpartition("/")[2])
        return RemoteRef(
            address=address,
            fetch_key=fetch_key("http", address.identity),
            is_clip=self.template.is_clip,
            source=self.name,
            name=name,
            request=request,
        )

    def preflight(self) -> list[str]:
        """No messages: nothing is known of a server before the first request."""
        return []


@dataclass(slots=True)
class _PartialFile:
    """A file that is being downloaded, and the version of it that the server reported."""

    folder: Path
    validator: str = ""  # ETag or Last-Modified
    total: int | None = None  # bytes of the whole file
    size: int = field(default=0)

    @classmethod
    def of(cls, folder: Path) -> "_PartialFile":
        """The partial file of an earlier attempt; empty if its version is unknown, because it cannot be continued."""
        try:
            state = metadata_of(read_file(folder / _STATE))
            part = cls(folder, str(state.get("validator", "")), state.get("total"), (folder / BODY).stat().st_size)
        except OSError:
            return cls(folder)
        return part if part.validator else cls(folder)

    def note(self, validator: str, total: int | None) -> None:
        """Store the version on disk before any of its bytes are written."""
        self.validator, self.total = validator, total
        (self.folder / _STATE).write_text(json.dumps({"validator": validator, "total": total}))


@dataclass(frozen=True, slots=True)
class HttpFetcher:
    """Downloads a file by GET requests; continues with a range request after an interruption."""

    options: HttpOptions

    def __call__(self, address: str, spans: tuple[Span, ...], folder: Path) -> tuple[FetchedFile, ...]:
        """Download the whole file. Errors as for `Fetcher`."""
        del spans  # part of a file cannot be decoded without its index
        part = _PartialFile.of(folder)
        for _ in range(self.options.max_resumes):
            before = part.size
            try:
                self._get(address, part)
                break
            except ProtocolError as error:
                if part.size <= before or not part.validator:
                    raise _download_error(error, address) from error
            except HTTPError as error:
                raise _download_error(error, address) from error
        else:
            raise DownloadError("net_http", f"{shown_url(address)}: interrupted {self.options.max_resumes} times")
        return (FetchedFile(BODY),)

    def _get(self, address: str, part: _PartialFile) -> None:
        """Download the rest of the file; `part.size` counts the bytes on disk."""
        headers = {"Accept-Encoding": "identity", "Range": f"bytes={part.size}-"}
        if part.size:
            headers["If-Range"] = part.validator
        response = self._response(address, headers)
        try:
            if response.status == 416 and part.size and part.size == part.total:
                return
            self._check(response, address, part)
            with (part.folder / BODY).open("ab") as body:
                self._receive(response, body, part, address)
        finally:
            response.close()
        if part.total is not None and part.size != part.total:
            raise ProtocolError(f"received {part.size} of {part.total} bytes")
        if not part.size:
            raise DownloadError("net_http", f"{shown_url(address)}: the file is empty")

    def _response(self, address: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """The response to a GET request, after redirects. Only the address's own host gets user name and password."""
        timeout = urllib3.Timeout(connect=self.options.connect_s, read=self.options.stalled_s)
        current, user_info = _without_user_info(address)
        credentials = {} if user_info is None else {"Authorization": basic_authorization(user_info)}
        for _ in range(self.options.max_redirects + 1):
            response = _pool(self.options.proxy).request(
                "GET",
                current,
                headers=headers | credentials,
                timeout=timeout,
                retries=_NO_RETRIES,
                preload_content=False,
            )
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            try:
                target = next_address(current, location, allow_local=self.options.local_redirects)
            except RedirectRefusedError as error:
                raise DownloadError("net_http", f"{shown_url(address)}: {error}") from error
            if not same_origin(current, target):
                credentials = {}
            current, _ = _without_user_info(target)
        raise DownloadError(
            "net_http", f"{shown_url(address)}: too many redirects (more than {self.options.max_redirects})"
        )

    def _check(self, response: urllib3.BaseHTTPResponse, address: str, part: _PartialFile) -> None:
        """Refuse a response that is not media, and truncate the part to where the response continues it."""
        if response.status == 416:
            (part.folder / _STATE).unlink(missing_ok=True)  # the next attempt starts from the beginning
        if response.status not in (200, 206):
            raise _refusal(response, address)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind.startswith("text/") or kind in ("application/json", "application/xml", "application/xhtml+xml"):
            raise DownloadError("net_http", f"{shown_url(address)}: the response is {kind}, not a video")
        start, total = 0, None
        if (packing := _packing(response)) and (packing not in _UNPACKED or part.size):
            raise DownloadError(
                "net_http", f"{shown_url(address)}: the response is packed ({packing}), not as asked for"
            )
        if response.status == 206:
            content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not content_range or int(content_range[1]) > part.size:
                raise DownloadError(
                    "net_http", f"{shown_url(address)}: the response has another range than the requested one"
                )
            start, total = int(content_range[1]), None if content_range[2] == "*" else int(content_range[2])
            if packing:
                start, total = 0, None  # the server counts packed bytes
        elif not packing and re.fullmatch("[0-9]{1,18}", length := response.headers.get("Content-Length", "")):
            total = int(length)
        if total is not None and total > self.options.max_bytes:
            raise DownloadError(
                "net_http", f"{shown_url(address)}: {total} bytes exceed the limit of {self.options.max_bytes}"
            )
        validator = response.headers.get("ETag", "")
        if not validator or validator.startswith("W/"):
            validator = response.headers.get("Last-Modified", "")
        if packing:
            validator = ""  # it cannot be continued: ranges are of packed bytes
        changed = start > 0 and (validator != part.validator or total != part.total)
        with (part.folder / BODY).open("ab") as body:
            body.truncate(0 if changed else start)
        part.size = 0 if changed else start
        part.note(validator, total)
        if changed:
            raise ProtocolError("the file changed between two requests")

    def _receive(self, response: urllib3.BaseHTTPResponse, body: BinaryIO, part: _PartialFile, address: str) -> None:
        window_s, window_bytes = time.monotonic(), part.size
        for chunk in _content(response, address):
            body.write(chunk)
            part.size += len(chunk)
            if part.size > self.options.max_bytes:
                raise DownloadError(
                    "net_http", f"{shown_url(address)}: more bytes than the limit of {self.options.max_bytes}"
                )
            now = time.monotonic()
            if now - window_s >= self.options.slow_window_s:
                rate = (part.size - window_bytes) / (now - window_s)
                if rate < self.options.slow_bytes_per_s:
                    raise DownloadError(
                        "net_timeout",
                        f"{shown_url(address)}: {rate:.0f} bytes per second is below the limit of "
                        f"{self.options.slow_bytes_per_s}",
                    )
                window_s, window_bytes = now, part.size


def _packing(response: urllib3.BaseHTTPResponse) -> str:
    """The compression of the response, such as gzip; empty: none. It is used by servers that ignore what was asked."""
    packing = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if packing == "identity" else packing


def _content(response: urllib3.BaseHTTPResponse, address: str) -> Iterator[bytes]:
    """The bytes of a response in pieces of at most _CHUNK_BYTES, unpacked.

    Raises ProtocolError if a packed response is cut, and DownloadError if it cannot be unpacked.
    """
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32) if _packing(response) else None  # 32: gzip or zlib
    while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
        if unpacker is None:
            yield chunk
            continue
        try:
            while chunk and not unpacker.eof:
                yield unpacker.decompress(chunk, _CHUNK_BYTES)  # a bomb comes in small pieces, up to the limit
                chunk = unpacker.unconsumed_tail
        except zlib.error as error:
            raise DownloadError("net_http", f"{shown_url(address)}: cannot be unpacked ({error})") from error
    if unpacker is not None and not unpacker.eof:
        raise ProtocolError("the packed response was cut")


@functools.cache
def _pool(proxy: str | None) -> urllib3.PoolManager:
    """The connection pool of this process for a proxy (None: without one)."""
    if proxy is None:
        return urllib3.PoolManager(maxsize=4)
    address, user_info = _without_user_info(proxy if "://" in proxy else f"http://{proxy}")
    headers = {} if user_info is None else {"Proxy-Authorization": basic_authorization(user_info)}
    return urllib3.ProxyManager(address, maxsize=4, proxy_headers=headers)


def _without_user_info(address: str) -> tuple[str, str | None]:
    """A URL without its user name and password, and those as they are written in it; None: it has none."""
    parts = urlsplit(address)
    user_info, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), user_info if at else None


def basic_authorization(user_info: str) -> str:
    """The header for `user:password`, percent-encoded as in a URL."""
    user, colon, password = user_info.partition(":")
    plain = unquote_to_bytes(user) + (colon or ":").encode() + unquote_to_bytes(password)
    return f"Basic {base64.b64encode(plain).decode()}"


_STATUS_OF_CODE: Final = {
    404: "unavailable_missing", 410: "unavailable_removed", 451: "unavailable_geo", 408: "net_timeout",
    429: "blocked_rate", 504: "net_timeout",
}  # fmt: skip


def _refusal(response: urllib3.BaseHTTPResponse, address: str) -> DownloadError:
    """The error for a response without the file."""
    status = _STATUS_OF_CODE.get(response.status, "net_http")
    message = f"{shown_url(address)}: HTTP {response.status} {response.reason or ''}".rstrip()
    return DownloadError(status, message, retry_after_s=retry_after_s(response.headers.get("Retry-After", "")))


def retry_after_s(header: str) -> float:
    """The delay in a Retry-After header (seconds or a date), in seconds: at most 3600, 0 if the header is invalid."""
    try:
        if re.fullmatch(r"\s*[0-9]{1,9}\s*", header):
            seconds = float(header)
        else:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S)


def _download_error(error: HTTPError, address: str) -> DownloadError:
    """The DownloadError, with its status, for a network error."""
    cause: BaseException | None = error.reason if isinstance(error, MaxRetryError) else error
    shown = f"{shown_url(address)}: "
    match cause:
        case ProxyError():
            return DownloadError("net_http", f"{shown}the proxy does not respond ({cause.original_error})")
        case NameResolutionError():
            return DownloadError("net_dns", f"{shown}the host name was not found")
        case ConnectTimeoutError() | ReadTimeoutError():
            return DownloadError("net_timeout", f"{shown}no response in time ({cause})")
        case _:
            return DownloadError("net_http", f"{shown}{cause}")
