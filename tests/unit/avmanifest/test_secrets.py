"""What is shown of URLs with passwords and tokens, alone and within texts, and what identifies them."""

import copy
import pickle
from dataclasses import asdict, dataclass

import pytest

from avmanifest.errors import AvkitError, ConfigError, DecodeError, DownloadError
from avmanifest.secrets import (
    Url,
    excerpt,
    holds_secret,
    identity,
    lacks_secret,
    shown_content,
    shown_source,
    shown_url,
    stored_text,
    without_secrets,
)
from tests.planting import SECRET_URLS

PLAIN_URLS = [
    "local:a?b=TOKEN&c@d", "local:clips@home", "wds:mirror/{00..19}.tar.gz", "data/a:b/c@d?e=f",
    "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=42", "http://[::1]:8080/x", "http://h:80/a@b/x.tar",
    "hf://datasets/me/repo@main/x.tar", "http:https://mirror/{id}_{start:06d}.mp4", "s3://bucket/prefix", "youtube",
    "pipe:cat", "firefox:Profile",
]  # fmt: skip


@pytest.mark.parametrize(("url", "shown"), SECRET_URLS)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert shown_url(shown) == shown
    assert holds_secret(url)
    assert not holds_secret(shown)
    assert lacks_secret(shown)
    assert not lacks_secret(url)


@pytest.mark.parametrize("url", PLAIN_URLS)
def test_a_url_without_a_secret_is_shown_as_it_is(url: str) -> None:
    assert shown_url(url) == url
    assert not holds_secret(url)
    assert not lacks_secret(url)
    assert identity(url) == url


@pytest.mark.parametrize(
    "template", ["{}", "bad '{}': no", '{{"url": "{}"}}', "see ({}), then", "{}: HTTP 403", "<{}>"]
)
@pytest.mark.parametrize(("url", "shown"), SECRET_URLS)
def test_a_text_shows_its_urls_without_their_secrets(url: str, shown: str, template: str) -> None:
    text = without_secrets(template.format(url))
    if " " not in url:  # where a URL with a space ends, a text does not say
        assert text == template.format(shown)
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("exceeded with url: /x.tar?sig=TOKEN&v=1 (Caused by", "exceeded with url: /x.tar?…&v=1 (Caused by"),
        ("no x.tar?sig=TOKEN&v=1 here", "no x.tar?…&v=1 here"),
        ("403, message='Forbidden', url='http://h:1/x?sig=TOKEN'", "403, message='Forbidden', url='http://h:1/x?…'"),
        ("ValueError: 'http://a:PW@h/x'\nhttp://b:PW@h", "ValueError: 'http://***@h/x'\nhttp://***@h"),
        (r"'text\nhttp://a:PW@h/x\nmore'", r"'text\nhttp://***@h/x\nmore'"),
        ("{'Authorization': 'Bearer TOKEN'}", "{'Authorization': '***'}"),
        ("Authorization: Basic VE9LRU4=\nHost: h", "Authorization: ***\nHost: h"),
        ("Set-Cookie: a=TOKEN; b=TOKEN", "Set-Cookie: ***"),
        ("Cookie: a='TOKEN'; b=TOKEN", "Cookie: ***"),
        ('Authorization: Digest username="anna", response="TOKEN"', "Authorization: ***"),
        ("{b'Cookie': b'TOKEN'}", "{b'Cookie': b'***'}"),
        ("[(b'authorization', b'Basic TOKEN'), (b'a', b'b')]", "[(b'authorization', b'***'), (b'a', b'b')]"),
        ("--header X-Auth-Token: TOKEN", "--header X-Auth-Token: ***"),
        ("aws_secret_access_key=PW/PW+PW", "aws_secret_access_key=***"),
        ("{'password': 'PW', 'user': 'me'}", "{'password': '***', 'user': 'me'}"),
        ("the proxy anna:PW@10.0.0.1:3128 does not answer", "the proxy ***@10.0.0.1:3128 does not answer"),
        (r'{"url": "http:\/\/anna:PW@h\/x"}', r'{"url": "http:\/\/***@h\/x"}'),
        ("https://h/http%3A%2F%2Fanna%3APW%40h%2Fx%3Fsig%3DTOKEN/y", "https://h/http%3A%2F%2F***%40h%2Fx%3F…/y"),
        ("name http%3A%2F%2FTOKEN%40h%2Fx", "name http%3A%2F%2F***%40h%2Fx"),
        ("token hf_abcdefghijklmnopqrstuvwx is wrong", "token *** is wrong"),
        ("key AKIAABCDEFGHIJKLMNOP is wrong", "key *** is wrong"),
        ("github_pat_11ABCDEFG0abcdefghij_klmnopqrst is wrong", "*** is wrong"),
        ("glpat-abcdefghijklmnopqrst is wrong", "*** is wrong"),
        ("ya29.a0AfH6SMBabcdefghijkl is wrong", "*** is wrong"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.TOKEN is wrong", "*** is wrong"),
    ],
)  # fmt: skip
def test_a_text_shows_no_headers_and_no_tokens(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "model.num_fusion_tokens=16: unexpected token 'x'", "data/a/b.tar: 3 of 4 bytes. Prepare it again",
        "train/00003 vgg-a_000030 at byte 512: members of this key are not adjacent", "seed=-1: must be 0 or more",
        "video 'me@home.mp4' at 12:30:01", "local:clips@home has no videos", "https://h/x.mp4; then http://h/y, twice.",
        "install it: pip install 'avkit[s3]'", "mailto:me@host.org",
    ],
)  # fmt: skip
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


def test_every_error_of_avkit_shows_no_secret() -> None:
    url = "http://anna:PW@host/x.tar?sig=TOKEN"
    for error in (AvkitError(f"{url}: no"), ConfigError(f"{url!r}"), DecodeError("media_corrupt", f"{url}: no")):
        for one in (error, pickle.loads(pickle.dumps(error))):
            assert "http://***@host/x.tar?…" in str(one)
            assert not {"PW", "TOKEN", "anna"} & set(repr(one).replace("=", ":").replace("@", ":").split(":"))
    assert "TOKEN" not in DownloadError("net_http", f"{url}: no", retry_after_s=3.0).message


def test_a_url_opens_with_its_secrets_and_is_shown_without() -> None:
    @dataclass
    class Config:
        proxy: Url

    url = Url("http://anna:PW@host/x?sig=TOKEN")
    assert url.secret == "http://anna:PW@host/x?sig=TOKEN"
    for text in (
        str(url),
        repr(url),
        f"{url}",
        f"{url!r:>60}",
        repr([url]),
        repr(Config(url)),
        str(asdict(Config(url))),
    ):
        assert "PW" not in text
        assert "TOKEN" not in text
    for same in (copy.deepcopy(url), pickle.loads(pickle.dumps(url)), Url(url.secret)):
        assert same == url
        assert hash(same) == hash(url)
    assert url != Url("http://anna:PW2@host/x?sig=TOKEN")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a:PW@h/x.tar?sig=1&file=7", "http://b:PW2@h/x.tar?file=7&sig=2"),
        ("https://h/k?X-Amz-Date=1&X-Amz-Signature=2", "https://h/k?X-Amz-Signature=4&X-Amz-Date=3"),
        ("https://h/k?Expires=1&Signature=2&Key-Pair-Id=3", "https://h/k"),
        ("https://h/k?sv=2020&se=2027&sr=b&sp=r&sig=1", "https://h/k?sv=2020&se=2028&sr=b&sp=r&sig=2"),
        ("https://h/k?access_token=1&api_key=2", "https://h/k?access_token=3&api_key=4"),
    ],
)
def test_a_renewed_token_names_the_same_file(one: str, other: str) -> None:
    assert Url(one).identity == Url(other).identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h/get?file=a.tar", "https://h/get?file=b.tar"),
        ("https://h/get?key=a.tar&sig=1", "https://h/get?key=b.tar&sig=1"),
        ("https://h/k?versionId=1", "https://h/k?versionId=2"),
        ("https://h/v?st=1&se=2", "https://h/v?st=2&se=3"),  # no Azure signature beside them
        ("http://h:80/x", "http://h:81/x"),
        ("pipe:cat a", "pipe:cat b"),
    ],
)
def test_two_files_have_two_identities(one: str, other: str) -> None:
    assert identity(one) != identity(other)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("http://a:PW@h/x?sig=TOKEN&clip=2#t=3", "http://h/x?clip=2#t=3"),
        ("https://h/x;sig=TOKEN/y?feature=share", "https://h/x?feature=share"),
        ("https://h/x?clip=1&feature=share", "https://h/x?clip=1&feature=share"),
        ("https://h/x?", "https://h/x?"),
        ("see (http://a:PW@h/x?token=TOKEN).", "see (http://h/x)."),
        ('{"a": "http://a:PW@h/x?sig=TOKEN", "b": ["http://h?v=1"]}', '{"a": "http://h/x", "b": ["http://h?v=1"]}'),
        ("clip_000030", "clip_000030"),
    ],
)
def test_a_text_of_a_list_is_stored_without_known_secrets_and_stays_distinct(text: str, stored: str) -> None:
    assert stored_text(text) == stored
    assert stored_text(stored) == stored


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("wds:http://a:PW@h/x.tar?sig=TOKEN/x.tar?sig=TOKEN/abc.mp4", "wds:http://***@h/x.tar?…?…/abc.mp4"),
        ("wds:http://***@h/x.tar?…/x.tar?…/abc.mp4", "wds:http://***@h/x.tar?…/x.tar?…/abc.mp4"),
        ("http:https://a:PW@h/d/abc.mp4", "http:https://***@h/d/abc.mp4"),
        ("local:a?b=c/d@e:f.mp4", "local:a?b=c/d@e:f.mp4"),
    ],
)
def test_a_source_that_was_stored_with_secrets_keeps_its_file(source: str, shown: str) -> None:
    assert shown_source(source) == shown
    assert shown_source(shown) == shown


def test_an_excerpt_is_cut_after_its_secrets_are_hidden() -> None:
    assert excerpt("http://TOKEN@h/x and more", 10) == "http://***"
    assert excerpt("short", 10) == "short"


def test_content_of_json_is_shown_without_secrets() -> None:
    content = {"a": ["http://u:PW@h", 3, None, {"b": ("x?", "http://h?sig=TOKEN")}], "c": 1.5}
    assert shown_content(content) == {"a": ["http://***@h", 3, None, {"b": ["x?", "http://h?…"]}], "c": 1.5}
