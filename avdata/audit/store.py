"""Reads the files of a dataset through fsspec: a local folder, http, s3 and other remote stores."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem

from avdata.load.urls import check_url
from avmanifest.errors import ConfigError, ManifestError, ShardError

_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of files. File names are relative to it, with slashes."""

    root: str  # as given by the user, for messages
    filesystem: Any = field(repr=False)
    base: str  # the root as a path of the file system

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local disk."""
        return isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str) -> str:
        """The file's path in the file system; an empty name is the root."""
        return f"{self.base.rstrip('/')}/{name}" if name else self.base

    def at(self, name: str) -> str:
        """The file's name for messages."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if there is no such file."""
        try:
            info = self.filesystem.info(self.path(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._unreadable(name, error) from error
        if info.get("type") == "directory":
            return None
        return int(info["size"]) if info.get("size") is not None else len(self.read(name))

    def read(self, name: str) -> bytes:
        """Read a whole file. Raises ShardError if it is missing or cannot be read."""
        try:
            content: bytes = self.filesystem.cat_file(self.path(name))
        except Exception as error:
            raise self._unreadable(name, error) from error
        return content

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Read `size` bytes of a file from offset `start` on; fewer at its end."""
        try:
            content: bytes = self.filesystem.cat_file(self.path(name), start=start, end=start + size)
        except Exception as error:
            raise self._unreadable(name, error) from error
        return content

    def open(self, name: str) -> Any:
        """Open a file for reading and seeking."""
        try:
            file = self.filesystem.open(self.path(name), "rb", block_size=_BLOCK_BYTES)
        except Exception as error:
            raise self._unreadable(name, error) from error
        return file

    def is_folder(self, name: str) -> bool:
        """Whether there is a folder with that name; always False over http, which has no folders."""
        try:
            return not isinstance(self.filesystem, HTTPFileSystem) and bool(self.filesystem.isdir(self.path(name)))
        except Exception as error:
            raise self._unreadable(name, error) from error

    def listed(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; empty over http, which cannot list folders."""
        if not self.is_folder(folder):
            return []
        found = self.filesystem.ls(self.path(folder), detail=True)
        start = len(self.base.rstrip("/")) + 1
        return sorted(entry["name"][start:] for entry in found if entry["type"] == "file")

    def folders(self) -> list[str]:
        """Names of the folders in the root, sorted."""
        if not self.is_folder(""):
            return []
        found = self.filesystem.ls(self.base, detail=True)
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory")

    def parquet(self, name: str, schema: pa.Schema) -> pq.ParquetFile:
        """Open a parquet file that has the columns of the schema. Raises ManifestError for anything else."""
        where = self.at(name)
        try:
            source = self.path(name) if self.is_local else io.BytesIO(self.read(name))
            file = pq.ParquetFile(source)
        except (pa.ArrowInvalid, OSError, ShardError) as error:
            raise ManifestError(
                f"{where}: not a readable parquet file ({error}). Run the same prepare again."
            ) from error
        for wanted in schema:
            found = file.schema_arrow.field(wanted.name).type if wanted.name in file.schema_arrow.names else None
            if found is None or not found.equals(wanted.type):
                file.close()
                raise ManifestError(
                    f"{where}: column {wanted.name!r} must be {wanted.type}, and is {found or 'missing'}"
                )
        return file

    def _unreadable(self, name: str, error: Exception) -> ShardError:
        return ShardError(f"{self.at(name)}: cannot be read ({type(error).__name__}: {error})")


def open_store(root: str, storage_options: Mapping[str, Any] | None = None) -> Store:
    """Open the store of a path or URL. Raises ConfigError for an unsupported protocol."""
    check_url(root, allow_pipe=False)
    try:
        filesystem, base = fsspec.core.url_to_fs(root, **(storage_options or {}))
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"{root}: cannot be opened ({error}). Check the address.") from error
    return Store(root, filesystem, str(base))
