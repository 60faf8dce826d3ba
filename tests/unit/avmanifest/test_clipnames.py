import pytest

from avmanifest.clipnames import ClipName, parse_clip_name

ID = "-_Ab3_f-I2_"


@pytest.mark.parametrize(
    ("name", "start_s", "end_s"),
    [
        (ID, None, None),
        (f"{ID}_000030", 30.0, None),
        (f"{ID}_30", 30.0, None),
        (f"{ID}_30.000", 30.0, None),
        (f"{ID}_30000_40000", 30.0, 40.0),
        (f"{ID}_0_10000", 0.0, 10.0),
        (f"{ID}_239800_249800", 239.8, 249.8),
        (f"{ID}_000030_000040", 30.0, 40.0),
        (f"{ID}_000500_000510", 500.0, 510.0),
        (f"{ID}_500_510", 500.0, 510.0),
        (f"{ID}_40.000.mp4", 40.0, None),
        (f"playing_violin__fiddle/{ID}_000030.mp4", 30.0, None),
        (f"/a/b.c/{ID}_30.webm", 30.0, None),
    ],
)
def test_every_spelling_of_a_clip(name: str, start_s: float | None, end_s: float | None) -> None:
    assert parse_clip_name(name) == ClipName(ID, start_s, end_s)


@pytest.mark.parametrize(
    "name", ["sample0000", "", "short", f"{ID}_30s", f"{ID}-30", f"{ID}_1_2_3", "a" * 12, f"{ID}_1\n"]
)
def test_other_names_are_no_clips(name: str) -> None:
    assert parse_clip_name(name) is None
