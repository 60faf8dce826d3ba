import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avmanifest.errors import ManifestError
from avmanifest.keys import clip_keys, subset_id
from avmanifest.recipe import Recipe, load_recipe
from avmanifest.schema import KEY_PATTERN


def clips(*rows: tuple[str, float]) -> pa.Table:
    return pa.table(
        {
            "video_id": pa.array([row[0] for row in rows], pa.string()),
            "start_s": pa.array([row[1] for row in rows], pa.float64()),
        }
    )


def keys(recipe: str | Recipe, *rows: tuple[str, float]) -> list[str]:
    found: list[str] = clip_keys(load_recipe(recipe) if isinstance(recipe, str) else recipe, clips(*rows)).to_pylist()
    return found


def test_youtube_keys() -> None:
    assert keys("vggsound", ("__tbvLNH6FI", 110.0), ("-_abcdefghi", 0.0)) == [
        "vgg-__tbvLNH6FI_000110",
        "vgg--_abcdefghi_000000",
    ]
    assert keys("audioset", ("AE5oZzfu2-E", 239.8), ("AE5oZzfu2-E", 0.0)) == [
        "as-AE5oZzfu2-E_239800",
        "as-AE5oZzfu2-E_0",
    ]


def test_a_start_that_the_template_cannot_represent_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"'a' at 1\.5 s does not begin on a whole second"):
        keys("vggsound", ("b", 1.0), ("a", 1.5))
    with pytest.raises(ManifestError, match="whole millisecond"):
        keys("audioset", ("a", 0.0001))
    with pytest.raises(ManifestError, match="does not begin at 0"):
        keys("flickr-soundnet", ("1", 2.0))


def test_an_id_that_the_template_cannot_represent_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"clip 1 of the list: 'a\.b' at 0\.0 s has an id with characters"):
        keys("flickr-soundnet", ("1", 0.0), ("a.b", 0.0))
    with pytest.raises(ManifestError, match="does not match"):
        keys("flickr-soundnet", ("a" * 90, 0.0))


def test_a_valid_id_is_its_own_slug_and_others_end_in_a_hash() -> None:
    found = keys("folder", ("clip_01", 0.0), ("dog/clip 1", 0.0), ("dog-clip-1", 0.0), ("über", 0.0), ("__x", 0.0))
    assert found[0] == "clip_01"
    assert found[2] == "dog-clip-1"
    assert found[1].startswith("dog-clip-1-")
    assert found[4].startswith("x-")
    assert len(set(found)) == len(found)
    assert all(KEY_PATTERN.fullmatch(key) for key in found)


def test_an_id_that_looks_like_a_hashed_one_is_hashed_too() -> None:
    (hashed,) = keys("folder", ("a b", 0.0))
    assert keys("folder", ("a b", 0.0), (hashed, 0.0))[1] != hashed


def test_ids_that_differ_late_or_in_case_or_in_dropped_characters_have_different_slugs() -> None:
    rows = [
        ("x" * 90 + "1", 0.0),
        ("x" * 90 + "2", 0.0),
        ("A", 0.0),
        ("a", 0.0),
        ("日本", 0.0),
        ("中国", 0.0),
        ("..", 0.0),
    ]
    assert len(set(keys("folder", *rows))) == len(rows)


def test_starts_that_differ_in_the_last_bit_have_different_keys() -> None:
    rows = [
        ("a", 0.0),
        ("a", 0.1),
        ("a", 0.1001),
        ("a", 0.10010000000000001),
        ("a", 100.0),
        ("a_100", 0.0),
        ("a.b", 0.0),
    ]
    rows.append(("a.b", 0.1))
    found = keys("table", *rows)
    assert len(set(found)) == len(rows)
    assert found[1] == "a_100"
    assert found[5] == "a_100_0"


def test_keys_do_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    rows = [("a b", 0.0), ("c", 1.0), ("日本", 2.5)]
    assert keys("table", *rows) == [keys("table", row)[0] for row in rows]


def test_a_users_template() -> None:
    recipe = dataclasses.replace(load_recipe("table"), key="x-{video_id}_{start_ms}_{start}")
    assert keys(recipe, ("v", 7.0)) == ["x-v_7000_000007"]


@given(st.lists(st.sampled_from("abcdefgh"), unique=True), st.randoms())
def test_the_subset_id_depends_only_on_the_set_of_keys(names: list[str], random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert subset_id(pa.array(names, pa.string())) == subset_id(pa.array(shuffled, pa.string()))
    assert subset_id(pa.array([*names, "z"], pa.string())) != subset_id(pa.array(names, pa.string()))
