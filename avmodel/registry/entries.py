"""The published models that avkit knows, read from models.toml and from the user's own list."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from avdata.urls import check_url
from avmanifest.errors import ConfigError
from avmanifest.files import read_text
from avmanifest.names import either
from avmanifest.names import near as near_names
from avmanifest.parsing import field_values, parse_toml
from avmanifest.recipe import recipe_names
from avmanifest.secrets import shown_url
from avmodel.models import imported_families

LIST: Final = Path(__file__).parent / "models.toml"
VARIABLE: Final = "AVKIT_MODELS"
"""Environment variable that names a further list of the same form; its entries are added, or replace those of avkit."""

BRANCHES: Final = ("image_weights", "audio_weights")
_MODES: Final = ("audio-visual", "audio", "image")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")
_FILE: Final = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}\.(?:pth|pt|safetensors)")
_HEX: Final = {"sha256": re.compile(r"[0-9a-f]{64}"), "md5_prefix": re.compile(r"[0-9a-f]{4,32}")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A published file of weights: a whole model, a fine-tuned one with its heads, or the ViT of one modality."""

    name: str
    title: str
    url: str
    page: str  # where its address, size and hash are published
    file: str  # the name that it gets here
    licence: str
    family: str = ""  # of a whole model; empty: a ViT that branches start from
    starts: tuple[str, ...] = ()  # settings of a pretraining that take it, some of BRANCHES
    settings: tuple[str, ...] = ()  # key=value of the family's config that its shapes do not tell
    bytes: int = 0  # 0: not published
    about: str = ""  # its size, rounded
    sha256: str = ""  # empty: not published
    md5_prefix: str = ""  # the first digits of its MD5; empty: not published
    classes: str = ""  # of a fine-tuned model: the recipe of its classes
    classes_url: str = ""  # CSV with the order of its classes; empty: the recipe's order
    mode: str = "audio-visual"  # of a fine-tuned model: the modalities that it was tuned with
    several: bool = False  # of a fine-tuned model: whether a clip may have several classes
    note: str = ""

    @property
    def size(self) -> str:
        """Its size in words; empty if no page states it."""
        return f"{self.bytes:,} bytes" if self.bytes else f"about {self.about}" if self.about else ""

    @property
    def short_size(self) -> str:
        """Its size in MB or GB; ? if no page states it."""
        if not self.bytes:
            return self.about or "?"
        return f"{self.bytes / 1e9:.2f} GB" if self.bytes >= 1e9 else f"{self.bytes / 1e6:.0f} MB"

    @property
    def address(self) -> str:
        """Its URL as it may be shown: of avkit's own list whole, of the user's without passwords and tokens."""
        return self.url if read_list(LIST).get(self.name) == self else shown_url(self.url)

    @property
    def license_name(self) -> str:
        """The short name of its licence: the words before the first bracket or comma."""
        return re.split(r" \(|, | by ", self.licence)[0]

    @property
    def kind(self) -> str:
        """What it is, in words."""
        if not self.family:
            return "ViT"
        return f"{self.family} classifier" if self.classes else self.family

    @property
    def used_as(self) -> tuple[str, ...]:
        """Where its name can stand, as a user types it."""
        if not self.family:
            return tuple(f"--set {setting}={self.name}" for setting in self.starts)
        if self.classes:
            return (f"apply {self.name} VIDEO --task classify", f"evaluate finetune {self.name} --set train=false")
        return (f"evaluate TASK {self.name}", f"apply {self.name} VIDEO --task embed", f"--set start={self.name}")


@cache
def read_list(path: Path) -> Mapping[str, Entry]:
    """The models of one list by name. Raises ConfigError for a list that cannot be read, or has a wrong entry."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable list of models ({error})") from error
    content = parse_toml(text, path, ConfigError)
    return MappingProxyType({name: _entry(name, values, f"{path}: [{name}]") for name, values in content.items()})


def entries() -> Mapping[str, Entry]:
    """The published models by name: avkit's, and those of the list that AVKIT_MODELS names.

    Raises ConfigError for a list that cannot be read, or has a wrong entry; the message names it.
    """
    own = os.environ.get(VARIABLE)
    return read_list(LIST) if not own else MappingProxyType({**read_list(LIST), **read_list(Path(own))})


def entry_named(name: str) -> Entry:
    """The published model of that name. Raises ConfigError, with the nearest names, for another."""
    if (found := entries().get(name)) is None:
        raise ConfigError(f"{shown_url(name)}: no published model of that name{near(name)} avkit models lists all.")
    return found


def near(name: str) -> str:
    """`; did you mean A or B?` for the names that are nearest to this one; a full stop if none is near."""
    found = nearest(name)
    return f"; did you mean {either(found)}?" if found else "."


def nearest(name: str) -> list[str]:
    """The names that are nearest to this one, at most three."""
    return near_names(name, entries())


def _entry(name: str, content: Any, where: str) -> Entry:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: each model is a table, opened by [NAME]")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has lower-case letters, digits and -")
    entry = Entry(name=name, **field_values(Entry, content, where, between=" ", given=("name",)))
    for problem in _problems(entry):
        raise ConfigError(f"{where}: {problem}")
    return entry


def _problems(entry: Entry) -> list[str]:
    """What is wrong with an entry whose keys and types are right."""
    found = []
    if not entry.title or not entry.licence:
        found.append("title and licence must be given; write unknown for a licence that nobody states")
    if not _FILE.fullmatch(entry.file):
        found.append(f"file {entry.file!r} must be a name without a folder that ends in .pth, .pt or .safetensors")
    for address in filter(None, (entry.url, entry.classes_url)):
        try:
            check_url(address, allow_pipe=False)
        except ConfigError as error:
            found.append(str(error))
        if "://" not in address:
            found.append(f"{address!r} is no URL")
    for key, pattern in _HEX.items():
        value = getattr(entry, key)
        if value and not pattern.fullmatch(value):
            found.append(f"{key} {value!r} is not so many lower-case hexadecimal digits")
    if unknown := [setting for setting in entry.starts if setting not in BRANCHES]:
        found.append(f"starts has {unknown[0]!r}; known: {', '.join(BRANCHES)}")
    importers = imported_families()
    if entry.family and entry.family not in importers:
        found.append(f"unknown family {entry.family!r}; known: {', '.join(importers)}")
    if bool(entry.family) == bool(entry.starts):
        found.append("needs either a family, of a whole model, or starts, of one modality's ViT")
    if (entry.classes or entry.settings) and not entry.family:
        found.append("classes and settings are of a whole model: give its family")
    if entry.classes and entry.classes not in recipe_names():
        found.append(f"classes {entry.classes!r} is no recipe; known: {', '.join(recipe_names())}")
    if entry.classes_url and not entry.classes:
        found.append("classes_url is of a fine-tuned model: give the recipe of its classes, too")
    if entry.mode not in _MODES:
        found.append(f"unknown mode {entry.mode!r}; known: {', '.join(_MODES)}")
    return found
