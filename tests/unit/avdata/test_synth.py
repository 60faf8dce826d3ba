"""The generated dataset: the ground truth, and that the files agree with it."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soxr

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.config import SynthConfig
from avdata.prepare.sources import synth
from avdata.prepare.sources.synth import CLASSES, SynthClip
from avdata.prepare.sources.synth.motion import MOTIONS, hits, is_struck, level, trace
from avmanifest.errors import AvkitError, ConfigError

SMALL = SynthConfig(num_clips=200, num_classes=24, seconds=2.0, fps=10, width=160, height=120, seed=3)
RATE = 16_000
SAME_LOOK = synth.same_look_pairs(24)
SAME_SOUND = synth.same_sound_pairs(24)


def solo(class_index: int, index: int, config: SynthConfig = SMALL) -> SynthClip:
    """Clip `index` with its first sounding object alone, as another class."""
    clip = synth.synth_clip(config, index)
    item = replace(clip.objects[clip.sounding[0]], class_index=class_index)
    return replace(clip, objects=(item,), sounding=(0,))


def class_names(pair: tuple[int, int]) -> str:
    return " / ".join(CLASSES[place].name for place in pair)


def test_a_clip_follows_from_seed_and_index_alone() -> None:
    again = replace(SMALL, num_clips=50)
    assert [synth.synth_clip(SMALL, i) for i in range(50)] == [synth.synth_clip(again, i) for i in range(50)]
    assert synth.synth_clip(SMALL, 0).objects != synth.synth_clip(replace(SMALL, seed=4), 0).objects


def test_splits_are_eight_one_one_of_every_ten() -> None:
    splits = [synth.synth_clip(SMALL, i).split for i in range(200)]
    for start in range(0, 200, 10):
        assert Counter(splits[start : start + 10]) == {"train": 8, "val": 1, "test": 1}


def test_every_class_is_first_equally_often() -> None:
    first = Counter(synth.synth_clip(SMALL, i).labels[0] for i in range(192))
    assert first == {entry.name: 8 for entry in CLASSES}


def test_clips_hold_one_to_three_sounding_and_up_to_two_silent_objects() -> None:
    counts = Counter()
    for index in range(200):
        clip = synth.synth_clip(SMALL, index)
        assert [place for place, item in enumerate(clip.objects) if item.sounding] == sorted(clip.sounding)
        counts[len(clip.sounding), len(clip.objects) - len(clip.sounding)] += 1
    assert set(counts) == {(sounding, silent) for sounding in (1, 2, 3) for silent in (0, 1, 2)}


def test_fewer_sounding_objects_on_request() -> None:
    config = replace(SMALL, max_objects=1)
    assert {len(synth.synth_clip(config, i).sounding) for i in range(50)} == {1}


@pytest.mark.parametrize("most", [0, 1])
def test_fewer_silent_objects_on_request_do_not_change_the_others(most: int) -> None:
    fewer = [synth.synth_clip(replace(SMALL, max_silent=most), i) for i in range(50)]
    assert {len(clip.objects) - len(clip.sounding) for clip in fewer} == set(range(most + 1))
    assert [clip.labels[0] for clip in fewer] == [synth.synth_clip(SMALL, i).labels[0] for i in range(50)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_classes": 25}, "num_classes=25"),
        ({"num_classes": 7}, "num_classes=7"),
        ({"max_objects": 0}, "max_objects=0"),
        ({"max_silent": 3}, "max_silent=3"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"fps": 0}, "fps=0"),
        ({"width": 161}, "--width 161 --height 120"),
        ({"width": 640}, "--width 640 --height 120"),
        ({"sample_rate": 44_000}, "44000"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_config_that_cannot_be_drawn_is_refused(change: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(SMALL, **change)


@pytest.mark.parametrize("index", [-1, 200])
def test_an_index_outside_the_dataset_is_refused(index: int) -> None:
    with pytest.raises(ConfigError, match=f"clip {index} is not in 0..199"):
        synth.synth_clip(SMALL, index)


def test_groups_of_four_classes_need_both_modalities() -> None:
    assert len({entry.name for entry in CLASSES}) == len(CLASSES) == 24
    assert synth.same_look_pairs(24) == [(4 * four, 4 * four + 1) for four in range(6)]
    assert synth.same_sound_pairs(24) == [(4 * four + 1, 4 * four + 2) for four in range(6)]
    assert {entry.look.motion for entry in CLASSES} == set(MOTIONS)


def test_docstring_and_table_name_the_pairs() -> None:
    table = synth.class_table(24).splitlines()
    assert len(table) == 26
    assert synth.__doc__ is not None
    for one, other in SAME_LOOK + SAME_SOUND:
        assert CLASSES[other].name in table[2 + one]
        assert CLASSES[one].name in table[2 + other]
    for one, other in SAME_LOOK:
        assert f"{CLASSES[one].name.split()[0]} / {CLASSES[other].name}" in synth.__doc__
    for one, other in SAME_SOUND:
        assert f"{CLASSES[one].name} / {CLASSES[other].name.split(maxsplit=1)[1]}" in synth.__doc__


@pytest.mark.parametrize("pair", SAME_LOOK, ids=class_names)
def test_classes_of_the_same_look_have_equal_frames_and_other_audio(pair: tuple[int, int]) -> None:
    one, other = (solo(place, 5) for place in pair)
    assert np.array_equal(synth.render_frame(SMALL, one, 0.7), synth.render_frame(SMALL, other, 0.7))
    assert not np.allclose(synth.render_mix(SMALL, one, RATE), synth.render_mix(SMALL, other, RATE), atol=0.01)


@pytest.mark.parametrize("pair", SAME_SOUND, ids=class_names)
def test_classes_of_the_same_sound_have_equal_audio_and_other_frames(pair: tuple[int, int]) -> None:
    one, other = (solo(place, 5) for place in pair)
    assert np.array_equal(synth.render_mix(SMALL, one, RATE), synth.render_mix(SMALL, other, RATE))
    assert not np.array_equal(synth.render_frame(SMALL, one, 0.7), synth.render_frame(SMALL, other, 0.7))


def hear(clip: SynthClip) -> np.ndarray:
    """Level in 24 bands of equal width in octaves, relative to the loudest."""
    power = np.abs(np.fft.rfft(synth.render_mix(SMALL, clip, RATE))) ** 2
    frequency_hz = np.fft.rfftfreq(round(SMALL.seconds * RATE), 1 / RATE)
    bands = np.digitize(frequency_hz, np.geomspace(40, 7500, 25))
    energy_db = 10 * np.log10(np.bincount(bands, power, minlength=26)[1:25] + 1e-6)
    return np.maximum(energy_db - energy_db.max(), -50)


def see(clip: SynthClip) -> np.ndarray:
    """How often each of 4 x 4 x 4 colors occurs on the object, in three frames."""
    counts = np.zeros(64)
    for time_s in (0.2, 0.9, 1.6):
        frame = synth.render_frame(SMALL, clip, time_s)
        seen = synth.render_masks(SMALL, clip, time_s, SMALL.height, SMALL.width) == 1
        counts += np.bincount((frame[seen] // 64) @ np.array([16, 4, 1]), minlength=64)
    return counts / counts.sum()


def nearest_centroid_accuracy(pair: tuple[int, int], sense) -> float:
    """Share of held-out clips of the two classes that are classified correctly by the nearer of two mean features."""
    features = [[sense(solo(place, 2 * i + n)) for i in range(16)] for n, place in enumerate(pair)]
    centroids = [np.mean(of_class[:8], axis=0) for of_class in features]
    right = [
        np.linalg.norm(feature - centroids[n]) < np.linalg.norm(feature - centroids[1 - n])
        for n, of_class in enumerate(features)
        for feature in of_class[8:]
    ]
    return float(np.mean(right))


@pytest.mark.parametrize("pair", SAME_LOOK[:3], ids=class_names)
def test_audio_separates_classes_of_the_same_look(pair: tuple[int, int]) -> None:
    assert nearest_centroid_accuracy(pair, hear) > 0.95
    assert nearest_centroid_accuracy(pair, see) < 0.7


@pytest.mark.parametrize("pair", SAME_SOUND[:3], ids=class_names)
def test_images_separate_classes_of_the_same_sound(pair: tuple[int, int]) -> None:
    assert nearest_centroid_accuracy(pair, see) > 0.95
    assert nearest_centroid_accuracy(pair, hear) < 0.7


@pytest.mark.slow
def test_audio_separates_all_timbres() -> None:
    heard = list(dict.fromkeys(entry.timbre for entry in CLASSES))
    places = [next(p for p, entry in enumerate(CLASSES) if entry.timbre == timbre) for timbre in heard]
    features = np.array([[hear(solo(place, i)) for i in range(8)] for place in places])
    centroids = features[:, :4].mean(axis=1)
    distance = np.linalg.norm(features[:, 4:, None] - centroids, axis=-1)
    assert np.mean(distance.argmin(axis=-1) == np.arange(len(places))[:, None]) > 0.9


@pytest.mark.parametrize("class_index", [c for c in range(24) if not is_struck(solo(c, 0).objects[0])])
def test_the_loudness_of_sustained_sounds_follows_the_motion(class_index: int) -> None:
    clip = solo(class_index, 7, replace(SMALL, seconds=6.0))
    (track,) = synth.render_stems(replace(SMALL, seconds=6.0), clip, RATE)
    window = RATE // 4
    rms = np.sqrt((track[: len(track) // window * window].reshape(-1, window) ** 2).mean(axis=1))
    grid = np.arange(len(rms) * 25) / 100
    lively = level(clip.objects[0], grid).reshape(-1, 25).mean(axis=1)
    assert np.corrcoef(rms, lively)[0, 1] > 0.85


@pytest.mark.parametrize("motion", ["orbit", "swing", "roll", "dart"])
def test_the_level_is_the_speed_measured_in_the_masks(motion: str) -> None:
    config = replace(SMALL, fps=25, width=320, height=240)
    clip = solo(next(p for p, entry in enumerate(CLASSES) if entry.look.motion == motion), 11, config)
    times = np.arange(50) / 25
    middles = []
    for time_s in times:
        rows, columns = np.nonzero(synth.render_masks(config, clip, float(time_s), 240, 320))
        middles.append((rows.mean(), columns.mean()))
    speed = np.hypot(*np.gradient(np.array(middles), axis=0).T)
    assert np.corrcoef(speed, level(clip.objects[0], times))[0, 1] > 0.9


@pytest.mark.parametrize("class_index", [c for c in range(24) if is_struck(solo(c, 0).objects[0])])
def test_struck_sounds_begin_when_the_object_hits_the_floor(class_index: int) -> None:
    clip = solo(class_index, 9)
    item = clip.objects[0]
    (track,) = synth.render_stems(SMALL, clip, RATE)
    impacts = hits(item, 0.1, SMALL.seconds - 0.1)
    assert len(impacts) >= 2
    lowest = item.anchor[1] + item.reach[1]
    for time_s, strength in impacts:
        at = round(time_s * RATE)
        before, after = (np.abs(part).max() for part in (track[at - 400 : at - 16], track[at : at + 800]))
        assert 0 < strength <= 1
        assert after > before
        assert trace(item, np.array([time_s])).y[0] == pytest.approx(lowest, abs=1e-6)
        assert trace(item, np.array([time_s - 0.05])).y[0] < lowest - 0.01


def test_silent_objects_move() -> None:
    for index in range(30):
        for item in synth.synth_clip(SMALL, index).objects:
            path = trace(item, np.linspace(0, SMALL.seconds, 50))
            assert np.ptp(path.x) + np.ptp(path.y) > 0.02


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_the_stems_add_up_to_the_mix(rate: int) -> None:
    clip = next(c for c in (synth.synth_clip(SMALL, i) for i in range(50)) if len(c.sounding) == 3)
    stems = synth.render_stems(SMALL, clip, rate)
    assert stems.shape == (3, round(SMALL.seconds * rate))
    assert stems.dtype == np.float32
    assert np.array_equal(stems.sum(axis=0), synth.render_mix(SMALL, clip, rate))
    peaks = np.abs(stems).max(axis=1)
    gains = [clip.objects[place].gain for place in clip.sounding]
    assert gains == sorted(gains, reverse=True)
    np.testing.assert_allclose(peaks, gains, rtol=1e-5 if rate == RATE else 0.1)


def test_the_stems_are_equal_at_every_rate() -> None:
    clip = synth.synth_clip(SMALL, 0)
    native, fast = (synth.render_mix(SMALL, clip, rate) for rate in (16_000, 48_000))
    back = soxr.resample(fast, 48_000, 16_000)[: len(native)]
    assert np.corrcoef(native, back)[0, 1] > 0.999


def test_boxes_are_tight_around_the_visible_part_at_any_resolution() -> None:
    for index in range(10):
        clip = synth.synth_clip(SMALL, index)
        fine = synth.render_masks(SMALL, clip, 0.5, 480, 640)
        for number, box in enumerate(synth.boxes_at(SMALL, clip, 0.5), start=1):
            rows, columns = np.nonzero(fine == number)
            if not rows.size:
                assert box == (0.0, 0.0, 0.0, 0.0)
                continue
            expected = [columns.min() / 640, rows.min() / 480, (columns.max() + 1) / 640, (rows.max() + 1) / 480]
            np.testing.assert_allclose(box, expected, atol=1.5 / SMALL.height)


def test_a_covered_object_has_an_empty_box_and_no_pixels() -> None:
    clip = solo(0, 2)
    twin = replace(clip.objects[0], radius=clip.objects[0].radius * 0.9)
    clip = replace(clip, objects=(twin, clip.objects[0]))
    boxes = synth.boxes_at(SMALL, clip, 0.2)
    assert boxes[0] == (0.0, 0.0, 0.0, 0.0)
    assert boxes[1] != (0.0, 0.0, 0.0, 0.0)
    assert set(np.unique(synth.render_masks(SMALL, clip, 0.2, 60, 80))) == {0, 2}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_frames_and_masks_agree_on_occlusion(order: tuple[int, int]) -> None:
    base = solo(0, 2)
    ball = base.objects[0]
    x, y = ball.anchor
    items = (ball, replace(ball, class_index=2, anchor=(x + 0.12, y)))
    clip = replace(base, objects=tuple(items[place] for place in order))
    mask = synth.render_masks(SMALL, clip, 0.4, SMALL.height, SMALL.width)
    frame = synth.render_frame(SMALL, clip, 0.4)
    for number, item in enumerate(clip.objects, start=1):
        inner = cv2.erode((mask == number).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        alone = synth.render_frame(SMALL, replace(clip, objects=(item,)), 0.4)
        assert inner.sum() > 20
        assert np.array_equal(frame[inner], alone[inner])


def test_frames_are_textured_and_noisy() -> None:
    clip = replace(synth.synth_clip(SMALL, 0), objects=(), sounding=())
    first, second = (synth.render_frame(SMALL, clip, time_s).astype(float) for time_s in (0.0, 0.1))
    assert first.std(axis=(0, 1)).min() > 8
    assert 2 < (first - second).std() < 12


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[SynthConfig, SynthClip, Path]:
    config = replace(SMALL, fps=25, width=320, height=240)
    clip = next(c for c in (synth.synth_clip(config, i) for i in range(50)) if len(c.sounding) == 2)
    path = tmp_path_factory.mktemp("synth") / "new" / "clip.mp4"
    synth.write_clip(config, clip, path)
    return config, clip, path


def test_the_file_holds_the_frames_at_their_times(written: tuple[SynthConfig, SynthClip, Path]) -> None:
    config, clip, path = written
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    assert [time_s for time_s, _ in frames] == pytest.approx([k / config.fps for k in range(config.num_frames)])
    drawn = [synth.render_frame(config, clip, k / config.fps).astype(float) for k in range(config.num_frames)]
    for number in (0, 1, 17, 49):
        error = [np.abs(frames[number][1] - picture).mean() for picture in drawn]
        assert int(np.argmin(error)) == number
        assert error[number] < 6


def test_the_file_holds_the_mix_in_time(written: tuple[SynthConfig, SynthClip, Path]) -> None:
    config, clip, path = written
    with av.open(path) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate, stream.channels) == ("aac", 44_100, 1)
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
    mix = synth.render_mix(config, clip, 44_100)
    assert abs(len(heard) - len(mix)) <= 1024
    size = min(len(heard), len(mix))
    heard, mix = heard[:size], mix[:size]
    spectrum = np.fft.rfft(heard) * np.conj(np.fft.rfft(mix))
    assert int(np.argmax(np.fft.irfft(spectrum, size))) == 0
    assert np.corrcoef(heard, mix)[0, 1] > 0.98


def test_the_same_clip_gives_the_same_bytes(written: tuple[SynthConfig, SynthClip, Path], tmp_path: Path) -> None:
    config, clip, path = written
    synth.write_clip(config, clip, tmp_path / "again.mp4")
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (path, tmp_path / "again.mp4")]
    assert digests[0] == digests[1]
    assert [p.name for p in tmp_path.iterdir()] == ["again.mp4"]


@pytest.mark.parametrize("reads", ["", "cat >/dev/null; "], ids=["dies at once", "dies at the end"])
def test_a_failing_encoder_leaves_no_file_and_its_output_is_quoted(
    reads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "ffmpeg"
    broken.write_text(f"#!/bin/sh\n{reads}echo 'no space for pictures' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    out = tmp_path / "out"
    with pytest.raises(AvkitError, match=r"clip\.mp4: .*code 3.*no space for pictures"):
        synth.write_clip(SMALL, synth.synth_clip(SMALL, 0), out / "clip.mp4")
    assert list(out.iterdir()) == []


def test_a_missing_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(AvkitError, match="none: cannot be started"):
        synth.write_clip(SMALL, synth.synth_clip(SMALL, 0), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("encoders", "taken"), [("V....D libx264  H.264", True), ("V....D libopenh264  H.264", False)])
def test_a_system_ffmpeg_is_used_if_it_has_x264(
    encoders: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "ffmpeg"
    system.write_text(f"#!/bin/sh\necho ' {encoders}'\n")
    system.chmod(0o755)
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert (ffmpeg_binary() == str(system)) is taken


@pytest.mark.parametrize("name", ["-y", "http:", "%d", "a b'c"])
def test_file_names_are_never_options_or_protocols(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(SMALL, seconds=1.0, width=64, height=64)
    synth.write_clip(config, synth.synth_clip(config, 0), Path(name) / f"{name}.mp4")
    assert (tmp_path / name / f"{name}.mp4").stat().st_size > 1000
