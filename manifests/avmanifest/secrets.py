"""URLs that may hold a password or a token: `Url` opens with them and is shown without; so are texts that quote URLs.

What counts as a secret, and what is shown in its place:

- user name and password, `http://user:password@host/` and `user:password@host:8080`: `http://***@host/`;
- the query, the fragment and the `;parameters` of a path: `?…`, `#…`, `;…`. Shown are only parameters whose name is in
  PLAIN_PARAMETERS (`?v=dQw4w9WgXcQ`, `?versionId=3`) and fields of a template (`?id={id}`);
- the words of a `pipe:` command after the first one;
- in a text, also Authorization and Cookie headers, `password=...` and the like, and tokens of known form such as
  hf_... and AKIA....

Showing a shown text changes nothing. `identity` is what to compare or to hash, not to show: it leaves out only what is
known to be a secret, so that a renewed token names the same file, and two files never have one identity.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"
"""In place of a user name, a password or a token."""

HIDDEN: Final = "…"
"""In place of parameters, or of the words of a command."""

PLAIN_PARAMETERS: Final = frozenset(
    {"v", "t", "start", "end", "list", "index", "download", "dl", "raw", "alt", "format", "fmt", "generation", "ref"}
    | {"revision", "version", "versionId"}
)
"""Parameters of URLs that name a file, a version or a time and are no secret, on any known server."""

_SECRET_PARAMETER: Final = re.compile(
    r"(?i)(?:.*[_-])?(?:sig|signature|token|auth|password|passwd|pwd|secret|credential|expires?|policy)"
    r"|(?:x-)?(?:amz|goog|ms|oss|cos)-.+|awsaccesskeyid|googleaccessid|.*(?:api|access)[_-]?key.*|key-pair-id|jwt"
)
_AZURE_PARAMETERS: Final = frozenset(
    ["se", "sp", "sv", "st", "sr", "spr", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv", "ss", "srt", "sdd"]
)  # with sig
# A URL within another one, or in JSON with escaped slashes.
_ENCODED_USER: Final = re.compile(r"(?i)(%3A%2F%2F)(?:(?!%2F|%3F)[^\s'\"/?#&]){0,300}%40")
_ENCODED_QUERY: Final = re.compile(rf"(?i)(%3A%2F%2F[^\s'\"/?#&]{{0,300}}?%3F)(?!{HIDDEN})[^\s'\"/?#&]+")
_PIPE: Final = re.compile(r"(?i)\s*(?:wds:\s*)?pipe:")  # also where it was not understood as a command
_PLAIN_VALUE: Final = re.compile(r"[\w.:-]{0,100}")
_FIELD: Final = re.compile(r"\{\w+(?::\w*)?\}")  # of a URL template
# Path("http://host") has one slash. A mistyped address has three, or backslashes; one without a scheme begins with //.
_SCHEME: Final = (
    r"(?:(?i:\b(?:https?|ftp|s3a?|gs|gcs|hf|abfs|az)):(?:/(?!/)|[/\\]{2,})|[A-Za-z][A-Za-z0-9+.-]{0,30}:\\?/\\?/"
    r"|(?<![\w/.@%+*~\\-])//(?=(?:[^\s/@:'\"]+:[^\s/@'\"]*|\*{3})@))"
)
_SEVERAL: Final = re.compile(rf"(?:::|[,|])(?=(?:[a-z]+:)?{_SCHEME})")  # between two URLs
# A quote ends a URL unless more of it follows.
_IN_TEXT: Final = re.compile(rf"({_SCHEME})((?:[^\s'\"`\\]|\\(?![n'\"])|['\"`](?=[\w%=&@]))*)")
_CLOSING: Final = ".,:;!)]}>'\""  # of the sentence around a URL
_AUTHORITY: Final = re.compile(r"[^/?#]*")
_PORT: Final = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::(?:\d{0,5}|\{[^{}]*\}))?")  # host:port without credentials
_PARAMETERS: Final = re.compile(r"([?#;])([^?#;]*(?:;[^?#]*)?)")
# An address without a scheme, such as a proxy's.
_BARE: Final = re.compile(r"\A(?!(?:local|wds|file):)[^/?#\s:@]+:[^/?#\s]*(?=@[^@/?#\s]+(?::\d+)?/?\Z)")
_BARE_IN_TEXT: Final = re.compile(
    r"(?<![\w/:.@%+*~-])(?!(?:local|wds|mailto|file)\b)[^\s/:@'\"<>(){}\[\],=]{1,200}:[^\s/@'\"<>]{1,200}(?=@[\w.-]+(?::\d|[\s'\"),;]|\Z))"
)
# /x.tar?sig=...
_PATH_QUERY: Final = re.compile(r"((?<![\w:/])/[^\s'\"<>?#]{0,300}|\.\w{2,7})(\?[^\s'\"<>]*=[^\s'\"<>]*)")
_HEADER: Final = re.compile(  # a line of a header, an item of a dict or a tuple; values may hold quoted parts
    r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z-]{0,40}(?:token|key|secret))"
    r"((?:['\"]?\s*[:=]|['\"]\s*,)\s*(?:b(?=['\"]))?['\"]?)((?:=\s*\"[^\"\r\n]*\"|=\s*'[^'\r\n]*'|[^\r\n'\"])+)"
)
_NAMED: Final = re.compile(
    r"(?i)(?<![a-z0-9?&;_.-])((?:[a-z0-9]+[_-])*(?:password|passwd|secret|token|api_?key|access_?key(?:_id)?|signature)"
    r"(?:=|['\"]\s*[:=]\s*))(['\"]?)([^\s'\",;&)}\]]+)"
)
_BEARER: Final = re.compile(r"\b(Bearer|Basic) ([A-Za-z0-9+/=._~-]{8,})")
_TOKEN: Final = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[oprsu]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{16,}|A[KS]IA[A-Z0-9]{16}"
    r"|ya29\.[\w-]{16,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"
)


class Url:
    """A URL, a path or the text of a source, from outside. `str`, `repr` and formats show it without secrets.

    Not a dataclass, so that no `asdict` unpacks it.
    """

    __slots__ = ("secret",)

    def __init__(self, text: str) -> None:
        self.secret = text
        """The whole text: for opening it and nothing else."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self.secret == other.secret

    def __hash__(self) -> int:
        return hash(self.secret)

    def __str__(self) -> str:
        return shown_url(self.secret)

    def __repr__(self) -> str:
        return f"Url({shown_url(self.secret)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def identity(self) -> str:
        """What names the file, whatever the password or token: see `identity`."""
        return identity(self.secret)


def shown_url(text: str) -> str:
    """A URL, a path, a source or a command as it may be shown; see the module. A path stays as it is."""
    if command := _PIPE.match(text):
        return command[0] + _shown_command(text[command.end() :])
    if not re.search(_SCHEME, text):
        return _BARE.sub(MASK, text)
    return "".join(map(_shown_one, _split(text)))


def holds_secret(text: str) -> bool:
    """Whether a URL, a path, a source or a command has a part that is not shown."""
    return shown_url(text) != text


def identity(url: str) -> str:
    """A URL without user name, password and the parameters that are known to be signatures or tokens.

    Only for comparing and hashing: of the parameters that are left, one may be a secret under an unknown name.
    """
    match = re.match(rf"(?:[a-z]+:)?{_SCHEME}", url)
    if match is None:
        return url
    authority = _AUTHORITY.match(url, match.end())
    assert authority is not None, "it matches the empty text, too"
    rest = url[authority.end() :]
    names = re.findall(r"[?#;&]([^=?#;&]*)=", rest)
    azure = _AZURE_PARAMETERS if "sig" in names else frozenset()

    def kept(found: re.Match[str]) -> str:
        parameters = [
            parameter
            for parameter in found[2].split("&")
            if (name := parameter.partition("=")[0]) not in azure and not _SECRET_PARAMETER.fullmatch(name)
        ]
        return found[1] + "&".join(parameters) if parameters else ""

    return match[0] + authority[0].rpartition("@")[2] + re.sub(r"([?#;])([^?#;]*)", kept, rest)


def stored_text(text: str) -> str:
    """A text of a list, as a plan and a manifest store it: each URL in it as `identity` has it.

    Parameters with unknown names stay, so that ids that differ in one stay different.
    """

    def stored(match: re.Match[str]) -> str:
        url = match[0].rstrip(_CLOSING)
        return identity(url) + match[0][len(url) :]

    return _IN_TEXT.sub(stored, text) if "://" in text else text


def shown_source(text: str) -> str:
    """The `source` of a manifest's row, SOURCE/FILE, without secrets. The file's name is kept if it is a plain one."""
    shown = shown_url(text)
    name = text.rpartition("/")[2]
    if shown == text or not re.fullmatch(r"[\w.-]+\.\w{2,4}", name) or shown.endswith(name):
        return shown
    return f"{shown}/{name}"


def lacks_secret(text: str) -> bool:
    """Whether a text is the shown form of a URL that had a secret, so that it cannot be opened."""
    return shown_url(text) == text and bool(
        re.search(rf"{_SCHEME}[^/?#]*\*\*\*", text)
        or (re.search(_SCHEME, text) and re.search(rf"[?#;&]{HIDDEN}", text))
        or (_PIPE.match(text) and text.endswith(HIDDEN))
        or text.startswith(f"{MASK}@")
    )


def without_secrets(text: str) -> str:
    """A text, such as an error's message or a traceback, with every URL in it as `shown_url` shows it."""
    if not any(sign in text for sign in (":", "=", "_", "%3", "AKIA", "ASIA", "//", ",", "glpat-", "ya29.", "eyJ")):
        return text
    masked = _IN_TEXT.sub(_shown_match, text)
    masked = _PATH_QUERY.sub(lambda match: match[1] + _shown_parameters(match[2]), masked)
    masked = _BARE_IN_TEXT.sub(MASK, masked)
    masked = _HEADER.sub(rf"\1\2{MASK}", masked)
    masked = _NAMED.sub(rf"\1\2{MASK}", masked)
    return _without_encoded(_TOKEN.sub(MASK, _BEARER.sub(rf"\1 {MASK}", masked)))


def _without_encoded(text: str) -> str:
    """A text in which percent-encoded URLs have no user name, password and query."""
    if "%3" not in text:
        return text
    return _ENCODED_QUERY.sub(rf"\1{HIDDEN}", _ENCODED_USER.sub(rf"\1{MASK}%40", text))


def excerpt(text: str, most: int) -> str:
    """The first `most` characters of a text without its secrets: cut before, a password could not be recognized."""
    return without_secrets(text[: 4 * most + 4096])[:most]


def shown_content(content: Any) -> Any:
    """Dicts, lists and texts that become JSON, with every text in them as `without_secrets` shows it."""
    if isinstance(content, Mapping):
        return {name: shown_content(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return list(map(shown_content, content))
    return without_secrets(content) if isinstance(content, str) else content


def _split(text: str) -> list[str]:
    """The URLs of a text that joins several, each with what stands before the next one."""
    cuts = [0, *(match.end() for match in _SEVERAL.finditer(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def _shown_command(command: str) -> str:
    word, space, _ = command.partition(" ")
    if not re.fullmatch(r"[\w./-]+", word):
        return HIDDEN
    return f"{word} {HIDDEN}" if space else word


def _shown_one(text: str) -> str:
    """One URL, with a separator or a prefix such as `wds:` around it."""
    match = re.search(_SCHEME, text)
    if match is None:
        return text
    tail = next((mark for mark in ("::", ",", "|") if text.endswith(mark)), "")
    return text[: match.end()] + _shown_rest(text[match.end() : len(text) - len(tail)]) + tail


def _shown_match(match: re.Match[str]) -> str:
    """A URL within a text, without the punctuation that follows it."""
    whole = match[1] + match[2]
    parts = _split(whole)
    last = parts[-1].rstrip(_CLOSING)
    closing = parts[-1][len(last) :]
    return "".join(map(_shown_one, [*parts[:-1], last])) + closing


def _shown_rest(rest: str) -> str:
    """What follows the scheme. There may be a URL within the path, as web.archive.org has them."""
    path = rest[: query.start()] if (query := re.search("[?#]", rest)) else rest
    shown, place = "", 0
    for inner in re.finditer(_SCHEME, path):
        shown += _shown_place(rest[place : inner.start()]) + inner[0]
        place = inner.end()
    return shown + _shown_place(rest[place:])


def _shown_place(rest: str) -> str:
    """Host, path and parameters."""
    authority = _AUTHORITY.match(rest)
    assert authority is not None, "it matches the empty text, too"
    host, path = authority[0], rest[authority.end() :]
    if "@" in host:
        host = f"{MASK}@{host.rpartition('@')[2]}"
    elif not _PORT.fullmatch(host):
        # A password with / or ? or # that are not percent-encoded, or one that was cut off before the @.
        after = rest.rpartition("@")[2]
        if after == rest:
            return MASK
        end = _AUTHORITY.match(after)
        assert end is not None, "it matches the empty text, too"
        host, path = f"{MASK}@{end[0]}", after[end.end() :]
    return host + _shown_parameters(_without_encoded(path))


def _shown_parameters(path: str) -> str:
    """A path with the secret parameters of its `;`, `?` and `#` hidden."""
    return _PARAMETERS.sub(lambda match: match[1] + _shown_list(match[2]), path)


def _shown_list(parameters: str) -> str:
    """Parameters without the secret ones; … stands for those that follow each other."""
    if not parameters:
        return ""
    shown: list[str] = []
    for parameter in re.split("[&;]", parameters):
        name, equals, value = parameter.partition("=")
        is_plain = bool(equals) and name in PLAIN_PARAMETERS and _PLAIN_VALUE.fullmatch(value) is not None
        if parameter.startswith(HIDDEN):
            shown.append(parameter)  # it was shown before, and something was added to it
        elif is_plain or (equals and re.fullmatch(r"\w+", name) and _FIELD.fullmatch(value)):
            shown.append(parameter)
        elif not shown or shown[-1] != HIDDEN:
            shown.append(HIDDEN)
    return "&".join(shown)
