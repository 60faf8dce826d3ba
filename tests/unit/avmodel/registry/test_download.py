"""Fetching published models from a server on loopback: resumed, checked, whole or not at all."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avdata.retrying import RetryPolicy
from avmanifest.errors import AvkitError, CheckpointError, ConfigError, StorageError
from avmodel.registry.entries import Entry
from avmodel.registry.fetch import Fetched, fetch, here, pin_path, place_of, read_pin
from tests.faults.disks import full_disk
from tests.serving import FileServer, serving

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ONCE = RetryPolicy(attempts=1)
TWICE = RetryPolicy(attempts=2, wait_s=0.0)
PART = 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "avkit" / "models"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.pth").write_bytes(CONTENT)
    with serving(tmp_path / "served") as found:
        found.headers = lambda path: {"ETag": '"one"'}
        yield found


def entry_of(server: FileServer, **changes: Any) -> Entry:
    entry = Entry(
        name="tiny-vit",
        title="A ViT",
        url=f"{server.url}/w.pth",
        page="https://example.org",
        file="w.pth",
        licence="MIT",
        starts=("image_weights",),
        sha256=SHA256,
        bytes=len(CONTENT),
    )
    return replace(entry, **changes)


def get(entry: Entry, folder: Path | None = None, **options: Any) -> Fetched:
    return fetch(entry, folder, **{"retry": ONCE, "part_bytes": PART, **options})


def test_a_model_is_fetched_once_and_then_checked_without_the_server(server, cache):
    entry = entry_of(server)
    assert here(entry) is None
    first = get(entry)
    assert (first.path, first.was_there, first.first_hash) == (cache / "tiny-vit" / "w.pth", False, False)
    assert first.path.read_bytes() == CONTENT
    asked = len(server.requests)
    again = get(entry, offline=True)
    assert (again.was_there, again.sha256) == (True, SHA256)
    assert get(entry).was_there
    assert len(server.requests) == asked
    assert here(entry) == first.path
    assert [path.name for path in first.path.parent.iterdir()] == ["w.pth"], "no rest of the download"


def test_what_is_not_here_is_an_error_offline(server):
    with pytest.raises(ConfigError, match=r"w\.pth: is not there, and --offline asks no server"):
        get(entry_of(server), offline=True)
    assert server.requests == []


@pytest.mark.parametrize("failure", ["cut", "refused"])
def test_a_broken_download_goes_on_where_it_stopped(server, failure):
    entry = entry_of(server)
    said: list[str] = []

    def fail(done: int, total: int | None) -> None:
        if done == 3 * PART:
            server.cut_after.append(17) if failure == "cut" else server.statuses.append(503)

    with pytest.raises(StorageError, match="The same command goes on where it stopped"):
        get(entry, progress=fail)
    assert here(entry) is None
    sent = server.sent_bytes["/w.pth"]
    done = get(entry, say=said.append)
    assert said == [f"going on after {3 * PART:,} of {len(CONTENT):,} bytes"]
    assert done.path.read_bytes() == CONTENT
    assert server.sent_bytes["/w.pth"] - sent == len(CONTENT) - 3 * PART, "nothing came twice"


def test_a_passing_failure_is_tried_again_in_the_same_command(server):
    def fail(done: int, total: int | None) -> None:
        if done == PART:
            server.cut_after.append(1)

    assert get(entry_of(server), retry=TWICE, progress=fail).path.read_bytes() == CONTENT


@pytest.mark.parametrize("tags", [('"one"', '"two"'), ("", "")])
def test_another_version_is_begun_anew(server, tags):
    """Also where the server names no version and no hash is published: the parts could be of two files."""
    entry = entry_of(server, sha256="", bytes=0)
    server.headers = lambda path: {"ETag": tags[0]} if tags[0] else {}
    with pytest.raises(StorageError):
        get(entry, progress=lambda done, total: server.statuses.append(503) if done == PART else None)
    other = b"PK" + CONTENT[2:][::-1]
    (server.root / "w.pth").write_bytes(other)
    server.headers = lambda path: {"ETag": tags[1]} if tags[1] else {}
    said: list[str] = []
    assert get(entry, say=said.append).path.read_bytes() == other
    assert "of another version; begun anew" in said[0]


def test_a_file_that_is_replaced_meanwhile_is_never_mixed(server):
    entry = entry_of(server, sha256="", bytes=0)

    def swap(done: int, total: int | None) -> None:
        if done == 2 * PART:
            server.headers = lambda path: {"ETag": '"two"'}

    with pytest.raises(StorageError, match="was replaced while it was read"):
        get(entry, progress=swap)
    assert get(entry).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, f"sha256 {SHA256}, published: {'0' * 64}"),
        ({"sha256": "", "md5_prefix": "0123"}, r"md5 \w{32}, published: 0123\.\.\."),
    ],
)
def test_a_file_with_another_hash_is_not_kept(server, cache, changes, message):
    with pytest.raises(CheckpointError, match=f"what came is not the expected file .{message}"):
        get(entry_of(server, **changes))
    assert list((cache / "tiny-vit").iterdir()) == [cache / "tiny-vit" / ".w.pth.version.tmp"]


def test_a_file_of_another_size_is_not_downloaded(server):
    with pytest.raises(CheckpointError, match=r"the server has 10,244 bytes, published: 9\. .*nothing was downloaded"):
        get(entry_of(server, bytes=9))
    assert server.sent_bytes["/w.pth"] <= 1, "one byte tells the version"


def test_a_page_in_place_of_weights_is_refused(server):
    (server.root / "w.pth").write_bytes(b"<!DOCTYPE html><title>quota exceeded</title>")
    with pytest.raises(CheckpointError, match="it begins with '<!DOCTYPE html>"):
        get(entry_of(server, sha256="", bytes=0))


@pytest.mark.parametrize("how", ["no ranges", "no size"])
def test_a_server_without_ranges_sends_the_whole(server, how):
    server.sends_ranges, server.tells_size = how == "no size", how == "no ranges"
    said: list[str] = []
    if how == "no ranges":
        server.cut_after.append(100)
    assert get(entry_of(server), retry=TWICE, say=said.append).path.read_bytes() == CONTENT
    assert "only as a whole, so it cannot be resumed" in said[0]


def test_a_file_that_is_gone_is_said_so(server):
    with pytest.raises(ConfigError, match="there is no such file on the server"):
        get(entry_of(server, url=f"{server.url}/gone.pth"))


def test_a_full_disk_keeps_what_came(server):
    entry = entry_of(server)
    with (
        full_disk(4 * PART),
        pytest.raises(StorageError, match=r"not written \(File too large\); 4,000 bytes are kept"),
    ):
        get(entry)
    said: list[str] = []
    assert get(entry, say=said.append).path.read_bytes() == CONTENT
    assert said == [f"going on after 4,000 of {len(CONTENT):,} bytes"]


def test_an_unpublished_hash_is_recorded_and_later_downloads_must_equal_it(server, cache):
    entry = entry_of(server, sha256="", bytes=0)
    first = get(entry)
    assert first.first_hash
    pin = read_pin(entry)
    assert pin is not None and (pin.sha256, pin.bytes) == (SHA256, len(CONTENT))
    first.path.unlink()
    (server.root / "w.pth").write_bytes(CONTENT[:-1] + b"!")
    server.headers = lambda path: {"ETag": '"two"'}
    with pytest.raises(CheckpointError, match=rf"sha256 \w+, at the first download .*: {SHA256}"):
        get(entry)
    assert read_pin(replace(entry, url="https://example.org/other.pth")) is None
    pin_path(entry).write_text("{")
    assert read_pin(entry) is None


def test_a_changed_file_of_the_cache_is_fetched_anew_and_one_of_the_users_is_left(server, tmp_path):
    entry = entry_of(server)
    path = get(entry).path
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError, match="is damaged"):
        get(entry, offline=True)
    said: list[str] = []
    assert get(entry, say=said.append).path.read_bytes() == CONTENT
    assert "differs from the published file" in said[0]
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointError, match=r"It was changed since its download\. avkit download tiny-vit"):
        here(entry)
    own = tmp_path / "weights"
    own.mkdir()
    (own / "w.pth").write_bytes(b"PK mine")
    with pytest.raises(ConfigError, match=r"is there and is not tiny-vit .*Remove it, or give --to another folder"):
        get(entry, own)
    assert (own / "w.pth").read_bytes() == b"PK mine"


def test_a_file_in_a_folder_of_the_users_is_found_by_name(server, tmp_path):
    entry = entry_of(server)
    assert get(entry, tmp_path / "weights").path == tmp_path / "weights" / "w.pth"
    assert here(entry) == tmp_path / "weights" / "w.pth"
    assert json.loads(pin_path(entry).read_text())["files"] == [str(tmp_path / "weights" / "w.pth")]


def test_two_processes_download_it_once(server):
    entry, found, said = entry_of(server), [], []  # type: ignore[var-annotated]
    holding = threading.Event()

    def slow(done: int, total: int | None) -> None:
        holding.set()
        waiting.wait(10)

    waiting = threading.Event()

    def say(message: str) -> None:
        said.append(message)
        waiting.set()

    first = threading.Thread(target=lambda: found.append(get(entry, progress=slow)))
    first.start()
    assert holding.wait(10)
    second = get(entry, say=say)
    first.join()
    assert second.was_there and not found[0].was_there
    assert "another process is downloading it; waiting" in said[0]


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AvkitError, match=r"file.*cannot be written"):
        get(entry_of(server), tmp_path / "file" / "weights")
    assert place_of(entry_of(server), tmp_path) == tmp_path / "w.pth"
