"""Properties of clip names: a request finds its own clip in any spelling, and no other clip."""

import posixpath

from hypothesis import given, settings
from hypothesis import strategies as st

from avdata.prepare.sources.names import ClipRequest, NameIndex, clip_spellings, safe_relative
from avmanifest.clipnames import MEDIA_SUFFIXES, ClipName, parse_clip_name, split_media_suffix

YOUTUBE_IDS = st.text(
    "-_0129azAZ", min_size=11, max_size=11
)  # few letters: ids full of dashes and underscores, and of digits
STARTS = st.integers(0, 999)
LENGTHS = st.integers(1, 999)
SUFFIXES = st.sampled_from(["", *MEDIA_SUFFIXES, ".MP4"])
FOLDERS = st.sampled_from(["", "train/", "playing_guitar/", "people whispering, 2/", "a_30/b/"])
CHOICE = st.integers(0, 100)


def pick(video_id: str, start_s: float, end_s: float, choice: int) -> str:
    spellings = sorted(set(clip_spellings(video_id, float(start_s), float(end_s))))
    return spellings[choice % len(spellings)]


@settings(deadline=None, max_examples=200)
@given(YOUTUBE_IDS, STARTS, LENGTHS, CHOICE, FOLDERS, SUFFIXES)
def test_every_spelling_of_whole_seconds_is_read_back(video_id, start, length, choice, folder, suffix):
    spelling = pick(video_id, start, start + length, choice)
    named = parse_clip_name(folder + spelling + suffix)
    assert named is not None
    assert named.video_id == video_id
    assert named.start_ms == start * 1000
    assert named.end_ms in (None, (start + length) * 1000)


@settings(deadline=None, max_examples=200)
@given(YOUTUBE_IDS, st.integers(0, 10**7), st.integers(1000, 900_000), CHOICE)
def test_two_numbers_with_fractions_are_read_back(video_id, start_ms, length_ms, choice):
    spellings = clip_spellings(video_id, start_ms / 1000, (start_ms + length_ms) / 1000)
    pairs = sorted({spelling for spelling in spellings if spelling[11:].count("_") == 2})
    named = parse_clip_name(pairs[choice % len(pairs)])
    assert named is not None
    assert (named.video_id, named.start_ms, named.end_ms) == (video_id, start_ms, start_ms + length_ms)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(YOUTUBE_IDS, STARTS, CHOICE, FOLDERS), min_size=1, max_size=12, unique_by=lambda c: c[:2]))
def test_each_request_finds_its_own_clip_whatever_the_spellings(clips):
    index = NameIndex()
    forms = ("{}", "Y{}", "A [title] [{}", "{}.video")
    rows = []
    for v, s, choice, folder in clips:
        spelling = forms[choice % len(forms)].format(pick(v, s, s + 10, choice))
        if "[" in spelling:
            spelling = spelling.replace(v, v + "]", 1)
        rows.append(index.add(f"{folder}{spelling}.mp4"))
    for row, (video_id, start, _, _) in zip(rows, clips, strict=True):
        found = index.find(ClipRequest(video_id, float(start), float(start + 10)))
        assert found is not None
        assert found == (row, True)


@settings(deadline=None, max_examples=200)
@given(YOUTUBE_IDS, STARTS, STARTS, CHOICE)
def test_a_clip_is_never_found_for_another_start(video_id, start, other, choice):
    index = NameIndex()
    index.add(pick(video_id, start, start + 10, choice) + ".mp4")
    found = index.find(ClipRequest(video_id, float(other), float(other + 10)))
    assert (found is not None) == (start == other)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(["a", "b.mp4", "..", ".", "", "\0", "c d", "é"]), max_size=6).map("/".join))
def test_a_safe_path_stays_below_any_root(path):
    safe = safe_relative(path)
    if safe is None:
        assert path.startswith("/") or ".." in path or "\0" in path or not path.strip("./")
    else:
        assert posixpath.normpath(posixpath.join("/root", path)) == f"/root/{safe}"


@given(st.text(max_size=20), SUFFIXES)
def test_stem_and_suffix_make_the_name(stem, suffix):
    assert "".join(split_media_suffix(stem + suffix)) == stem + suffix


@given(st.one_of(st.text(max_size=40), st.from_regex(r"[-_a9]{11}(_[0-9.]{1,6}){0,3}(\.mp4)?")))
def test_any_text_is_parsed_or_none(text):
    named = parse_clip_name(text)
    if named is not None:
        assert named.video_id in text.rpartition("/")[2]
        assert len(named.video_id) == 11
        assert named.end_s is None or (named.start_s is not None and named.end_s > named.start_s >= 0)


@settings(deadline=None, max_examples=200)
@given(YOUTUBE_IDS, st.integers(0, 99_999), SUFFIXES, FOLDERS)
def test_with_a_unit_the_numbers_are_unambiguous(video_id, number, suffix, folder):
    name = f"{folder}{video_id}_{number}{suffix}"
    assert parse_clip_name(name, "s") == ClipName(video_id, float(number))
    assert parse_clip_name(name, "ms") == ClipName(video_id, number / 1000)
