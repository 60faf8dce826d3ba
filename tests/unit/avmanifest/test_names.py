"""Names like a mistyped one."""

from pathlib import Path

import pytest

from avmanifest.names import did_you_mean, either, near_paths, unknown_name

NAMES = ("vggsound", "vggsounder", "vgg-ss", "folder", "synth", "ce")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vgsound", "; did you mean vggsound or vggsounder?"),
        ("VGGSound", "; did you mean vggsound"),
        ("foler", "; did you mean folder?"),
        ("dice", ""),
        ("kinetics", ""),
        ("", ""),
    ],
)
def test_the_nearest_names_are_offered_and_no_others(name: str, hint: str) -> None:
    assert did_you_mean(name, NAMES).startswith(hint)
    assert hint or did_you_mean(name, NAMES) == ""


def test_an_unknown_name_is_answered_with_the_nearest_and_all() -> None:
    assert unknown_name("recipe", "foler", ("a", "folder")) == (
        "unknown recipe 'foler'; did you mean folder? known: a, folder"
    )
    assert unknown_name("preset", "\x1b", ("a",), owner=" of knn") == "unknown preset '\\x1b' of knn; known: a"
    many = [f"run-{number}" for number in range(30)]
    assert unknown_name("run", "x", many, listed_by="avkit runs") == "unknown run 'x'; avkit runs lists all 30"
    assert unknown_name("run", "rum-7", many, listed_by="avkit runs").endswith(
        "did you mean run-7, run-27 or run-17? avkit runs lists all 30"
    )
    assert unknown_name("run", "x", many[:2], listed_by="avkit runs") == "unknown run 'x'; known: run-0, run-1"
    assert (either(["a"]), either(["a", "b"]), either(["a", "b", "c"])) == ("a", "a or b", "a, b or c")


def test_paths_beside_a_missing_one_are_named(tmp_path: Path) -> None:
    for name in ("clip.mp4", "other.txt", "clop\x1b[31m.mp4"):
        (tmp_path / name).write_text("")
    assert near_paths(tmp_path / "clp.mp4") == f" Did you mean {tmp_path / 'clip.mp4'}?", "no control characters"
    assert near_paths(tmp_path / "nothing" / "clip.mp4") == ""
    assert near_paths(tmp_path / "zzz") == ""
    assert near_paths("no\0path") == ""
