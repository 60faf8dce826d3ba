import pytest

from avmanifest.clipnames import MEDIA_SUFFIXES, ClipName, parse_clip_name

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
        "sample0000", "video7010", "10000130166x", "playing_guitar_3", "", "a.b", "short", f"{ID}_30s", f"{ID}-30",
        f"{ID}_1_2_3", "a" * 12, f"{ID}_1\n", f"{ID}_x", f"{ID}_30_", f"{ID}_40_30", f"{ID}_30_30", f"{ID}_٣",
    ],
)  # fmt: skip
def test_other_names_are_not_clips(name: str) -> None:
    assert parse_clip_name(name) is None
