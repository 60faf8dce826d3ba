"""Which redirects of web servers are followed, and what a request to another host no longer carries.

A public server must not lead a client to services of the client's own machine or link (`http://127.0.0.1:8080/`, the
metadata service of a cloud at `http://169.254.169.254/`), nor collect credentials that were meant for another host.
"""

import ipaddress
import os
import re
import socket
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from avmanifest.secrets import shown_url

SETTING: Final = "remote.http.local_redirects"
"""The setting that allows redirects to this machine, for `--source http:`."""

VARIABLE: Final = "AVKIT_LOCAL_REDIRECTS"
"""The environment variable that allows them, with the value 1, for every URL that a process reads."""

_CREDENTIALS: Final = re.compile(r"(?i).*(?:auth|cookie|token|secret|password|key).*")
_PORTS: Final = {"http": 80, "https": 443}


class RedirectRefusedError(PermissionError):
    """The redirect leads where it must not. A PermissionError: another attempt would get the same answer."""


def next_address(address: str, location: str, *, allow_local: bool = False) -> str:
    """The URL that a redirect leads to.

    Args:
        address: The URL that was requested.
        location: The Location header of the response.
        allow_local: Follow a redirect from a public host to a loopback or link-local address.

    Raises:
        RedirectRefusedError: It leads to another protocol, or to this machine or its link.
    """
    try:
        target = urljoin(address, location)
        parts, before = urlsplit(target), urlsplit(address)
        host, known = parts.hostname or "", before.hostname or ""
    except ValueError as error:
        raise RedirectRefusedError(f"redirected to {shown_url(location)}, which is not a URL ({error})") from error
    if parts.scheme not in _PORTS or not host:
        raise RedirectRefusedError(f"redirected to {shown_url(target)}, which is not an http or https URL")
    allow_local = allow_local or os.environ.get(VARIABLE) == "1"
    if not allow_local and is_local(host) and not is_local(known):
        raise RedirectRefusedError(
            f"the public host {known} redirected to {shown_url(target)}, an address of this machine or its link. If "
            f"that is meant, name that address, set {VARIABLE}=1, or for --source http: set {SETTING}=true"
        )
    return target


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs have the same protocol, host and port."""
    first, second = (
        (parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)) for parts in map(urlsplit, (one, other))
    )
    return first == second


def drop_credentials(headers: MutableMapping[str, str]) -> None:
    """Remove the headers that may hold a credential, before a request to another host."""
    for name in [name for name in headers if _CREDENTIALS.fullmatch(name)]:
        del headers[name]


def is_local(host: str) -> bool:
    """Whether a host name or address is loopback, link-local or unspecified, or has such an address."""
    name = host.strip("[]").rstrip(".").partition("%")[0].lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return any(map(_is_local_address, _addresses(name)))


def _addresses(name: str) -> list[str]:
    """The addresses of a host; none if it is not known here: a proxy may know it."""
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(name))]  # 127.1, 0x7f000001, 2130706433
    except OSError:
        pass
    try:
        return list({str(found[4][0]) for found in socket.getaddrinfo(name, None)})
    except (OSError, UnicodeError):
        return []


def _is_local_address(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is not None:
            address = embedded
    return address.is_loopback or address.is_link_local or address.is_unspecified


async def check_redirect(session: Any, context: SimpleNamespace, params: Any) -> None:
    """For aiohttp's `on_request_redirect`: refuses a redirect, and drops credentials for another host."""
    del session, context
    location = params.response.headers.get("Location") or params.response.headers.get("URI")
    if location is None:
        return
    target = next_address(str(params.url), location)
    if not same_origin(str(params.url), target):
        drop_credentials(params.headers)
