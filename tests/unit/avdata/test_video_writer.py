"""Videos that are written: frames and sound come back, and one that fails leaves nothing."""

from pathlib import Path

import numpy as np
import pytest

from avdata.prepare.decode import open_media
from avdata.video_writer import open_video_writer
from avmanifest.errors import AvkitError, StorageError
from tests.drawn import numbered_picture, read_number, sine

FPS = 10.0


def make_video(path: Path, *, frames: int = 25, sound: np.ndarray | None = None, width: int = 160) -> Path:
    with open_video_writer(path, FPS) as writer:
        for number in range(frames):
            writer.write_frame(numbered_picture(number, width))
            if sound is not None:
                writer.write_audio(sound[number * 1600 : (number + 1) * 1600])
    return path


def test_frames_and_sound_come_back_in_their_order_and_at_their_times(tmp_path: Path) -> None:
    sound = sine(2.5, 16_000)
    path = make_video(tmp_path / "video.mp4", sound=sound)
    with open_media(path) as media:
        found = media.frames([(number + 0.5) / FPS for number in range(25)], short_side=None)
        heard = media.waveform(0.0, 2.5).samples
        assert media.duration_s == pytest.approx(2.5, abs=0.1)
    assert [read_number(image) for image in found.images] == list(range(25))
    assert found.times_s == pytest.approx([number / FPS for number in range(25)])
    inside = slice(1600, -1600)
    assert np.corrcoef(heard[inside], sound[inside])[0, 1] > 0.99
    assert [entry.name for entry in tmp_path.iterdir()] == ["video.mp4"]


def test_a_video_without_sound_has_no_track_and_odd_sizes_lose_a_line(tmp_path: Path) -> None:
    with open_video_writer(tmp_path / "video.mp4", FPS) as writer:
        writer.write_frame(np.zeros((33, 47, 3), np.uint8))
    with open_media(tmp_path / "video.mp4") as media:
        assert media.info.audio_codec == ""
        assert (media.info.width, media.info.height) == (46, 32)


@pytest.mark.parametrize("name", ["-y", "http:", "%d", "a b'c", "$(touch x)"])
def test_file_names_are_never_options_protocols_or_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make_video(Path(name) / f"{name}.mp4", frames=2)
    assert path.stat().st_size > 1000
    assert [entry.name for entry in tmp_path.rglob("*")] == [name, f"{name}.mp4"]


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"older")
    with pytest.raises(RuntimeError, match="in between"), open_video_writer(path, FPS) as writer:
        writer.write_frame(numbered_picture(0))
        raise RuntimeError("in between")
    with pytest.raises(AvkitError, match="no frame was written"), open_video_writer(path, FPS):
        pass
    with pytest.raises(ValueError, match="among those of"), open_video_writer(path, FPS) as writer:
        writer.write_frame(numbered_picture(0))
        writer.write_frame(numbered_picture(0, 80))
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize(
    ("words", "error"), [("No space left on device", StorageError), ("no such encoder", AvkitError)]
)
def test_a_failing_encoder_is_quoted(
    words: str, error: type[AvkitError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    out = tmp_path / "out"
    with pytest.raises(AvkitError, match=rf"video\.mp4: .*code 3.*{words}") as caught:
        make_video(out / "video.mp4", frames=200)
    assert type(caught.value) is error
    assert list(out.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="not written"):
        make_video(tmp_path / "file" / "video.mp4")
