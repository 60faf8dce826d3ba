"""Conditions on clips: what they choose, what they may not do, and where they are used."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.diff import diff
from avdata.audit.summary import summarize
from avdata.load import CacheConfig, Loader, LoaderConfig, TrainView, open_dataset
from avdata.where import parse_condition
from avmanifest.columns import Column
from avmanifest.errors import ConfigError
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table, write_table
from tests.shards import CLASSES, draw_dataset, sample_key

ROWS = pa.table(
    {
        "key": ["a", "b", "c"],
        "labels": pa.array([["dog barking"], None, ["it's", "日本 \u202e"]], pa.list_(pa.string())),
        "rms_dbfs": pa.array([-20.0, None, -60.0]),
        "still": pa.array([False, None, True]),
        "end": [1, 2, 3],
        "Fold": [1, 1, 2],
    }
)


def chosen(text: str, rows: pa.Table = ROWS) -> list[str]:
    found: list[str] = rows.filter(parse_condition(text).holds(rows, "the manifest")).column("key").to_pylist()
    return found


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("not still and rms_dbfs > -45 and 'dog barking' in labels", ["a"]),
        ("'it''s' in labels", ["c"]),
        ("'日本 \u202e' in labels", ["c"]),
        ("not 'dog barking' in labels", ["c"]),  # of null nothing is known
        ("labels is null", ["b"]),
        ("len(list_filter(labels, lambda one: one like '%dog%')) > 0", ["a"]),
        ("len([one for one in labels if one like '%dog%']) > 0", ["a"]),
        ("coalesce(rms_dbfs, 0) > -30", ["a", "b"]),
        ('"end" > 1', ["b", "c"]),
        ("STILL", ["c"]),
        ("fold = 2", ["c"]),
        ("key in ('a', 'c') -- two", ["a", "c"]),
        ("true", ["a", "b", "c"]),
        ("case when still then false else key > 'a' end", ["b"]),
        ("md5(key) < 'a' and regexp_matches(key, '[abc]')", ["a", "b", "c"]),
        ("(" + " or ".join(f"key = '{number}'" for number in range(500)) + ") or key = 'b'", ["b"]),
    ],
)
def test_a_condition_chooses_the_rows_for_which_it_is_true(text: str, keys: list[str]) -> None:
    assert chosen(text) == keys


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stil", "no column 'stil'; did you mean still\\? Its columns: key, labels, rms_dbfs"),
        ('key = "a"', "no column 'a'.*Text is in single quotes"),
        ("rowid > 0", "no column 'rowid'"),
        ("current_date > 'x'", "no column 'current_date'"),
        ("clips.key = 'a'", "no column 'clips'"),
        ("end > 1", 'syntax error at or near "end".*double quotes'),
        ("", "is empty"),
        ("-- nothing", "without selection list"),
        ("key", "VARCHAR, not true or false"),
        ("rms_dbfs", "DOUBLE, not true or false"),
        ("null", "not true or false"),
        ("rms_dbfs > 'loud'", "Could not convert string 'loud'"),
        ("cast(key as int) > 1", "Could not convert string 'a'"),
        ("labels like '%dog%'", "No function matches"),
        ("labels = 'dog'", "cast.*'VALUE' in COLUMN"),
        ("nosuch(key)", "nosuch does not exist"),
        ("key ~ 'a('", "missing \\)"),
        ("count(*) > 1", "over several clips"),
        ("max(rms_dbfs) > 1", "over several clips"),
        ("row_number() over () > 1", "window function"),
        ("rms_dbfs > random()", "random\\(\\) is of more than"),
        ("now() > timestamp '2020-01-01'", "now\\(\\) is of more than"),
        ("current_setting('threads') = '1'", "current_setting\\(\\) is of more than"),
        ("getvariable('x') is null", "getvariable\\(\\) is of more than"),
        ("error('boom')", "error\\(\\) is of more than"),
        ("sleep_ms(1) is null", "sleep_ms\\(\\) is of more than"),
        ("write_log('x') is null", "write_log\\(\\) is of more than"),
        ("key in (select 'a')", "a query within it"),
        ("exists (from read_text('/etc/passwd'))", "a query within it"),
        ("read_text('/etc/passwd') is null", "read_text\\(\\) is of more than"),
        ("key = (from 'train.parquet')", "a query within it"),
        ("columns(*) is null", "COLUMNS"),
        ("key = ?", "parameter"),
        ("true; drop table clips", "semicolon"),
        ("true; select true", "semicolon"),
        ("true;", "syntax error"),
        ("true) or (true", "syntax error"),
        ("true union select false", "UNION"),
        ("true from clips", "one expression"),
        ("true order by key", "one expression"),
        ("true limit 1", "one expression"),
        ("still, still", "one expression"),
        ("still as s", "one expression"),
        ("distinct still", "one expression"),
        ("select true", "syntax error"),
        ("attach 'x.db'", "attach does not exist"),
        ("copy clips to 'x'", "syntax error"),
        ("true /*", "unterminated"),
        ("'", "unterminated"),
        ("\0", "null character"),
        ("\ud800", "not UTF-8"),
        ("not " * 20_000 + "true", "deep"),
        ("(" * 90_000, "deep"),
        ("- " * 40_000 + "1 > 0", "deep"),
        ("x" * 1_000_000, "1,000,000 characters, more than 100,000"),
        ("repeat('a', 1000000000000) = key", "Cannot create a string"),
    ],
)
def test_a_condition_that_cannot_be_used_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        chosen(text)
    assert len(str(refusal.value)) < 1_000
    assert "\n" not in str(refusal.value)


PIECES = [
    *("key", "still", "labels", "fold", "(", ")", "'a'", '"', "and", "not", "in", "=", ";", "--", "select", "[", "]"),
    *("->", "lambda", "::", "*", "case", "when", "then", "end", "null", "1e999", "from", "over", "count(*)", "as"),
    *("\\", ",", ".", "'", "/*", "*/", "?", "$1", "#1", "{"),
]


@settings(max_examples=25)
@given(
    text=st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from(PIECES),
            max_size=9,
        ).map(" ".join),
    )
)
def test_any_text_chooses_rows_or_is_refused(text: str) -> None:
    try:
        keys = chosen(text)
    except ConfigError:
        return
    assert set(keys) <= {"a", "b", "c"}


def test_columns_that_differ_in_case_alone_are_not_guessed() -> None:
    rows = ROWS.append_column("FOLD", pa.array([2, 2, 2]))
    with pytest.raises(ConfigError, match=r"\['Fold', 'FOLD'\]"):
        chosen("fold = 2", rows)


# --------------------------------------------------------------------------------------------------- datasets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 clips, of which 3 and 9 failed; clip n has loudness -n dB; every fourth is still."""
    return draw_dataset(
        tmp_path_factory.mktemp("where") / "set",
        20,
        6,
        failed=(3, 9),
        seconds=0.5,
        num_frames=1,
        flags=lambda number: {"rms_dbfs": -float(number), "still": number % 4 == 0},
    )


DOGS = f"'{CLASSES[0]}' in labels"
KEPT = [sample_key(number) for number in (6, 15, 18)]  # of 0, 3, 6, ..., 18: not failed, not still, not above -5 dB
TEXT = f"not still and rms_dbfs < -5 and {DOGS}"


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(root=tmp_path / "cache")


@pytest.fixture
def remote(dataset: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    files.put(f"{dataset}/", "/where/set/", recursive=True)
    yield "memory://where/set"
    files.rm("/where", recursive=True)


def test_a_dataset_has_the_samples_for_which_the_condition_is_true(
    dataset: Path, remote: str, cache: CacheConfig
) -> None:
    shards = "train/{00000..00003}.tar"
    for source in (dataset, f"{dataset}/{shards}", remote, f"{remote}/{shards}"):
        assert open_dataset(source, where=TEXT, cache=cache).keys.to_pylist() == KEPT
    assert open_dataset(dataset, where="shard = 3").keys.to_pylist() == [sample_key(18), sample_key(19)]
    assert open_dataset(f"{dataset}/train/00003.tar", where="shard = 3").keys.to_pylist() == [
        sample_key(18), sample_key(19),
    ]  # fmt: skip
    assert open_dataset(dataset, where=DOGS, exclude=["still"]).keys.to_pylist() == [
        sample_key(number) for number in (6, 15, 18)
    ]
    assert open_dataset(dataset, where="true").fingerprint() == open_dataset(dataset).fingerprint()


def test_chosen_samples_are_read_as_before(dataset: Path) -> None:
    config = LoaderConfig(batch_size=3, num_workers=0)
    view = TrainView(window_s=0.2, columns=8, image_size=16)
    (batch,) = Loader(open_dataset(dataset, where=TEXT), view, config).arrays()
    assert sorted(batch.keys) == KEPT


@pytest.mark.parametrize(
    ("source", "where", "said"),
    [
        ("", "rms_dbfs > 0", "true for none of the 18 clips of .*train.parquet"),
        ("/train/{00000..00003}.tar", "rms_dbfs > 0", "true for none of the 18 clips of .*00000.tar and following"),
        ("", "status != 'ok'", "true for none of the 18 clips"),
        ("", "loud", "train.parquet has no column 'loud'"),
        ("/train/00000.tar", "loud", "00000.parquet has no column 'loud'"),
        ("", "rms_dbfs", "DOUBLE"),
    ],
)
def test_a_condition_that_chooses_nothing_is_an_error(dataset: Path, source: str, where: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_dataset(f"{dataset}{source}", where=where)


def test_tars_without_a_manifest_have_no_columns(dataset: Path, tmp_path: Path, cache: CacheConfig) -> None:
    tar = shutil.copy(dataset / "train" / "00000.tar", tmp_path / "other.tar")
    for opened in (
        lambda: open_dataset(tar, where=DOGS, cache=cache),
        lambda: open_audit_dataset(str(tar), where=DOGS),
    ):
        with pytest.raises(ConfigError, match=r"other\.tar has no manifest beside it"):
            opened()


def test_extra_columns_are_columns(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "set")
    extra = [
        Column(name="mood", dtype=pa.string(), meaning="of a list", source="list"),
        Column(name="end", dtype=pa.int64(), meaning="of a list", source="list"),
    ]
    for path in [root / "manifest" / "train.parquet", *root.glob("train/*.parquet")]:
        table = read_table(path, CLIP_SCHEMA)
        numbers = [int(key[-5:]) for key in table.column("key").to_pylist()]
        table = table.append_column(
            extra[0].field, pa.array([["calm", None, "wild"][number % 3] for number in numbers])
        )
        write_table(table.append_column(extra[1].field, pa.array([-number for number in numbers])), path)
    where = "mood = 'wild' and \"end\" < -10"
    keys = [sample_key(number) for number in (11, 14, 17)]
    for source in (root, f"{root}/train/{{00000..00003}}.tar"):
        assert open_dataset(source, where=where).keys.to_pylist() == keys
        assert summarize(open_audit_dataset(str(source), where=where))["samples"] == 3
    with pytest.raises(ConfigError, match="no column 'moods'; did you mean mood"):
        open_dataset(root, where="moods = 'wild'")


def test_a_loader_is_not_resumed_with_another_condition(dataset: Path) -> None:
    def loader(where: str | None) -> Loader:
        return Loader(open_dataset(dataset, where=where), TrainView(), LoaderConfig(batch_size=1, num_workers=0))

    state = loader(TEXT).state_dict()
    loader(TEXT).load_state_dict(state)
    for other in (None, DOGS):
        with pytest.raises(ConfigError, match="same samples"):
            loader(other).load_state_dict(state)


def test_inspect_counts_the_clips_that_meet_a_condition(dataset: Path, remote: str) -> None:
    everything = summarize(open_audit_dataset(str(dataset)))
    for source in (str(dataset), f"{dataset}/manifest/train.parquet", remote, f"{dataset}/train/{{00000..00003}}.tar"):
        found = summarize(open_audit_dataset(source, where=TEXT))
        assert (found["where"], found["samples"], found["requested"]) == (TEXT, 3, 4)  # clip 9 failed
        assert found["member_bytes"]["flac"]["files"] == 3
        assert found["subset_id"] != everything["subset_id"]
    assert everything["where"] is None
    failures = summarize(open_audit_dataset(str(dataset), where="status != 'ok'"))
    assert (failures["samples"], failures["statuses"]) == (0, {"media_corrupt": 2})
    members = summarize(open_audit_dataset(str(dataset), where="len(members) > 0"))  # a column that is not kept
    assert members["samples"] == members["requested"] == 18
    with pytest.raises(ConfigError, match=r"true for none of the 20 clips of .*set$"):
        open_audit_dataset(str(dataset), where="key = 'x'")
    with pytest.raises(ConfigError, match=r"train\.parquet has no column 'sill'; did you mean still"):
        open_audit_dataset(str(dataset), where="sill")


def test_a_split_without_such_clips_is_not_shown(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "set")
    draw_dataset(root, 2, split="val", first=30, seconds=0.5, num_frames=1)
    assert list(summarize(open_audit_dataset(str(root)))["splits"]) == ["train", "val"]
    assert list(summarize(open_audit_dataset(str(root), where="split = 'val'"))["splits"]) == ["val"]


def test_two_datasets_are_compared_where_a_condition_is_true(dataset: Path) -> None:
    found = diff(
        open_audit_dataset(str(dataset), where=TEXT), open_audit_dataset(str(dataset / "manifest"), where=TEXT)
    )
    assert (found["where"], found["same"], found["samples"]["both"]) == (TEXT, True, 3)


def test_duckdb_is_imported_for_a_condition_alone(dataset: Path) -> None:
    program = (
        "import sys; from avdata.load import open_dataset; open_dataset(sys.argv[1]);"
        "assert 'duckdb' not in sys.modules;"
        "open_dataset(sys.argv[1], where='true'); assert 'duckdb' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program, dataset], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
