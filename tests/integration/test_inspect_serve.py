"""`avkit inspect --serve`: who is answered, what is answered, and the page in a real browser."""

import http.client
import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

import cv2
import numpy as np
import pytest
import soundfile

from avcli import inspect as inspect_command
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.maps import Maps
from avdata.audit.serve import ClipServer, PageServer
from avdata.audit.summary import summarize
from avmanifest.errors import ConfigError
from tests.browser import CHROMIUM, Browser
from tests.shards import draw_dataset

HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Sixty clips in shards of ten, the sixth of which is damaged."""
    root = tmp_path_factory.mktemp("serve") / "set"
    draw_dataset(
        root, 60, 10, num_frames=2, seconds=1.0, failed=[5], labels=lambda n: [HOSTILE if n % 2 else "rain"],
        flags=lambda n: {"silent": n == 9, "duration_s": 1.0 + n / 100},
    )  # fmt: skip
    with (root / "train" / "00005.tar").open("r+b") as tar:
        tar.truncate(2000)
    return root


def make_maps(keys):
    rows = np.array([row for row, key in enumerate(keys) if key])
    places = np.stack([np.linspace(0, 1, len(rows)), np.full(len(rows), 0.5)], axis=1)
    return Maps(rows=rows, streams={"fusion": places}, said="Of a test.")


@contextmanager
def serving(root):
    dataset = open_audit_dataset(str(root))
    with PageServer(ClipServer(dataset, summarize(dataset), make_maps)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(root):
    with serving(root) as server:
        yield server


def ask(server, path, *, method="GET", below=True, **headers):
    """Status, headers and content of an answer; `below`: the path is below the token."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        whole = f"/{server.token}/{path}" if below else path
        connection.request(method, whole, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def asked(server, query):
    whole = {"text": "", "sort": "status", "offset": 0, "limit": 50} | query
    status, _, content = ask(server, f"query?q={quote(json.dumps(whole))}")
    return status, json.loads(content)


def test_the_page_is_told_what_it_may_ask(server):
    status, headers, content = ask(server, "")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert policy in content.decode()
    assert {"nosniff", "no-referrer", "no-store", "same-origin", "DENY"} <= set(headers.values())
    assert "Access-Control-Allow-Origin" not in headers
    assert b"All 60 clips, read from the shards" in content
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "headers", "wanted"),
    [
        ("/", {}, 403),
        ("/favicon.ico", {}, 403),
        ("/wrong-token/", {}, 403),
        ("/TOKEN", {}, 404),
        ("/TOKEN/", {"Host": "evil.example"}, 403),
        ("/TOKEN/", {"Host": "evil.example:PORT"}, 403),
        ("/TOKEN/", {"Host": "127.0.0.1"}, 403),
        ("/TOKEN/", {"Host": "localhost:PORT"}, 200),
        ("/TOKEN/../../etc/passwd", {}, 404),
        ("/TOKEN/%2e%2e/%2e%2e/etc/passwd", {}, 404),
        ("/TOKEN/sound/../dataset.json", {}, 404),
        ("/TOKEN/sound/..%2f..%2fdataset.json", {}, 404),
        ("/TOKEN/sound/-1", {}, 404),
        ("/TOKEN/sound/1e3", {}, 404),
        ("/TOKEN/sound/٣", {}, 404),
        ("/TOKEN/sound/60", {}, 404),
        ("/TOKEN/sound/5", {}, 404),  # a clip that failed
        ("/TOKEN/frame/999999999999.webp", {}, 404),
        ("/TOKEN/frame/99999999999999999999.webp", {}, 404),
        ("/TOKEN/query", {}, 404),
        ("/TOKEN/query?q=%7B%7D", {}, 404),
        ("/TOKEN/dataset.json", {}, 404),
        ("//evil.example/TOKEN/", {}, 403),
    ],
)
def test_nothing_else_is_answered(server, path, headers, wanted):
    named = {name: text.replace("PORT", str(server.server_port)) for name, text in headers.items()}
    status, _, content = ask(server, quote(path.replace("TOKEN", server.token), safe="/%?=&"), below=False, **named)
    assert status == wanted
    if wanted != 200:
        assert list(json.loads(content)) == ["error"]
        assert server.token.encode() not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_only_reads(server, method):
    assert ask(server, "", method=method)[0] == 501


def test_a_request_without_a_host_or_with_two_is_refused(server):
    for hosts in ("", f"Host: 127.0.0.1:{server.server_port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
            connection.sendall(f"GET /{server.token}/ HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
            assert b" 403 " in connection.recv(100)


def test_clips_are_asked_for_page_by_page(server):
    status, answer = asked(server, {"limit": 2})
    assert (status, answer["total"], [row[1] for row in answer["rows"]]) == (200, 60, ["clip-00005", "clip-00000"])
    status, answer = asked(server, {"flag": 0})
    assert [row[1] for row in answer["rows"]] == ["clip-00009"]
    status, answer = asked(server, {"text": "clip-0003 onerror", "sort": 0, "descending": True})
    assert [row[1] for row in answer["rows"]] == [f"clip-0003{n}" for n in (9, 7, 5, 3, 1)]
    status, answer = asked(server, {"label": 99})
    assert (status, list(answer)) == (404, ["error"])
    status, _, content = ask(server, "row/7")
    assert json.loads(content)["row"][1] == "clip-00007"


def test_thumbnails_samples_and_sound_come_from_the_shards(server, root):
    for kind, most in (("frame", 1450), ("mel", 750)):
        status, headers, content = ask(server, f"{kind}/33.webp")
        assert (status, headers["Content-Type"]) == (200, "image/webp")
        assert 0 < len(content) <= most
        assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None
    sample = json.loads(ask(server, "sample/33")[2])
    assert len(sample["frames"]) == 2
    assert sample["sound"] == "sound/33"
    status, headers, sound = ask(server, "sound/33")
    assert (status, headers["Content-Type"], headers["Accept-Ranges"]) == (200, "audio/flac", "bytes")
    assert sound[:4] == b"fLaC"
    (root.parent / "33.flac").write_bytes(sound)
    assert soundfile.info(root.parent / "33.flac").duration == pytest.approx(1.0)
    status, headers, nothing = ask(server, "sound/33", method="HEAD")
    assert (status, int(headers["Content-Length"]), nothing) == (200, len(sound), b"")


@pytest.mark.parametrize(
    ("asked_for", "wanted"),
    [
        ("bytes=0-3", slice(0, 4)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-50", slice(-50, None)),
        ("bytes=0-99999999", slice(0, None)),
        ("bytes=99999999-", None),
        ("bytes=9-3", None),
        ("bytes=-", None),
        ("bytes=0-1,5-9", None),
        ("lines=0-1", None),
    ],
)
def test_parts_of_the_sound_are_given(server, asked_for, wanted):
    sound = ask(server, "sound/33")[2]
    status, headers, content = ask(server, "sound/33", Range=asked_for)
    if wanted is None:
        assert (status, headers["Content-Range"]) == (416, f"bytes */{len(sound)}")
        return
    start, stop, _ = wanted.indices(len(sound))
    assert (status, content) == (206, sound[wanted])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(sound)}"


def test_a_damaged_shard_is_told_and_the_others_are_shown(server):
    status, _, content = ask(server, "sample/55")
    assert status == 422
    assert "00005.tar" in json.loads(content)["error"]
    assert ask(server, "frame/55.webp")[0] == 422
    assert ask(server, "sample/54")[0] == 422
    assert ask(server, "sample/44")[0] == 200


def test_a_manifest_and_plain_tars_are_served_too(root, tmp_path):
    with serving(root / "manifest") as server:
        assert asked(server, {})[1]["total"] == 60
        assert b"All 60 clips of a manifest." in ask(server, "")[2]
        assert ask(server, "sample/0")[0] == 404
    tars = tmp_path / "tars"
    tars.mkdir()
    (tars / "00000.tar").write_bytes((root / "train" / "00001.tar").read_bytes())
    with serving(tars) as server:
        assert asked(server, {"limit": 1})[1]["total"] == 10
        assert ask(server, "sound/3")[2][:4] == b"fLaC"


def test_a_port_that_is_taken_is_refused(server):
    with pytest.raises(ConfigError, match=r"Give another --port"):
        PageServer(server.clips, server.server_port)
    with pytest.raises(ConfigError, match=r"Give another --port"):
        PageServer(server.clips, 70_000)


def test_ctrl_c_ends_it_without_an_error(root, capsys):
    """The command in this process: a signal as Ctrl-C sends it, once it answers."""
    found = []

    def interrupt():
        deadline = time.monotonic() + 60
        while not (line := capsys.readouterr().out) and time.monotonic() < deadline:
            time.sleep(0.01)
        url = urlsplit(line.strip())
        connection = http.client.HTTPConnection(url.netloc, timeout=30)
        connection.request("GET", url.path)
        found.append(connection.getresponse().status)
        connection.close()
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    inspect_command.inspect([str(root)], serve=True)
    thread.join()
    assert found == [200]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make browser, or apt-get install chromium")
def test_the_page_in_a_browser(server, tmp_path):
    with Browser(tmp_path / "browser") as tab:
        tab.open(server.url)
        keys = "[...document.querySelectorAll('.clips .open')].map((e) => e.textContent)"
        assert tab.evaluate(keys)[:2] == ["clip-00005", "clip-00000"]
        assert tab.evaluate("document.querySelector('.pager .count').textContent") == "1–50 of 60 clips"
        tab.evaluate("document.querySelector('.clips').scrollIntoView()")
        tab.wait("[...document.querySelectorAll('.thumbs img')].filter((i) => i.complete && i.naturalWidth).length > 3")
        tab.evaluate("[...document.querySelectorAll('.pager button')].at(-1).click()")
        tab.wait("document.querySelector('.pager .count').textContent === '51–60 of 60 clips'")
        tab.wait("document.querySelector('.clips').innerText.includes('cannot be read')")
        tab.type_into(".filters input[type=search]", "clip-00031")
        tab.wait("document.querySelector('.pager .count').textContent === '1–1 of 1 clip'")
        assert tab.evaluate("document.querySelector('.clips tbody tr').cells[3].textContent") == HOSTILE
        tab.evaluate("document.querySelector('.clips .open').click()")
        tab.wait("document.querySelector('.opened audio') !== null")
        playing = """new Promise((done, fail) => { const a = document.querySelector('audio');
            a.onended = () => done(a.duration); a.onerror = () => fail(a.error.message);
            a.playbackRate = 4; a.play().catch(fail); })"""
        assert tab.evaluate(playing) == pytest.approx(1.0, abs=0.05)
        assert [said for said in tab.complaints if "422" not in said] == []  # what the browser says of those pictures
        tab.type_into(".filters input[type=search]", "clip-00055")
        tab.wait("document.querySelector('.clips .open').textContent === 'clip-00055'")
        tab.evaluate("document.querySelector('.clips .open').click()")
        tab.wait("document.querySelector('.opened .bad') !== null")
        assert "00005.tar" in tab.evaluate("document.querySelector('.opened').innerText")
        tab.evaluate("document.querySelector('.map canvas').focus()")
        tab.press("ArrowRight")
        tab.wait("[...document.querySelectorAll('.tip img')].filter((i) => i.complete && i.naturalWidth).length === 2")
        tab.press("Enter")
        tab.wait("document.querySelector('.samples audio') !== null")
        tab.wait("document.querySelector('.samples audio').played.length > 0")
        assert all(address.startswith(server.url) for address in tab.requests)
