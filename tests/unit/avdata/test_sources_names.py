"""Spellings of clip names, and the file that a request finds."""

import csv
import math
import random
import string
from pathlib import Path

import pytest

from avdata.prepare.sources.names import ClipRequest, NameIndex, clip_spellings
from avmanifest.clipnames import ClipName, parse_clip_name
from avmanifest.errors import ManifestError

VGGSOUND = Path("../shared/data/meta/vggsound/vggsound_partial_official_format.csv")
ID = "-_A__b-C_3_"


def index_of(*paths: str) -> NameIndex:
    index = NameIndex()
    for path in paths:
        index.add(path)
    return index


def found_path(index: NameIndex, request: ClipRequest) -> str | None:
    found = index.find(request)
    return None if found is None else index.path(found.row)


@pytest.fixture(params=["made", "official"])
def clips(request, tmp_path) -> list[tuple[str, int]]:
    """Video id and start in seconds of a made list in VGGSound's format, and of the official one if it is here."""
    path = VGGSOUND
    if request.param == "made":
        path = tmp_path / "vggsound.csv"
        drawn = random.Random(0)
        ids = ["".join(drawn.choices(string.ascii_letters + string.digits + "-_", k=11)) for _ in range(400)]
        starts = [*drawn.choices(range(0, 700), k=398), 1000, 3000]  # two starts that are read as milliseconds
        path.write_text("".join(f'{i},{start},"hail, rain",train\n' for i, start in zip(ids, starts, strict=True)))
    elif not path.exists():
        pytest.skip(f"{VGGSOUND} is absent")
    with path.open(newline="") as file:
        rows = [(row[0], int(row[1])) for row in csv.reader(file)]
    return [clip for number, clip in enumerate(rows) if clip[1] >= 1000 or number % 50 == 0 or len(rows) < 1000]


def test_vggsound_names_are_read_back(clips):
    assert len(clips) >= 400
    padded = [parse_clip_name(f"{video_id}_{start:06d}.mp4") for video_id, start in clips]
    assert padded == [ClipName(video_id, float(start)) for video_id, start in clips]
    spans = [parse_clip_name(f"{video_id}_{start * 1000}_{start * 1000 + 10_000}") for video_id, start in clips]
    assert spans == [ClipName(video_id, float(start), start + 10.0) for video_id, start in clips]
    bare = [parse_clip_name(f"{video_id}_{start}") for video_id, start in clips]
    misread = sum(name.start_ms != start * 1000 for name, (_, start) in zip(bare, clips, strict=True))
    assert misread == 2
    told = [parse_clip_name(f"{video_id}_{start}", "s") for video_id, start in clips]
    assert told == [ClipName(video_id, float(start)) for video_id, start in clips]


@pytest.mark.parametrize(
    "stem",
    [
        f"{ID}{end}"
        for end in ("_000030", "_30", "_30000_40000", "_000030_000040", "_30.000", "_30_40", "_30000", "-30", "_30-40")
    ]
    + [f"Y{ID}_30.000_40.000", f"Y{ID}_30", f"Some _title_ [x] [{ID}]_30_40", f"{ID}_30.video"],
)
@pytest.mark.parametrize("folder", ["", "train/", "playing acoustic guitar/"])
def test_a_request_finds_every_spelling(stem, folder):
    index = index_of(f"{folder}{stem}.mp4", f"{ID}_000031.mp4", f"{ID}_31000_41000.mp4")
    assert index.find(ClipRequest(ID, 30.0, 40.0)) == (0, True)


def test_fractional_starts_are_found():
    for stem in (f"{ID}_30.500", f"{ID}_30.5", f"{ID}_30500", f"{ID}_30500_40500", f"{ID}_30.5_40.5"):
        assert index_of(f"{stem}.mp4").find(ClipRequest(ID, 30.5, 40.5)) == (0, True)
        assert index_of(f"{stem}.mp4").find(ClipRequest(ID, 30.0, 40.0)) is None


def test_half_a_second_is_not_second_500():
    assert f"{ID}_500" not in set(clip_spellings(ID, 0.5))
    assert f"{ID}_500" in set(clip_spellings(ID, 500.0))


def test_seconds_win_where_both_readings_have_a_file():
    index = index_of(f"{ID}_3000.mp4", f"{ID}_3.mp4")
    assert found_path(index, ClipRequest(ID, 3000.0, 3010.0)) == f"{ID}_3000.mp4"
    assert found_path(index, ClipRequest(ID, 3.0, 13.0)) == f"{ID}_3.mp4"


def test_the_clip_comes_before_the_whole_video_and_another_end_last():
    index = index_of(f"{ID}.mp4", f"{ID}_30_37.mp4", f"{ID}_30_40.mp4")
    assert index.find(ClipRequest(ID, 30.0, 40.0)) == (2, True)
    assert index.find(ClipRequest(ID, 50.0, 60.0)) == (0, False)
    assert index.find(ClipRequest(ID, 30.0, 39.0)) == (0, False)
    assert index_of(f"{ID}_30_37.mp4").find(ClipRequest(ID, 30.0, 40.0)) == (0, True)
    assert index_of(f"{ID}_30_37.mp4").find(ClipRequest(ID, 30.0)) == (0, True)


def test_of_copies_of_a_video_the_same_file_is_chosen_in_any_order():
    paths = [f"b/{ID}_30.mp4", f"a/{ID}_30.webm", f"a/{ID}_30.mp4"]
    for order in (paths, paths[::-1]):
        assert found_path(index_of(*order), ClipRequest(ID, 30.0)) == f"a/{ID}_30.mp4"


def test_other_ids_match_by_their_exact_stem():
    index = index_of("TrainVal/video70.mp4", "Test/video7010.mp4", "1234.webm", "cat.mp4", "cat_0.mp4")
    assert found_path(index, ClipRequest("video7010", 3.0, 9.0)) == "Test/video7010.mp4"
    assert index.find(ClipRequest("cat", 0.0, 10.0)) == (3, False)
    assert found_path(index, ClipRequest("1234")) == "1234.webm"
    assert index.find(ClipRequest("video7")) is None


def test_a_plain_id_in_two_folders_is_refused():
    index = index_of("train/1.mp4", "test/1.mp4", "test/2.mp4", "test/2.webm")
    assert index.find(ClipRequest("1")) is None
    assert sum(index.refused.values()) == 1
    assert "give the path" in next(iter(index.refused))
    assert found_path(index, ClipRequest("1", path="test/1.mp4")) == "test/1.mp4"
    assert found_path(index, ClipRequest("test/1")) == "test/1.mp4"
    assert found_path(index, ClipRequest("2")) == "test/2.mp4"


def test_with_a_path_only_that_path_is_searched():
    index = index_of(f"a/{ID}_30.mp4", f"b/{ID}.mp4")
    assert index.find(ClipRequest(ID, 30.0, path=f"a/{ID}_30.mp4")) == (0, True)
    assert index.find(ClipRequest(ID, 30.0, path=f"./a//{ID}_30")) == (0, True)
    assert index.find(ClipRequest(ID, 30.0, path=f"b/{ID}.mp4")) == (1, False)
    assert index.find(ClipRequest(ID, 30.0, path=f"c/{ID}.mp4")) is None
    assert index.find(ClipRequest(ID, 30.0, path=f"a/{ID}_30.webm")) is None
    assert not index.refused


@pytest.mark.parametrize("path", ["/a/1.mp4", "../a/1.mp4", "a/../a/1.mp4", "a/1.mp4\0", "a\0/1.mp4", "/"])
def test_hostile_paths_are_refused(path):
    index = index_of("a/1.mp4")
    assert index.find(ClipRequest("1", path=path)) is None
    assert list(index.refused.values()) == [1]
    if "/" in path:
        assert index.find(ClipRequest(path)) is None
        assert list(index.refused.values()) == [2]


def test_metadata_identifies_a_file_whose_name_is_not_a_clip_name():
    index = NameIndex()
    index.add("000000012.mp4", identity=ClipName(ID, 30.0, 40.0))
    index.add("000000013.mp4", identity=ClipName("AAAAAAAAAAA"))
    index.add("BBBBBBBBBBB.mp4", identity=ClipName("BBBBBBBBBBB", 5.0))
    assert index.find(ClipRequest(ID, 30.0, 40.0)) == (0, True)
    assert index.find(ClipRequest(ID, 30.0)) == (0, True)
    assert index.find(ClipRequest(ID, 31.0)) is None
    assert index.find(ClipRequest("AAAAAAAAAAA", 7.0)) == (1, False)
    assert index.find(ClipRequest("BBBBBBBBBBB", 5.0)) == (2, True)
    assert index.find(ClipRequest("BBBBBBBBBBB", 9.0)) is None
    assert index.find(ClipRequest(ID, 30.0, path="000000012.mp4")) == (0, True)
    assert index.path(0) == "000000012.mp4"


@pytest.mark.parametrize("stem", [ID, f"Y{ID}", f"Title - with_dash [{ID}]", f"[{ID}]", f"{ID}.video"])
def test_a_whole_video_is_found_under_every_name(stem):
    for video_id in (ID, "__abcdefghi", "-----------", "YYYYYYYYYY_"):
        index = index_of(f"{stem}.mp4".replace(ID, video_id), "other.mp4")
        assert index.find(ClipRequest(video_id, 30.0, 40.0)) == (0, False)
        assert index.find(ClipRequest(video_id[1:] + "x", 30.0, 40.0)) is None


def test_metadata_decides_what_a_name_that_can_be_read_two_ways_means():
    index = NameIndex()
    index.add(f"{ID}_3000.mp4", identity=ClipName(ID, 3.0, 13.0))
    index.add("AAAAAAAAAAA_30.mp4", identity=ClipName("BBBBBBBBBBB", 30.0))
    index.add("CCCCCCCCCCC_30.mp4", identity=ClipName("CCCCCCCCCCC"))
    assert index.find(ClipRequest(ID, 3.0, 13.0)) == (0, True)
    assert index.find(ClipRequest(ID, 3000.0, 3010.0)) is None
    assert index.find(ClipRequest("AAAAAAAAAAA", 30.0)) is None
    assert index.find(ClipRequest("BBBBBBBBBBB", 30.0)) == (1, True)
    assert index.find(ClipRequest("CCCCCCCCCCC", 30.0)) == (2, True)
    assert index.find(ClipRequest("CCCCCCCCCCC", 31.0)) is None


@pytest.mark.parametrize(("start_s", "end_s"), [(-1.0, 2.0), (3.0, 3.0), (4.0, 3.0), (math.nan, 3.0), (0.0, math.nan)])
def test_a_request_is_a_span_of_time(start_s, end_s):
    with pytest.raises(ManifestError, match="not a valid span"):
        ClipRequest(ID, start_s, end_s)
