"""Passwords and tokens in every place that takes a URL: each command opens with them, and nothing that it prints or
leaves on the disk holds one."""

import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.forks import avkit, call
from tests.guarded import GuardedServer, guarding
from tests.integration.test_pretrain import SETTINGS
from tests.planting import PASSWORD, TOKEN, leaks
from tests.shards import draw_dataset

RENEWED = "renewedTOKEN2"
USER = "userAnna"
PLANTED = (PASSWORD, TOKEN, RENEWED, USER, "proxyPASSWORD3", "cellTOKEN4")
TINY = ["--frames", "2", "--short-side", "32", "--workers", "1", "--shard-size", "2", "--no-audio"]

pytestmark = pytest.mark.network


@dataclass
class Place:
    """A guarded server and a folder in which everything is that commands write: outputs, caches, logs."""

    server: GuardedServer
    root: Path
    inputs: Path

    def run(self, *words: object) -> tuple[int, str]:
        """The exit code and all output of a command. The output stays in the folder."""
        number = len(list(self.root.glob("*.log")))
        log = self.root / f"{number:02d}-{words[0]}.log"
        folders = {"XDG_CACHE_HOME": "cache", "TMPDIR": "tmp", "HOME": "home"}
        for name in folders.values():
            (self.root / name).mkdir(exist_ok=True)
        env = {variable: str(self.root / name) for variable, name in folders.items()}
        code = call(avkit, *words, log=log, env=env)
        return code, log.read_text()

    def prepare(self, out: str, *more: object) -> list[object]:
        """A run over an archive, and then files of a server through its own proxy."""
        url, sig = self.server.url, self.server.token
        return [
            "prepare", "table", "--list", self.inputs / "clips.csv", "--id-column", "id", "--label-column", "label",
            "--source", f"wds:{url}/videos.tar?sig={sig}", "--source", f"http:{url}/files/{{id}}.mp4?sig={sig}",
            "--proxy", f"http://{USER}:{PASSWORD}@{self.server.host}", "--out", self.root / out, "--set",
            "downloads.attempts=1", "--rate", "3600000/h", *TINY, *more,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def place(videos, tmp_path_factory):
    inputs = tmp_path_factory.mktemp("inputs")
    served = inputs / "served"
    (served / "files").mkdir(parents=True)
    paths = {path.name: path for path in videos.rglob("*.mp4")}
    with tarfile.open(served / "videos.tar", "w") as tar:
        for name in ("v0.mp4", "v1.mp4"):
            tar.add(paths[name], name)
    shutil.copy(paths["v2.mp4"], served / "files")
    (served / "files" / "v3.mp4").write_bytes(b"not a video")
    cell = f"https://{USER}:{PASSWORD}@h.example/v.mp4?sig=cellTOKEN4&clip=9"
    rows = [*(f"v{number},a,{cell}" for number in range(5)), f"{cell},b,"]
    (inputs / "clips.csv").write_text("id,label,url\n" + "\n".join(rows) + "\n")
    draw_dataset(served / "data", 12, 4, seconds=1.5, num_frames=2, flac=False)
    with guarding(served, USER, PASSWORD, TOKEN) as server:
        place = Place(server, tmp_path_factory.mktemp("work"), inputs)
        code, said = place.run(*place.prepare("out"))
        assert code == 0, said
        yield place


def assert_nothing_leaked(place: Place) -> None:
    assert leaks(place.root, PLANTED) == []


def test_prepare_opens_its_sources_with_secrets_and_keeps_none(place):
    rows = {
        row["video_id"]: row
        for row in read_table(Layout(place.root / "out").manifest("train"), CLIP_SCHEMA).to_pylist()
    }
    assert Counter(row["status"] for row in rows.values()) == {"ok": 3, "media_corrupt": 1, "unavailable_missing": 2}
    host = place.server.host
    assert rows["v0"]["source"] == f"wds:http://***@{host}/videos.tar?…/videos.tar?…/v0.mp4"
    assert rows["v2"]["source"] == f"http:http://***@{host}/files/{{id}}.mp4/v2.mp4"
    assert f"http://***@{host}/files/v4.mp4?…: HTTP 404" in rows["v4"]["reason"]
    assert "https://h.example/v.mp4?clip=9" in rows
    assert (place.server.refused, place.server.proxied > 0) == (0, True)
    assert_nothing_leaked(place)


@pytest.mark.slow
def test_a_renewed_token_resumes_and_finds_what_was_fetched(place):
    before = {path: path.read_bytes() for path in (place.root / "out" / "train").iterdir()}
    place.server.token, asked = RENEWED, place.server.served
    try:
        code, said = place.run(*place.prepare("out"))
        assert code == 0, said
        assert {path: path.read_bytes() for path in (place.root / "out" / "train").iterdir()} == before
        shutil.rmtree(place.root / "again", ignore_errors=True)
        code, said = place.run(*place.prepare("again", "--media-cache", place.root / "out" / "_media"))
        assert code == 0, said
        fetched = place.server.served - asked
        assert fetched < 30, f"{fetched} requests"  # of the archive; v2 and v3 are in the cache
    finally:
        place.server.token = TOKEN
    assert_nothing_leaked(place)


@pytest.mark.slow
def test_what_prepare_says_without_running_and_when_it_fails(place):
    url = place.server.url
    wrong = f"http://{USER}:wrong{PASSWORD}@{place.server.host}"
    for code, words in (
        (0, place.prepare("dry", "--dry-run")),
        (0, place.prepare("dry", "--dry-run", "--json")),
        (0, place.prepare("dry", "--explain")),
        (0, place.prepare("dry", "--explain", "--toml")),
        (0, ["status", place.root / "out", "--json"]),
        (2, place.prepare("no", "--source", f"wds:{wrong}/videos.tar?sig={TOKEN}")),
        (2, place.prepare("no", "--source", f"wds:{url}/none.tar?sig={TOKEN}")),
        (2, place.prepare("no", "--source", f"wds:{url}/x.tar.gz?sig={TOKEN}")),
        (2, place.prepare("no", "--source", f"ftp://{USER}:{PASSWORD}@h/x?sig={TOKEN}")),
        (2, place.prepare("no", "--source", f"http:{url}/all.mp4?sig={TOKEN}")),
        (2, place.prepare("no", "--source", f"wds:{url}/{{3..1}}.tar?sig={TOKEN}")),
        (2, place.prepare("no", "--set", f"sources={url}/x?sig={TOKEN}")),
        (2, place.prepare("no", f"{url}/x?sig={TOKEN}")),  # an argument too many
        (2, place.prepare("no", f"--list={url}/list.csv?sig={TOKEN}")),
        (2, place.prepare("no", "--set", f"sample.seed={url}?sig={TOKEN}")),
        (2, place.prepare(f"{url}/out?sig={TOKEN}".replace("/", "%"), "--set", "remote.http.proxy")),
        (2, ["prepare", "synth", "--num-clips", "4", "--out", f"{url}/out?sig={TOKEN}"]),
        (2, ["prepare", "synth", "--num-clips", "4", "--out", f"s3://{USER}:{PASSWORD}@bucket/x::y?sig={TOKEN}"]),
        (2, ["prepare", f"{url}/recipe.toml?sig={TOKEN}", "--out", place.root / "no"]),
    ):
        ended, said = place.run(*words)
        assert ended == code, said
    config = place.inputs / "config.toml"
    config.write_text(f'sources = ["{url}/x?sig={TOKEN}", 3]\n[sample]\nseed = ["{url}?sig={TOKEN}"]\n')
    ended, said = place.run("prepare", "folder", "--config", config, "--out", place.root / "no")
    assert ended == 2, said
    assert_nothing_leaked(place)


def test_a_shown_url_is_refused_with_the_reason(place):
    for words in (
        ["inspect", f"http://***@{place.server.host}/data"],
        ["pretrain", "demo", "--data", f"http://{place.server.host}/data/00000.tar?…", "--out", place.root / "no"],
        [
            "prepare",
            "folder",
            "--source",
            f"http:http://***@{place.server.host}/{{id}}.mp4",
            "--out",
            place.root / "no",
        ],
        ["prepare", "folder", "--source", f"wds:http://{place.server.host}/x.tar?…", "--out", place.root / "no"],
    ):
        code, said = place.run(*words)
        assert (code, "without its password or token" in said) == (2, True), said


@pytest.mark.slow
def test_the_commands_that_read_a_dataset(place):
    data = f"{place.server.url}/data"
    out = place.root / "out"
    for code, words in (
        (0, ["inspect", data, "--json"]),
        (0, ["inspect", data, "--html", place.root / "page.html"]),
        (0, ["inspect", f"{data}/train/{{00000..00001}}.tar"]),
        (0, ["verify", data, "--json"]),
        (0, ["diff", data, data, "--json"]),
        (0, ["inspect", out, "--html", place.root / "own.html"]),
        (0, ["verify", out]),
        (0, ["export", out, "--to", place.root / "exported"]),
        (2, ["export", f"{data}?sig={TOKEN}", "--to", place.root / "no"]),
        (2, ["export", out, "--to", f"{data}?sig={TOKEN}"]),
        (2, ["verify", data, "--repair"]),
        (2, ["inspect", f"{place.server.url}/none?sig={TOKEN}"]),
        (2, ["diff", f"x+y://{USER}:{PASSWORD}@h?sig={TOKEN}", data]),
        (3, ["spectrogram", f"{data}/x.mp4?sig={TOKEN}", "--png", place.root / "no.png"]),
    ):
        ended, said = place.run(*words)
        assert (ended == 0) == (code == 0), said
        assert "Traceback" not in said
    assert_nothing_leaked(place)


@pytest.mark.slow
def test_training_and_what_follows(place):
    run, data = place.root / "run", f"{place.server.url}/data"
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    few = ["--set", "steps=4", "--set", "save_every=2", "--set", "data.probe_split=none"]

    def pretrain(token: str, *more: object) -> tuple[int, str]:
        place.server.token = token
        shards = f"{data}/train/{{00000..00002}}.tar?sig={token}"
        return place.run("pretrain", "demo", "--data", shards, "--out", run, *settings, *few, *more)

    try:
        code, said = pretrain(TOKEN)
        assert code == 0, said
        code, said = pretrain(RENEWED, "--resume")  # it has nothing left to do
        assert code == 0, said
    finally:
        place.server.token = TOKEN
    shards = list((place.root / "cache" / "avkit" / "shards").glob("*.shard"))
    assert len(shards) == 3  # the renewed token names the same shards
    evaluate = ["--set", "device=cpu", "--set", "data.num_workers=0", "--set", "random_weights=false"]
    new = ["pretrain", "demo", "--out", place.root / "no", *settings, "--data"]
    for code, words in (
        (0, ["evaluate", "embed", run, "--data", data, "--set", "data.test_split=train", *evaluate]),
        (2, ["evaluate", "knn", run, "--data", f"{data}?sig={TOKEN}", "--out", place.root / "k", *evaluate]),
        (2, ["evaluate", "knn", run, "--data", data, "--set", f"data.test_labels=x={data}?sig={TOKEN}", *evaluate]),
        (0, ["inspect", run, "--json"]),
        (2, [*new, f"{data}/none.tar?sig={TOKEN}"]),
        (2, [*new, f"pipe:curl -u {USER}:{PASSWORD} {data}?sig={TOKEN}"]),
        (2, [*new, f"pipe:nothing -u {USER}:{PASSWORD} {data}?sig={TOKEN}", "--allow-pipe"]),
        (2, [*new, data, "--set", "data.probe_split=none", "--set", f"image_weights={data}?sig={TOKEN}"]),
        (2, ["convert", f"{data}/x.pth?sig={TOKEN}", "--out", place.root / "c.safetensors"]),
        (2, ["apply", run, f"{data}/x.mp4?sig={TOKEN}", "--task", "embed", "--out", place.root / "a"]),
        (2, ["bench", "loader", f"{data}?sig={TOKEN}"]),
    ):  # fmt: skip
        ended, said = place.run(*words)
        assert (ended == 0) == (code == 0), said
    assert_nothing_leaked(place)
