"""Videos in a folder with any layout of subfolders."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.names import ClipRequest, IndexedSource, safe_relative
from avdata.prepare.sources.remote import FailedRef
from avdata.prepare.sources.sidecar import SIDECAR_BYTES, Sidecars, owner, owners
from avmanifest.clipnames import MEDIA_SUFFIXES, ClipName, display_name, printable_name, split_media_suffix
from avmanifest.errors import ConfigError
from avmanifest.files import disk_error, read_file

_UNPRINTABLE: Final = "the name contains a control character, a line end or bytes that are not UTF-8; rename the file"
_OUTSIDE: Final = "the file is a symbolic link to a place outside the folder; give its target as a source"
_BEHIND_A_LINK: Final = "a symbolic link to it leads out of the folder; copy or hard-link the file into the folder"
_UNFINISHED: Final = "the name is that of an unfinished download or copy; finish it, or rename the file"
_OF_MACOS: Final = "__MACOSX holds what macOS adds to archives; move the file out of it"


class LocalSource(IndexedSource):
    """The videos below a folder, found by name or by path.

    The constructor lists the folder once. Requests are answered from that listing, so a path in a list cannot reach
    files outside the folder. Symbolic links to files outside are refused. `refused` counts refused files and requests
    by reason; `problems` names the folders that could not be read.

    Raises ConfigError if the folder is missing or unreadable.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__()
        self.name = f"local:{root}"
        self.problems: list[str] = []
        self._root = os.path.realpath(Path(root).expanduser())
        self._has_folder_links = False
        try:
            os.scandir(self._root).close()
        except OSError as error:
            raise ConfigError(
                f"source {self.name}: {error.strerror or error}. Give a folder of videos that you can read."
            ) from error
        self._refusals: dict[str, str] = {}  # why a file, or what is below a folder, is not given; paths are escaped
        for path, identity in self._walk():
            self._index.add(path, identity=identity)
            if (printable := printable_name(path)) != path:
                self._refusals[printable] = _UNPRINTABLE
        if not len(self._index):
            refusals = "".join(f"; {count} refused: {reason}" for reason, count in self.refused.items())
            self.problems.append(
                f"source {self.name}: no video below the folder ({', '.join(MEDIA_SUFFIXES)}){refusals}"
            )

    def locate(self, request: ClipRequest) -> MediaRef | FailedRef | None:
        """The requested file; None if the folder does not have it. A failure if its name is refused."""
        file = self._index.find(request)
        if file is None and self._has_folder_links and (path := safe_relative(request.path)):
            file = self._index.find(replace(request, path=self._through_links(path)))
        if file is None and (reason := self._refusal_of(request.path)):
            return FailedRef(status="unavailable_missing", reason=reason, source=self.name, name=request.path)
        if file is None:
            return None
        path = self._index.path(file.row)
        return MediaRef(path=f"{self._root}/{path}", is_clip=file.is_clip, source=self.name, name=display_name(path))

    def _walk(self) -> Iterator[tuple[str, ClipName | None]]:
        """Paths of the videos, relative to the root, and the clips that the JSON files beside them name.

        A folder that is linked several times is listed once.
        """
        folders, links = [""], list[str]()
        seen: set[tuple[int, int]] = set()
        while folders or links:
            # Folders before links, so that a folder is listed under its own path and not under that of a link.
            folder = folders.pop() if folders else links.pop()
            try:
                status = Path(self._absolute(folder)).stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                videos, documents = list[str](), list[str]()
                with os.scandir(self._absolute(folder)) as entries:
                    for entry in entries:
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        kind = self._kind(entry)
                        if reason := self._refused_kind(entry, kind):
                            self._refusals[printable_name(path)] = reason
                        if kind == "video":
                            videos.append(path)
                        elif kind == "metadata":
                            documents.append(path)
                        elif kind == "folder":
                            folders.append(path)
                        elif kind == "link":
                            links.append(path)
                sidecars = self._read_sidecars(videos, documents)
                yield from ((path, sidecars.get(path)) for path in videos)
            except OSError as error:
                if disk_error(error) is not None:
                    raise  # the videos in the folder would count as missing for good
                self.problems.append(
                    f"{self._absolute(folder)}: cannot be read ({error.strerror or error}); "
                    "the videos in it are not listed"
                )

    def _read_sidecars(self, videos: Sequence[str], documents: Sequence[str]) -> Sidecars:
        """Read the JSON files that belong to a video."""
        sidecars = Sidecars()
        wanted = {stem for video in videos for stem in owners(video)} if documents else set()
        for path in documents:
            if owner(path) in wanted:
                sidecars.add(path, read_file(self._absolute(path)))
        return sidecars

    def _kind(self, entry: os.DirEntry[str]) -> Literal["video", "metadata", "folder", "link", "other"]:
        """The kind of a folder's entry. Links out of the root and broken links are "other"."""
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            return "other"
        if not entry.is_symlink():
            if entry.is_dir(follow_symlinks=False):
                return "folder"
            if not entry.is_file(follow_symlinks=False):
                return "other"
            if entry.name.endswith(".json") and entry.stat().st_size <= SIDECAR_BYTES:
                return "metadata"
            return "video" if _is_video(entry.name) else "other"
        target = Path(os.path.realpath(entry.path))
        is_folder = target.is_dir()
        if not is_folder and not (_is_video(entry.name) and target.is_file()):
            return "other"
        if not target.is_relative_to(self._root):
            self.refused[_OUTSIDE] += 1
            return "other"
        self._has_folder_links |= is_folder
        return "link" if is_folder else "video"

    def _refused_kind(self, entry: os.DirEntry[str], kind: str) -> str:
        """Why an entry of this kind is refused; empty: it is not, or it is none that a list of the folder names."""
        if kind != "other" or entry.name.startswith("."):
            return ""
        if entry.name == "__MACOSX":
            return _OF_MACOS
        if entry.is_symlink() and not os.path.realpath(entry.path).startswith(self._root.rstrip("/") + "/"):
            return _BEHIND_A_LINK
        return _UNFINISHED if split_media_suffix(entry.name)[1] else ""

    def _refusal_of(self, path: str) -> str:
        """Why a path is refused, for itself or for a folder on its way; empty: it is not."""
        places = (path, *map(str, PurePosixPath(path).parents)) if path else ()
        return next((self._refusals[place] for place in places if place in self._refusals), "")

    def _absolute(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _through_links(self, path: str) -> str:
        """The path with symbolic links resolved, relative to the root; unchanged if that leads out of it."""
        target = os.path.realpath(self._absolute(path))
        prefix = self._root.rstrip("/") + "/"
        return target[len(prefix) :] if target.startswith(prefix) else path


def _is_video(name: str) -> bool:
    """Whether this is the name of a complete video. Names such as `ID.part.mp4` belong to unfinished downloads."""
    stem, suffix = split_media_suffix(name)
    return suffix != "" and not stem.endswith((".part", ".temp", ".tmp")) and not stem.startswith("~")
