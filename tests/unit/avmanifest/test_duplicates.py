import pyarrow as pa

from avmanifest.duplicates import repeats, shared_footage


def rows(
    *clips: tuple[str, str | None, float, float | None, str | None], status: str = "ok", source: str = ""
) -> pa.Table:
    """key, video id, start, end, sha256."""
    names = ("key", "video_id", "start_s", "end_s", "source_sha256")
    types = (pa.string(), pa.string(), pa.float64(), pa.float64(), pa.string())
    columns = {
        name: pa.array([clip[place] for clip in clips], kind)
        for place, (name, kind) in enumerate(zip(names, types, strict=True))
    }
    alike = {"status": status, "source": source}
    return pa.table(columns | {name: pa.repeat(pa.scalar(value), len(clips)) for name, value in alike.items()})


def shared(one: pa.Table, other: pa.Table) -> list[str]:
    return shared_footage(one, other).to_pylist()


def test_spans_of_one_video_must_overlap() -> None:
    test = rows(("t", "abc", 30.0, 40.0, None))
    assert shared(rows(("a", "abc", 35.0, 45.0, None)), test) == ["a"]
    assert shared(rows(("a", "abc", 40.0, 50.0, None)), test) == []
    assert shared(rows(("a", "xyz", 30.0, 40.0, None)), test) == []
    assert shared(rows(("a", "abc", 0.0, None, None)), test) == ["a"]  # to the end of the video


def test_files_with_equal_hashes_share_footage() -> None:
    test = rows(("t", "one", 0.0, 10.0, "f" * 64))
    assert shared(rows(("a", "two", 5.0, 15.0, "f" * 64)), test) == ["a"]
    assert shared(rows(("a", "two", 5.0, 15.0, "e" * 64)), test) == []


def test_a_file_that_was_cut_from_a_video_is_compared_in_its_own_time() -> None:
    sha256, cut = "f" * 64, "local:clips/dog/0A1b2C3d4E5_000030.mp4"
    test = rows(("t", "0A1b2C3d4E5", 30.0, 40.0, sha256), source=cut)
    # The same file, whose path is its id, as the recipe folder has it; and a copy under another start.
    assert shared(rows(("a", "dog/0A1b2C3d4E5_000030", 0.0, 10.0, sha256), source=cut), test) == ["a"]
    other = "local:clips/00000000000_50000_60000.mp4"
    assert shared(rows(("a", "00000000000", 50.0, 60.0, sha256), source=other), test) == ["a"]
    # A part of it before or after the other part.
    late = rows(("t", "0A1b2C3d4E5", 34.0, 37.0, sha256), source=cut)
    assert shared(rows(("a", "dog/0A1b2C3d4E5_000030", 0.0, 4.0, sha256), source=cut), late) == []
    assert shared(rows(("a", "dog/0A1b2C3d4E5_000030", 0.0, 5.0, sha256), source=cut), late) == ["a"]
    # Parts of a whole video under two names.
    film = rows(("t", "film", 30.0, 40.0, sha256), source="local:films/film.mp4")
    assert shared(rows(("a", "copy", 0.0, 10.0, sha256), source="local:copies/copy.mp4"), film) == []


def test_missing_ids_and_hashes_are_not_equal() -> None:
    assert shared(rows(("a", None, 0.0, 9.0, None)), rows(("t", None, 0.0, 9.0, None))) == []
    assert shared(rows(("a", "", 0.0, 9.0, "")), rows(("t", "", 0.0, 9.0, ""))) == []


def test_equal_keys_share_footage_and_failed_clips_do_not() -> None:
    one, other = rows(("k", None, 0.0, 9.0, None)), rows(("k", None, 0.0, 9.0, None))
    assert shared(one, other) == ["k"]
    assert shared(rows(("k", "v", 0.0, 9.0, None), status="media_corrupt"), rows(("k", "v", 0.0, 9.0, None))) == []


def test_near_duplicates_are_counted_where_they_were_looked_for() -> None:
    clips = rows(*((key, None, 0.0, 9.0, None) for key in "abcdef"))
    splits = pa.array(["test", "train", "train", "train", "train", "val"])
    clips = clips.append_column("split", splits)
    assert "near" not in repeats(clips)["duplicates"]
    firsts = pa.array([None, "a", None, "c", None, None], pa.string())
    found = repeats(clips.append_column("near_duplicate_of", firsts))
    near, leaks = found["duplicates"]["near"], found["leaks"]["near"]
    assert (near["groups"], near["clips"]) == (2, 4)
    assert [[clip["key"] for clip in group["clips"]] for group in near["examples"]] == [["a", "b"], ["c", "d"]]
    assert (leaks["groups"], leaks["clips"], leaks["examples"][0]["same"]) == (1, 2, "a")
