"""JSON and TOML from outside: what is read, and what is refused with one typed error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.parsing import MAX_DEPTH, metadata_of, parse_json, parse_object, parse_toml, read_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="ascii", min_codepoint=1)), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_can_hold_is_read(value: object) -> None:
    assert parse_json(json.dumps(value), "x") == value


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        parse_json(content, "a.json")
    except ManifestError as error:
        assert str(error).startswith("a.json: not valid JSON: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[" * 10**6, "nested too deeply"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"nested deeper than {MAX_DEPTH} levels"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ('["NaN",\n NaN]', r"NaN is not a finite number \(line 2\)"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("[1,\n\n1e999]", r"1e999 is not a finite number \(line 3\)"),
        (f"[{2**64}]", "a whole number of 65 bits"),
        ("9" * 5000, "4300 digits"),
        ('["a\\u0000b"]', "NUL"),
        ('{"\\ud800": 1}', "surrogates"),
    ],
    ids=range(11),
)
def test_hostile_json_is_refused_with_the_reason(text: str, said: str) -> None:
    for error in (ManifestError, ShardError, ConfigError):
        with pytest.raises(error, match=rf"^a\.json: not valid JSON: .*{said}.*\. Do so\.$"):
            parse_json(text, "a.json", error, "Do so.")


def test_records_of_training_may_hold_numbers_that_are_not_finite() -> None:
    assert parse_object('{"loss": Infinity}', "x", finite=False) == {"loss": float("inf")}


def test_only_an_object_is_an_object() -> None:
    with pytest.raises(ManifestError, match="x: a JSON list, expected an object"):
        parse_object("[]", "x")


def test_metadata_of_other_tools_may_have_nan_and_keys_twice() -> None:
    assert metadata_of(b'{"a": 1, "a": 2, "similarity": NaN}')["a"] == 2
    assert [metadata_of(text) for text in ("", "[1]", "{", None, b"\xff\xfe", "[" * 10**6)] == [{}] * 6


@pytest.mark.parametrize(
    "text", ["a = 1\na = 2", "a = " + "[" * 10**5, "a" + ".a" * 200 + " = 1", f"a = {2**70}", "\0"]
)
def test_hostile_toml_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^r\.toml: not valid TOML: "):
        parse_toml(text, "r.toml", ConfigError)


def test_a_file_that_cannot_be_read_has_the_same_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read \(No such file"):
        read_json(tmp_path / "none.json", ConfigError)
    with pytest.raises(ConfigError, match=r"cannot be read \(a folder, not a regular file\)"):
        read_json(tmp_path, ConfigError)
