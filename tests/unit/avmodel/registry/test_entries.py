"""The list of published models, and the commands that show it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avmanifest.errors import ConfigError
from avmodel.presets import presets
from avmodel.registry.entries import LIST, VARIABLE, Entry, entries, entry_named, read_list
from avmodel.registry.page import PAGE, page_of

OWN = {
    "title": "Ours",
    "url": "https://me:password@host/ours.pth?token=abc",
    "page": "https://host",
    "file": "ours.pth",
    "licence": "MIT",
    "starts": ["image_weights"],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_list(path: Path, name: str = "ours", **changes: Any) -> Path:
    values = {key: value for key, value in {**OWN, **changes}.items() if value is not None}
    path.write_text(f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return path


def test_the_table_of_the_page_is_that_of_the_list() -> None:
    page = PAGE.read_text()
    assert page == page_of(page), "python -m avmodel.registry.page writes it"


def test_every_model_has_a_licence_and_files_have_names_of_their_own() -> None:
    found = read_list(LIST).values()
    assert len({entry.file for entry in found}) == len({entry.url for entry in found}) == len(found) > 30
    for entry in found:
        assert entry.licence and entry.page.startswith("https://") and entry.url.startswith("https://")
        assert entry.used_as


def test_weights_that_named_runs_look_for_are_files_of_the_list() -> None:
    """So that the message of a missing file can say what downloads it."""
    wanted = {
        Path(path).name for make in presets().values() for path in (make().image_weights, make().audio_weights) if path
    }
    assert wanted and wanted <= {entry.file for entry in read_list(LIST).values()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": None}, "needs the key 'url'"),
        ({"sice": 3}, "unknown key 'sice'; known: title, url"),
        ({"bytes": "3"}, "bytes must be a whole number, not '3'"),
        ({"bytes": -3}, "bytes must be a whole number, not -3"),
        ({"starts": "image_weights"}, "starts must be a list of texts"),
        ({"starts": ["weights"]}, "starts has 'weights'; known: image_weights, audio_weights"),
        ({"starts": None}, "needs either a family, of a whole model, or starts"),
        ({"starts": None, "family": "crossmae"}, "unknown family 'crossmae'; known: deepavfusion, avsiam"),
        ({"file": "../ours.pth"}, "must be a name without a folder"),
        ({"file": "ours.exe"}, r"ends in \.pth, \.pt or \.safetensors"),
        ({"url": "pipe:cat /etc/passwd"}, "runs a command"),
        ({"url": "weights/ours.pth"}, "'weights/ours.pth' is no URL"),
        ({"sha256": "ABC"}, "not so many lower-case hexadecimal digits"),
        ({"classes": "audioset"}, "classes and settings are of a whole model"),
        ({"starts": None, "family": "cavmae", "classes": "soundnet"}, "classes 'soundnet' is no recipe"),
        ({"starts": None, "family": "cavmae", "mode": "video"}, "unknown mode 'video'"),
        ({"licence": ""}, "title and licence must be given"),
    ],
)
def test_a_wrong_entry_of_a_list_is_refused(tmp_path, monkeypatch, changes, message):
    monkeypatch.setenv(VARIABLE, str(write_list(tmp_path / "models.toml", **changes)))
    with pytest.raises(ConfigError, match=message):
        entries()


@pytest.mark.parametrize("text", ["[ours", "ours = 3", '["Our s"]\ntitle = "x"'])
def test_a_file_that_is_no_list_is_refused(tmp_path, monkeypatch, text):
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "models.toml"))
    with pytest.raises(ConfigError, match=r"models\.toml"):
        entries()


def test_a_list_of_ones_own_adds_and_replaces(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(write_list(tmp_path / "models.toml", "mae-vit-b")))
    found = entries()
    assert found["mae-vit-b"].title == "Ours"
    assert len(found) == len(read_list(LIST))
    shown = CliRunner().invoke(app, ["models", "mae-vit-b"]).output
    assert "https://***@host/ours.pth?…" in shown
    assert "password" not in shown and "abc" not in shown
    assert "password" not in CliRunner().invoke(app, ["models", "--json"]).output


def test_a_name_that_is_nearly_right_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"mae-vitb: no published model of that name; did you mean mae-vit-b, "):
        entry_named("mae-vitb")
    with pytest.raises(ConfigError, match=r"of that name\. avkit models lists all"):
        entry_named("something else")


def test_the_command_lists_all_and_shows_one_whole():
    lines = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"}).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert [name for name in entries() if not any(line.startswith(f"{name} ") for line in lines)] == []
    known, unknown = (CliRunner().invoke(app, ["models", name]).output for name in ("audiomae-vit-b", "cavmae-base"))
    entry = entries()["audiomae-vit-b"]
    for text in (entry.url, entry.sha256, "548,136,466 bytes", entry.licence, "--set audio_weights=audiomae-vit-b"):
        assert text in known
    assert "not published; recorded at the first download" in unknown
    facts = json.loads(CliRunner().invoke(app, ["models", "cavmae-base", "--json"]).output)
    assert (facts["sha256"], facts["bytes"], facts["path"], facts["family"]) == (None, None, None, "cavmae")
    table = json.loads(CliRunner().invoke(app, ["models", "--json"]).output)
    assert [row["name"] for row in table] == list(entries())
    assert {row["url"] for row in table} == {entry.url for entry in read_list(LIST).values()}


def test_kinds_say_how_they_are_used():
    def uses(**changes: Any) -> tuple[str, ...]:
        return Entry(name="x", title="", url="", page="", file="", licence="", **changes).used_as

    assert uses(starts=("image_weights",)) == ("--set image_weights=x",)
    assert uses(family="cavmae")[0] == "evaluate TASK x"
    assert uses(family="cavmae", classes="audioset")[0] == "apply x VIDEO --task classify"
