"""A film of maps: one scale for all of it, nothing in silence, and picture, sound and cursor at the same time."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avdata.draw.film import FilmDrawing, SoundPage
from avdata.prepare.decode import open_media
from avdata.prepare.quality import SILENT_DBFS
from avdata.profiles import PROFILES
from avdata.windows import SAMPLE_RATE, Window, WindowConfig
from avmanifest.errors import ConfigError, StorageError
from avmodel.apply.film import PAGE_S, Film, waiting_film
from avmodel.apply.overlay_video import overlay_video
from avmodel.configs.apply import LocalizeConfig, task_config

WINDOWS = WindowConfig(window_s=1.0, fps=10.0)
HEIGHT, WIDTH = 48, 64


def noise(seconds: float, amplitude: float = 0.3) -> np.ndarray:
    chance = np.random.default_rng(0)
    return (amplitude * chance.uniform(-1, 1, round(seconds * SAMPLE_RATE))).astype(np.float32)


def film_of(
    out: Path, sound: np.ndarray, pictures: np.ndarray, maps: np.ndarray, profile: str = "paper", **settings: Any
) -> dict[str, Any]:
    """Write the film, 10 frames a second, window by window of 1 s; its summary."""
    duration_s = len(pictures) / 10
    with overlay_video(out, WINDOWS) as video, waiting_film(out, 10.0, (maps.shape[1], maps.shape[2])) as film:
        for number in range(int(np.ceil(duration_s))):
            places = range(10 * number, min(10 * number + 10, len(pictures)))
            window = Window(
                number=number,
                start_s=float(number),
                end_s=min(number + 1.0, duration_s),
                duration_s=duration_s,
                waveform=sound[number * SAMPLE_RATE : (number + 1) * SAMPLE_RATE],
                frames=pictures[places.start : places.stop],
                times_s=tuple(place / 10 for place in places),
            )
            for place, _ in film.missing_frames(window):
                film.append(pictures[places[place]], maps[places[place]])
            heard = video.write_audio(window)
            assert heard is not None
            film.append_sound(heard)
        return film.draw(video, PROFILES[profile], LocalizeConfig(**settings))


def gray(count: int) -> np.ndarray:
    return np.full((count, HEIGHT, WIDTH, 3), 128, np.uint8)


def shown(out: Path, times_s: list[float]) -> np.ndarray:
    """Pictures of the film, without what is beside and below them."""
    with open_media(out / "overlay.mp4") as media:
        images = media.frames(times_s, short_side=None).images
    return np.stack([image[56 : 56 + HEIGHT, :WIDTH] for image in images]).astype(int)


def tinted(picture: np.ndarray) -> np.ndarray:
    """Pixels that have a color, inside the edges that chroma of half the resolution blurs."""
    return (picture.max(axis=2) - picture.min(axis=2) > 25)[4:-4, 4:-4]


def test_one_scale_holds_for_all_frames_and_silence_has_no_color(tmp_path: Path) -> None:
    """Three seconds: a map from 0 to 1; one that is 0.2 to 0.3, so low; and silence with the highest map of all."""
    maps = np.zeros((30, 1, 2), np.float32)
    maps[:10] = [0.0, 1.0]
    maps[10:20] = [0.2, 0.3]
    maps[23:] = [5.0, 9.0]  # half a second around a frame is listened to
    sound = np.concatenate([noise(2), np.zeros(SAMPLE_RATE, np.float32)])
    said = film_of(tmp_path, sound, gray(30), maps)
    assert said["scale"] == [0.0, 1.0]
    assert said["colored_above"] == 0.5
    assert said["silent_frames"] in (7, 8)
    first, second, third = shown(tmp_path, [0.55, 1.55, 2.75])
    assert tinted(first)[:, -8:].all()
    assert not tinted(first)[:, :8].any()
    assert not tinted(second).any()  # with a scale of its own the frame's best place would have the last color
    assert not tinted(third).any()
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.mp4"]


def test_scale_and_threshold_are_as_set(tmp_path: Path) -> None:
    maps = np.broadcast_to(np.float32([[0.2, 0.4]]), (5, 1, 2))
    said = film_of(tmp_path / "a", noise(0.5), gray(5), maps, scale=(0.0, 0.5), threshold=0.9)
    assert said == {"scale": [0.0, 0.5], "colored_above": 0.45, "silent_frames": 0}
    assert not tinted(shown(tmp_path / "a", [0.25])[0]).any()
    film_of(tmp_path / "b", noise(0.5), gray(5), maps, scale=(0.0, 0.5), threshold=0.1)
    assert tinted(shown(tmp_path / "b", [0.25])[0]).all()


@pytest.mark.parametrize(("amplitude", "silence_dbfs", "silent"), [(1e-3, -60.0, 5), (1e-3, -70.0, 0), (0, -120.0, 5)])
def test_what_silence_is_can_be_set(tmp_path: Path, amplitude: float, silence_dbfs: float, silent: int) -> None:
    """Noise of -64.8 dBFS, and no sound at all, which is silence at any setting."""
    maps = np.broadcast_to(np.float32([[0.2, 0.4]]), (5, 1, 2))
    said = film_of(tmp_path, noise(0.5, amplitude), gray(5), maps, silence_dbfs=silence_dbfs)
    assert said["silent_frames"] == silent
    assert said["scale"] == [0.2, 0.4]  # of all frames if all are silent
    assert tinted(shown(tmp_path, [0.25])[0]).any() == (silent == 0)


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Film, "append", full)
    with pytest.raises(StorageError, match=r"overlay\.mp4: not written \(No space left on device\)\. Free space"):
        film_of(tmp_path, noise(0.5), gray(5), np.zeros((5, 1, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_silence_is_as_prepare_has_it() -> None:
    assert LocalizeConfig().silence_dbfs == SILENT_DBFS


def test_a_map_that_is_the_same_everywhere_has_no_color(tmp_path: Path) -> None:
    said = film_of(tmp_path, noise(0.5), gray(5), np.full((5, 2, 2), 0.3, np.float32))
    assert said["scale"][0] == said["scale"][1]
    assert not tinted(shown(tmp_path, [0.25])[0]).any()


@pytest.mark.parametrize("profile", ["paper", "released", "kaldi"])
def test_flash_click_and_cursor_are_at_the_same_time(
    tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a film of three pages, the flash and the click are in the second one."""
    at = 123
    pictures, sound = gray(250) // 4, noise(25, 1e-3)
    pictures[at] = 255
    sound[round(at / 10 * SAMPLE_RATE) :][: SAMPLE_RATE // 10] = noise(0.1, 0.9)
    seen: list[tuple[SoundPage, float, FilmDrawing]] = []
    draw = FilmDrawing.draw

    def watched(self: FilmDrawing, picture: Any, scores: Any, page: SoundPage, time_s: float) -> Any:
        seen.append((page, time_s, self))
        return draw(self, picture, scores, page, time_s)

    monkeypatch.setattr(FilmDrawing, "draw", watched)
    film_of(tmp_path, sound, pictures, np.zeros((250, 1, 2), np.float32), profile)
    assert [time_s for _, time_s, _ in seen] == pytest.approx([number / 10 for number in range(250)])
    assert all(page.start_s - 1e-6 <= time_s <= page.end_s for page, time_s, _ in seen)
    assert len({page.start_s for page, *_ in seen}) == 3
    assert len({page.color_range for page, *_ in seen}) == 1
    assert all(page.end_s - page.start_s <= PAGE_S for page, *_ in seen)

    page, time_s, drawing = seen[at]
    loud = page.log_mel.mean(axis=0)
    (columns,) = np.nonzero(loud > (loud.max() + np.median(loud)) / 2)
    places = drawing.sound_place[1]
    column_s = PROFILES[profile].hop_length / SAMPLE_RATE
    assert page.start_s + columns.mean() * column_s == pytest.approx(at / 10 + 0.05, abs=0.012)
    middle = places.start + (columns.mean() + 0.5) / len(loud) * (places.stop - places.start)
    assert drawing.cursor_column(page, time_s + 0.05) == pytest.approx(middle, abs=1.5)

    bright = shown(tmp_path, [(number + 0.5) / 10 for number in range(at - 2, at + 3)]).mean(axis=(1, 2, 3))
    assert list(bright > 200) == [False, False, True, False, False]
    with open_media(tmp_path / "overlay.mp4") as media:
        heard = media.waveform(0.0, 24.9).samples
        assert media.duration_s == pytest.approx(25, abs=0.1)
    (loud_samples,) = np.nonzero(np.abs(heard) > 0.3)
    assert loud_samples[0] / SAMPLE_RATE == pytest.approx(at / 10, abs=0.02)
    assert loud_samples[-1] / SAMPLE_RATE == pytest.approx(at / 10 + 0.1, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threshold": 1.5}, r"threshold=1\.5: must be from 0 to 1"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"scale": (0.5, 0.5)}, r"scale=0\.5,0\.5: the first value must be below the last one"),
        ({"scale": (0.0, 2.0)}, r"scale=0,2: cosines are from -1 to 1"),
        ({"scale": (0.0, float("inf")), "maps": "dense"}, "scale=0,inf: the first value must be below the last one"),
        ({"maps": "sparse"}, "unknown maps 'sparse'; known: pooled, dense"),
        ({"moment_s": 0.5}, r"moment_s=0\.5 with maps=pooled: one vector is for the whole window"),
        ({"moment_s": 0.0, "maps": "dense"}, "moment_s=0"),
        ({"silence_dbfs": 3.0}, r"silence_dbfs=3\.0: must be from -120 to 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        task_config("localize", **settings)
