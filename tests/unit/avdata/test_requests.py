"""Official lists are fetched once, checked by hash, or refused with what to do."""

import hashlib
from dataclasses import replace

import pytest

from avdata.prepare.requests import fetch_lists
from avmanifest.errors import ConfigError, DownloadError
from avmanifest.recipe import ListSpec, load_recipe
from tests.serving import serving

LIST = b"aaaaaaaaaaa,1,dog barking,train\n"

pytestmark = pytest.mark.network


@pytest.fixture
def server(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "list.csv").write_bytes(LIST)
    with serving(tmp_path / "site") as server:
        yield server


def recipe(url, sha256="", splits=("train",)):
    spec = ListSpec(format="vggsound", file="list.csv", url=url, sha256=sha256, splits=splits)
    return replace(load_recipe("vggsound"), lists=(spec,))


def test_a_list_with_the_right_hash_is_fetched_once(server, tmp_path):
    official = recipe(f"{server.url}/list.csv", hashlib.sha256(LIST).hexdigest())
    for _ in range(2):
        folder = fetch_lists(official, None, tmp_path / "lists")
    assert (folder / "list.csv").read_bytes() == LIST
    assert server.count("list.csv") == 1


def test_a_server_may_know_neither_ranges_nor_sizes(server, tmp_path):
    server.tells_size = False
    official = recipe(f"{server.url}/list.csv", hashlib.sha256(LIST).hexdigest())
    assert (fetch_lists(official, None, tmp_path / "lists") / "list.csv").read_bytes() == LIST


def test_a_list_with_another_hash_is_refused_and_not_written(server, tmp_path):
    with pytest.raises(DownloadError, match=r"its sha256 is .*, not 0000.*--list"):
        fetch_lists(recipe(f"{server.url}/list.csv", "0" * 64), None, tmp_path / "lists")
    assert not (tmp_path / "lists" / "list.csv").exists()


def test_a_list_that_was_damaged_on_the_disk_is_fetched_again(server, tmp_path):
    official = recipe(f"{server.url}/list.csv", hashlib.sha256(LIST).hexdigest())
    (fetch_lists(official, None, tmp_path / "lists") / "list.csv").write_bytes(LIST[:9])
    assert (fetch_lists(official, None, tmp_path / "lists") / "list.csv").read_bytes() == LIST


def test_a_missing_list_is_an_error_that_names_the_address(server, tmp_path):
    with pytest.raises(DownloadError, match=r"gone\.csv: cannot be fetched .*--list"):
        fetch_lists(recipe(f"{server.url}/gone.csv"), None, tmp_path / "lists")


def test_a_list_without_an_address_has_to_be_given(tmp_path):
    with pytest.raises(ConfigError, match=r"list\.csv has no address; give it with --list"):
        fetch_lists(recipe(""), None, tmp_path / "lists")


def test_only_the_lists_of_the_requested_splits_are_fetched(server, tmp_path):
    fetch_lists(recipe(f"{server.url}/list.csv", splits=("eval",)), ("train",), tmp_path / "lists")
    assert server.requests == []
