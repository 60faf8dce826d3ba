import pytest

from avmanifest.clipnames import MEDIA_SUFFIXES, ClipName, parse_clip_name, split_media_suffix, usual_spelling

ID = "-_Ab3_f-I2_"


@pytest.mark.parametrize(
    ("name", "start_s", "end_s"),
    [
        (ID, None, None),
        (f"{ID}.mp4", None, None),
        (f"{ID}_000030", 30.0, None),
        (f"{ID}_30", 30.0, None),
        (f"{ID}_30.000", 30.0, None),
        (f"{ID}_30.000.mp4", 30.0, None),
        (f"{ID}_30.5_40.5", 30.5, 40.5),
        (f"{ID}_30000_40000", 30.0, 40.0),
        (f"{ID}_0_10000", 0.0, 10.0),
        (f"{ID}_0_10", 0.0, 10.0),
        (f"{ID}_0", 0.0, None),
        (f"{ID}_000000", 0.0, None),
        (f"{ID}_239800_249800", 239.8, 249.8),
        (f"{ID}_000030_000040", 30.0, 40.0),
        (f"{ID}_000500_000510", 500.0, 510.0),
        (f"{ID}_500_510", 500.0, 510.0),
        (f"{ID}_40.000.mp4", 40.0, None),
        (f"playing_violin__fiddle/{ID}_000030.mp4", 30.0, None),
        (f"/a/b.c/{ID}_30.webm", 30.0, None),
        (f"audio/{ID}_30.wav", 30.0, None),
        # One whole number: AudioSet's tools write milliseconds, VGGSound writes six digits of seconds.
        (f"{ID}_30000.mp4", 30.0, None),
        (f"{ID}_030000.mp4", 30_000.0, None),
        (f"{ID}_001000", 1000.0, None),
        (f"{ID}_1250", 1250.0, None),
        (f"{ID}_035752", 35_752.0, None),
        # A dash before the numbers, the copies of AudioSet with a Y, yt-dlp's titles, WebDataset's `.video`.
        (f"{ID}-185", 185.0, None),
        (f"{ID}-185-195.mp4", 185.0, 195.0),
        (f"{ID}_185-195", 185.0, 195.0),
        (f"Y{ID}.mp4", None, None),
        (f"Y{ID}_30.000_40.000.mp4", 30.0, 40.0),
        (f"A title, [live]_30_40 [{ID}].mp4", None, None),
        (f"\u3000歌 [HD] [{ID}].mkv", None, None),
        (f"A_title_[{ID}]_30_40.webm", 30.0, 40.0),
        (f"[{ID}].mp4", None, None),
        (f"{ID}_30.video.mp4", 30.0, None),
        (f"{ID}_30.500.video.MP4", 30.5, None),
    ],
)
def test_every_spelling_of_a_clip(name: str, start_s: float | None, end_s: float | None) -> None:
    assert parse_clip_name(name) == ClipName(ID, start_s, end_s)


@pytest.mark.parametrize("suffix", [*MEDIA_SUFFIXES, ".MP4", ".Flv", ".TS", ".wav", ".jpg"])
def test_a_suffix_in_any_case_is_not_part_of_the_name(suffix: str) -> None:
    assert parse_clip_name(f"a/{ID}_000030{suffix}") == ClipName(ID, 30.0)


def test_a_list_may_set_the_unit_of_its_numbers() -> None:
    assert parse_clip_name(f"{ID}_3000", "s") == ClipName(ID, 3000.0)
    assert parse_clip_name(f"{ID}_3000", "ms") == ClipName(ID, 3.0)
    assert parse_clip_name(f"{ID}_001500_002500", "ms") == ClipName(ID, 1.5, 2.5)
    assert parse_clip_name(f"{ID}_0_1200", "s") == ClipName(ID, 0.0, 1200.0)


def test_times_in_whole_milliseconds() -> None:
    assert (ClipName(ID, 239.8, 249.8004).start_ms, ClipName(ID, 239.8, 249.8004).end_ms) == (239_800, 249_800)
    assert (ClipName(ID).start_ms, ClipName(ID).end_ms) == (None, None)


@pytest.mark.parametrize(
    "name",
    [
        f"Title[{ID}]", f"[{ID}] Title", f"Title [{ID[:10]}]", f"YY{ID}", "a" * 11 + ".video", ".video.mp4",
        "sample0000", "video7010", "10000130166x", "playing_guitar_3", "", "a.b", "short", f"{ID}_30s", f"{ID}--30",
        f"{ID}_1_2_3", "a" * 12, f"{ID}_1\n", f"{ID}_x", f"{ID}_30_", f"{ID}_40_30", f"{ID}_30_30", f"{ID}_٣",
    ],
)  # fmt: skip
def test_other_names_are_not_clips(name: str) -> None:
    assert parse_clip_name(name) is None


@pytest.mark.parametrize("video_id", ["Yabcdefghij", "Y_________-", "YYYYYYYYYYY", "-Y_0000_30-", "abcdefgh_30"])
def test_an_id_is_not_split_and_a_leading_y_may_belong_to_it(video_id: str) -> None:
    for prefix in ("", "Y"):
        assert parse_clip_name(f"{prefix}{video_id}.mp4") == ClipName(video_id)
        assert parse_clip_name(f"{prefix}{video_id}_30_40.mp4") == ClipName(video_id, 30.0, 40.0)
        assert parse_clip_name(f"{prefix}{video_id}-30.mp4") == ClipName(video_id, 30.0)
        assert usual_spelling(f"{prefix}{video_id}-30000.mp4") == f"{video_id}_30000"
    assert usual_spelling("notes") is None


def test_a_media_suffix_may_follow_video() -> None:
    assert split_media_suffix("000001.video.mp4") == ("000001", ".video.mp4")
    assert split_media_suffix("my.video.file.mp4") == ("my.video.file", ".mp4")
    assert split_media_suffix("video.mp4") == ("video", ".mp4")
