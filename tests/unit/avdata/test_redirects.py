"""Redirects: no credentials for another host, and none from a public host to this machine."""

from base64 import b64encode

import pytest

from avdata.prepare.config import HttpOptions
from avdata.prepare.sources.http import HttpFetcher
from avdata.redirects import RedirectRefusedError, drop_credentials, is_local, next_address, same_origin
from avdata.store import open_store
from avmanifest.errors import DownloadError, ShardError
from tests.redirecting import redirecting

PUBLIC = "http://videos.example"  # RFC 2606: no such host; a proxy may know it
LOCAL = [
    "127.0.0.1", "127.1", "127.255.255.254", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "0", "localhost",
    "LOCALHOST.", "x.localhost", "169.254.169.254", "169.254.1.1", "2852039166", "[::1]", "[::]", "[fe80::1]",
    "[fe80::1%25eth0]", "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[2002:7f00:1::]",
]  # fmt: skip


@pytest.mark.parametrize("host", LOCAL)
def test_a_public_host_cannot_redirect_to_this_machine_or_its_link(host: str) -> None:
    assert is_local(host.strip("[]"))
    with pytest.raises(RedirectRefusedError, match=r"remote\.http\.local_redirects"):
        next_address(f"{PUBLIC}/x", f"http://{host}:8080/y")
    assert next_address(f"{PUBLIC}/x", f"http://{host}:8080/y", allow_local=True) == f"http://{host}:8080/y"
    assert next_address("http://127.0.0.1/x", f"http://{host}/y") == f"http://{host}/y"


def test_a_variable_allows_redirects_to_this_machine(monkeypatch) -> None:
    monkeypatch.setenv("AVKIT_LOCAL_REDIRECTS", "1")
    assert next_address(f"{PUBLIC}/x", "http://127.0.0.1/y") == "http://127.0.0.1/y"


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.1", "93.184.216.34", "videos.example", "[2001:db8::1]", "1.1"])
def test_other_hosts_are_not_local(host: str) -> None:
    assert not is_local(host.strip("[]"))
    assert next_address(f"{PUBLIC}/x", f"http://{host}/y") == f"http://{host}/y"


@pytest.mark.parametrize(
    ("location", "target"),
    [("y", f"{PUBLIC}/a/y"), ("/y?z", f"{PUBLIC}/y?z"), ("//other.example/y", "http://other.example/y")],
)
def test_a_location_is_relative_to_the_address(location: str, target: str) -> None:
    assert next_address(f"{PUBLIC}/a/x", location) == target


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/x", "http://[::1", "gopher://h", "data:x"])
def test_a_location_of_another_kind_is_refused(location: str) -> None:
    with pytest.raises(RedirectRefusedError):
        next_address(f"{PUBLIC}/x", location)


def test_an_origin_is_protocol_host_and_port() -> None:
    assert same_origin("http://h/x", "http://H:80/y")
    for other in ("https://h/x", "http://h:81/x", "http://h.org/x"):
        assert not same_origin("http://h/x", other)
    headers = {"Authorization": "a", "Cookie": "b", "X-Api-Key": "c", "PRIVATE-TOKEN": "d", "Range": "e", "Accept": "f"}
    drop_credentials(headers)
    assert headers == {"Range": "e", "Accept": "f"}


def basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.network
def test_a_download_sends_credentials_to_their_own_host_only(tmp_path) -> None:
    with redirecting(b"video") as server:
        server.redirects = {
            "http://one.example/a": "http://one.example/b",
            "http://one.example/b": "http://u:p@two.example/c",
            "http://two.example/c": "http://one.example/d",
        }
        fetcher = HttpFetcher(HttpOptions(proxy=server.url))
        (file,) = fetcher("http://ann%40:P%2Fß@one.example/a?sig=TOKEN", (), tmp_path)
        assert (tmp_path / file.name).read_bytes() == b"video"
        sent = [(url, headers.get("authorization")) for url, headers in server.requests]
        own = basic("ann@", "P/ß")
        assert sent == [
            ("http://one.example/a?sig=TOKEN", own),
            ("http://one.example/b", own),
            ("http://two.example/c", None),
            ("http://one.example/d", None),
        ]


@pytest.mark.network
@pytest.mark.parametrize("prefix", ["http://", ""])
def test_a_proxy_gets_its_password_and_no_server_does(prefix: str, tmp_path) -> None:
    with redirecting(b"video") as server:
        proxy = f"{prefix}anna:P%40W@{server.url.removeprefix('http://')}"
        HttpFetcher(HttpOptions(proxy=proxy))("http://one.example/a", (), tmp_path)
        ((_, headers),) = server.requests
        assert headers["proxy-authorization"] == basic("anna", "P@W")
        assert "authorization" not in headers


@pytest.mark.network
@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "localhost"])
def test_a_download_is_not_led_to_this_machine(host: str, tmp_path) -> None:
    with redirecting(b"inside") as server:
        server.redirects = {
            "http://one.example/a": "http://two.example/b",
            "http://two.example/b": f"http://{host}:{server.server_port}/secret",
        }
        with pytest.raises(DownloadError, match=r"two\.example redirected to .*local_redirects") as raised:
            HttpFetcher(HttpOptions(proxy=server.url))("http://u:PW@one.example/a?sig=TOKEN", (), tmp_path)
        assert raised.value.status == "net_http"
        assert "PW" not in str(raised.value)
        assert len(server.requests) == 2
        options = HttpOptions(proxy=server.url, local_redirects=True)
        (file,) = HttpFetcher(options)("http://one.example/a", (), tmp_path)
        assert (tmp_path / file.name).read_bytes() == b"inside"


@pytest.mark.network
def test_a_circle_of_redirects_ends(tmp_path) -> None:
    with redirecting() as server:
        server.redirects = {"http://one.example/a": "/a"}
        with pytest.raises(DownloadError, match="too many redirects"):
            HttpFetcher(HttpOptions(proxy=server.url, max_redirects=3))("http://one.example/a", (), tmp_path)
        assert len(server.requests) == 4


@pytest.mark.network
def test_a_store_is_not_led_to_this_machine_and_gives_credentials_to_one_host(monkeypatch) -> None:
    with redirecting(b"content") as server:
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "")
        options = {"client_kwargs": {"trust_env": True, "headers": {"X-Auth-Token": "TOKEN"}}}
        server.redirects = {
            "http://one.example/a": "http://two.example/a",
            "http://three.example/a": "http://169.254.169.254/latest/meta-data",
        }
        assert open_store("http://anna:PW@one.example/a", options).content("") == b"content"
        assert [headers.get("authorization") for headers in server.headers_of("one.example")] == [basic("anna", "PW")]
        for headers in server.headers_of("two.example"):
            assert "authorization" not in headers
            assert "x-auth-token" not in headers
        for read in ("content", "read", "size"):
            with pytest.raises(ShardError, match=r"three\.example redirected to http://169\.254"):
                getattr(open_store("http://anna:PW@three.example/a", options), read)("")
        assert not server.headers_of("169.254.169.254")
