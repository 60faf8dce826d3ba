"""Shard patterns, and which URLs are read."""

from pathlib import Path

import pytest

from avdata.load import open_dataset
from avdata.urls import check_url, expand_urls, local_path
from avmanifest.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "urls"),
    [
        ("a/{00000..00002}.tar", ["a/00000.tar", "a/00001.tar", "a/00002.tar"]),
        ("{8..11}.tar", ["8.tar", "9.tar", "10.tar", "11.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]),
        (["b.tar", Path("a.tar"), "{0,2}.tar"], ["b.tar", "a.tar", "0.tar", "2.tar"]),
        ("http://host/{0..1}.tar?sign=1", ["http://host/0.tar?sign=1", "http://host/1.tar?sign=1"]),
        ("pipe:cat x{0..1}.tar", ["pipe:cat x{0..1}.tar"]),
    ],
)
def test_patterns_name_shards_in_order(pattern: str | list, urls: list[str]) -> None:
    assert expand_urls(pattern) == urls


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{2..1}.tar", "counts down"),
        ("{0..}.tar", "neither a range"),
        ("{a}.tar", "neither a range"),
        ("{0..1.tar", "without its partner"),
        ("0..1}.tar", "without its partner"),
        ("{0..9999}{0..9999}.tar", "more than 1000000"),
        (["a.tar", "{a,b}.tar"], "'a.tar' is named twice"),
        ([], "no shard URL given"),
    ],
)
def test_patterns_that_cannot_be_read_are_refused(pattern: str | list, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        expand_urls(pattern)


@pytest.mark.parametrize(
    "url",
    [
        "ssh://host/a.tar",
        "sftp://host/a.tar",
        "reference://a.tar",
        "simplecache::http://host/a.tar",
        "zip://a.tar::http://host/b.zip",
        "filecache::memory://a.tar",
        "github://a:b@/c.tar",
        "shell://rm/a.tar",
        "dask://a.tar",
        "ftp://host/a.tar",
        "arrow_hdfs://a.tar",
        "data://x/a.tar",
    ],
)
def test_protocols_that_reach_elsewhere_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown protocol|chained"):
        open_dataset(url)
    with pytest.raises(ConfigError, match=r"unknown protocol|chained"):
        open_dataset([url, "b.tar"])


@pytest.mark.parametrize("url", ["pipe:touch ran", "pipe:cat a.tar | tee ran", "pipe:"])
def test_a_command_is_not_run_unless_it_is_allowed(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (url, [url], ["a.tar", url]):
        with pytest.raises(ConfigError, match=r"runs a command.*--allow-pipe"):
            open_dataset(source)
    assert list(tmp_path.iterdir()) == []
    check_url(url, allow_pipe=True)


@pytest.mark.parametrize(
    "url", [" pipe:touch ran", "PIPE:touch ran", "|touch ran", "file://pipe:touch ran", "$(touch ran)"]
)
def test_what_only_looks_like_a_command_is_a_file_that_is_missing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        open_dataset(url)
    assert list(tmp_path.iterdir()) == []


def test_local_urls_are_paths() -> None:
    assert local_path("file:///data/a.tar") == Path("/data/a.tar")
    assert local_path("FILE:///data/a.tar") == Path("/data/a.tar")
    assert local_path("data/a:b.tar") == Path("data/a:b.tar")
    assert local_path("HTTP://host/a.tar") is None
    assert local_path("~/data/a.tar") == Path.home() / "data/a.tar"
    assert local_path("./~/a.tar") == Path("~/a.tar")
    assert local_path("s3://bucket/a.tar") is None
