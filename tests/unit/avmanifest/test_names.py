"""Names like a mistyped one."""

from pathlib import Path

from avmanifest.names import near_paths


def test_paths_beside_a_missing_one_are_named(tmp_path: Path) -> None:
    for name in ("clip.mp4", "other.txt", "clop\x1b[31m.mp4"):
        (tmp_path / name).write_text("")
    assert near_paths(tmp_path / "clp.mp4") == f" Did you mean {tmp_path / 'clip.mp4'}?", "no control characters"
    assert near_paths(tmp_path / "nothing" / "clip.mp4") == ""
    assert near_paths(tmp_path / "zzz") == ""
    assert near_paths("no\0path") == ""
