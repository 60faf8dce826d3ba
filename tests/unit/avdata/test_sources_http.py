"""URLs from templates, and the statuses for a web server's responses."""

import pytest

from avdata.prepare.config import HttpOptions
from avdata.prepare.sources import SourceChain, open_source, open_sources, reads_archives
from avdata.prepare.sources.http import HttpFetcher, HttpSource, Template, retry_after_s
from avdata.prepare.sources.names import ClipRequest
from avmanifest.errors import ConfigError, DownloadError
from tests.faulty import failing

HOST = "https://host.org"
VIDEO = bytes(range(256)) * 400


def ask(video_id="abc", start_s=30.0, end_s=40.0, path=""):
    return ClipRequest(video_id, start_s, end_s, path)


@pytest.mark.parametrize(
    ("template", "request_", "address"),
    [
        ("/{id}.mp4", ask(), "/abc.mp4"),
        ("/{id}_{start:06d}.mp4", ask(), "/abc_000030.mp4"),
        ("/{id}_{start}_{end}", ask(), "/abc_30_40"),
        ("/{id}_{start}", ask(start_s=1.5), "/abc_1.5"),
        ("/{id}_{start_ms}_{end_ms}", ask(start_s=1.5), "/abc_1500_40000"),
        ("/v?x={id}&t=1", ask("a&b=c#d/e"), "/v?x=a%26b%3Dc%23d%2Fe&t=1"),
        ("/{id}", ask("../../etc/passwd"), "/..%2F..%2Fetc%2Fpasswd"),
        ("/{id}/x", ask(".."), "/%2E%2E/x"),
        ("/{id}", ask("//evil.org"), "/%2F%2Fevil.org"),
        ("/{id}", ask("é\udcff\n"), "/%C3%A9%FF%0A"),
        ("/{path}", ask(path="a b/./c.mp4"), "/a%20b/c.mp4"),
    ],
)
def test_a_template_gives_the_address_of_a_request(template, request_, address):
    assert Template(HOST + template).fill(request_) == HOST + address


@pytest.mark.parametrize(
    ("template", "request_"),
    [("/{id}_{start:06d}", ask(start_s=1.5)), ("/{id}_{end}", ask(end_s=None)), ("/{path}", ask(path="../x"))],
)
def test_a_request_without_a_field_of_the_template_has_no_address(template, request_):
    source = HttpSource(HOST + template, HttpOptions())
    assert source.locate(request_) is None
    assert source.refused.total() == 1


@pytest.mark.parametrize(
    "template",
    [
        "ftp://host/{id}", "https://{id}/x", "https://host.org/all.mp4", "https://host.org/{id.__class__}",
        "https://host.org/{id!r}", "https://host.org/{0}", "https://host.org/{id:>99999999}", "https://host.org/{id:06d}",
        "https://host.org/{", "{id}", "https://host.org{id}/",
    ],
)  # fmt: skip
def test_an_invalid_template_is_refused(template):
    with pytest.raises(ConfigError, match=r"\{start:06d\}"):
        Template(template)


def test_with_a_start_the_files_are_clips_and_the_query_is_kept_out_of_the_manifest():
    source = HttpSource(HOST + "/{id}.mp4?token=secret", HttpOptions())
    found = source.locate(ask())
    assert found is not None
    assert not found.is_clip
    assert "secret" not in found.name + found.source
    assert HttpSource(HOST + "/{id}_{start}.mp4", HttpOptions()).template.is_clip


def test_templates_that_differ_only_in_a_token_are_two_sources_and_a_template_twice_is_refused():
    low, high = (f"http:{HOST}/{{id}}.mp4?quality={quality}" for quality in ("low", "high"))
    first, second = open_sources([low, high])
    assert (first.name, second.name) == (f"http:{HOST}/{{id}}.mp4", f"http:{HOST}/{{id}}.mp4 (2)")
    assert SourceChain([first, second]).coverage.keys() == {first.name, second.name}
    found = first.locate(ask()), second.locate(ask())
    assert len({ref.fetch_key for ref in found if ref is not None}) == 2
    with pytest.raises(ConfigError, match="given twice"):
        SourceChain(open_sources([low, low]))


@pytest.mark.parametrize("spec", ["http:https://host.org/{id}.mp4", "https://host.org/{id}.mp4"])
def test_a_template_is_a_source_with_or_without_its_prefix(spec):
    source = open_source(spec)
    assert isinstance(source, HttpSource)
    assert source.template.text == "https://host.org/{id}.mp4"


@pytest.mark.parametrize(
    ("spec", "archive"),
    [
        ("https://host.org/{00..19}.tar.gz", True),
        ("wds:https://host.org/{00..19}.tar", True),
        ("/data/x.tgz", True),
        ("https://host.org/{id}.mp4", False),
        ("http:https://host.org/{id}.tar", False),
        ("local:x.tar", False),
        ("youtube", False),
    ],
)
def test_an_archive_at_a_url_is_an_archive(spec, archive):
    assert reads_archives(spec) == archive


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("", 0), ("120", 120), ("99999", 3600), ("²", 0), ("soon", 0), ("Fri, 31 Dec 1999 23:59:59 GMT", 0)],
)
def test_retry_after_is_a_number_or_a_date(told, seconds):
    assert retry_after_s(told) == seconds


@pytest.mark.network
def test_an_interrupted_download_is_continued(tmp_path):
    with failing(VIDEO) as server:
        (file,) = HttpFetcher(HttpOptions())(f"{server.url}/cut.mp4", (), tmp_path)
        assert (tmp_path / file.name).read_bytes() == VIDEO
        assert server.served["cut"] == len(VIDEO)


@pytest.mark.network
def test_a_killed_download_is_continued_only_with_the_same_version(tmp_path):
    fetcher = HttpFetcher(HttpOptions())
    with failing(VIDEO) as server:
        address = f"{server.url}/good.mp4"
        fetcher(address, (), tmp_path)
        half = len(VIDEO) // 2
        (tmp_path / "body").write_bytes(VIDEO[:half])
        fetcher(address, (), tmp_path)
        assert server.served["good"] == len(VIDEO) + half
        server.video = bytes(reversed(VIDEO))
        state = tmp_path / "body.json"
        state.write_text(state.read_text().replace('\\"a\\"', '\\"old\\"'))
        (tmp_path / "body").write_bytes(VIDEO[:half])
        fetcher(address, (), tmp_path)
        assert (tmp_path / "body").read_bytes() == server.video


@pytest.mark.network
def test_a_web_page_and_a_file_over_the_limit_are_refused(tmp_path):
    with failing(VIDEO) as server:
        with pytest.raises(DownloadError, match="text/html"):
            HttpFetcher(HttpOptions())(f"{server.url}/html.mp4", (), tmp_path)
        with pytest.raises(DownloadError, match="exceed the limit of 100"):
            HttpFetcher(HttpOptions(max_bytes=100))(f"{server.url}/good.mp4", (), tmp_path)
