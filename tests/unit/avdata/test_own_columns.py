"""A flag and a column of a dataset's own, each one `Column`: everything that speaks of columns has it from there."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from avcli.inspect_output import print_diff, print_summary
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.diff import diff
from avdata.audit.report import ReportConfig, report
from avdata.audit.sample import read_sample, sample_json
from avdata.audit.summary import summarize
from avdata.audit.verify import verify
from avdata.load import open_dataset
from avdata.prepare.card import json_features, write_catalog
from avdata.prepare.catalog import coverage
from avmanifest.columns import CLIP_COLUMNS, Column
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from tests.shards import draw_dataset, sample_key
from tests.videos import SMALL

PACKAGES = ("avdata", "avkit", "avmodel", "cli", "manifests")
FLAG = Column(name="black", dtype=pa.bool_(), meaning="<no> picture", flag=True, in_json=True, source="step black")
SCORE = Column(
    name="score", dtype=pa.float64(), meaning="of a model", title="Score", unit="points", in_json=True, source="list"
)
BLACK = (1, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(
        tmp_path_factory.mktemp("own") / "out",
        num_samples=7,
        shard_size=4,
        failed=[2],
        columns=(FLAG, SCORE),
        flags=lambda sample: {"black": sample in BLACK, "score": sample / 2, "still": sample == 0},
    )


def test_inspect_counts_the_flag_under_its_own_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = summarize(open_audit_dataset(str(root)))
    assert found["splits"]["train"]["flags"] == {"silent": 0, "still": 1, "short": 0, "black": 2}
    assert found["flagged"]["black"]["clips"] == 2
    assert found["splits"]["train"]["measured"]["score"][-1] == 3.0
    assert sum(found["histograms"]["score"]["counts"]) == 6
    print_summary(found)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("flags")
    assert [line.split() for line in lines[start + 1 :][:4]] == [
        ["train", "such", "as"],
        ["still:", "nothing", "moves", "1", "train/clip-00000"],
        ["black:", "<no>", "picture", "2", "train/clip-00001,", "train/clip-00004"],
        ["none:", "silent,", "short"],
    ]
    assert any(line.split()[:3] == ["score", "float64", "list"] for line in lines)


def test_the_page_names_the_flag_and_shows_samples_that_have_it(root: Path) -> None:
    dataset = open_audit_dataset(str(root))
    page = report(dataset, summarize(dataset), None, ReportConfig(num_samples=4))
    assert "Black: &lt;no&gt; picture" in page
    assert "Score (points)" in page
    assert "score 0.5" in page
    assert '"title":"Score","unit":"points"' in page
    sample = read_sample(dataset, sample_key(1))
    assert sample.flags == ["black"]
    assert sample_json(sample)["score"] == 0.5


def test_the_loader_leaves_flagged_samples_out(root: Path) -> None:
    kept = open_dataset(root, exclude=["black"]).keys.to_pylist()
    assert kept == [sample_key(sample) for sample in range(7) if sample not in (2, *BLACK)]
    tars = [str(path) for path in sorted((root / "train").glob("*.tar"))]
    assert open_dataset(tars, exclude=["black", "still"]).keys.to_pylist() == kept[1:]
    with pytest.raises(ConfigError, match=r"\['blak'\]; known: silent, still, short, black"):
        open_dataset(root, exclude=["blak"])


def test_card_and_croissant_declare_both(root: Path) -> None:
    layout = Layout(root)
    write_catalog(layout, load_recipe("vggsound"), SMALL, coverage(layout))
    text = layout.card.read_text()
    assert "| `black` | flag | step black | &lt;no&gt; picture |" in text
    assert yaml.safe_load(text.split("---\n")[1])
    fields = {field["name"]: field for field in json.loads(layout.croissant.read_text())["recordSet"][0]["field"]}
    assert fields["black"]["dataType"] == "sc:Boolean"
    assert fields["score"]["dataType"] == "sc:Float"
    features = json_features((*CLIP_COLUMNS, FLAG, SCORE))
    assert {"name": "black", "dtype": "bool"} in features
    assert {"name": "score", "dtype": "float64"} in features


def test_diff_names_the_columns_and_counts_the_flags_that_differ(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = draw_dataset(
        tmp_path / "out", num_samples=7, shard_size=4, failed=[2], flags=lambda sample: {"still": sample == 1}
    )
    found = diff(open_audit_dataset(str(root)), open_audit_dataset(str(other)))
    assert found["columns"] == {"only_a": ["black", "score"], "only_b": []}
    assert found["changed"]["still"]["clips"] == 2
    assert "black" not in found["changed"]
    assert found["same"]
    print_diff(found)
    assert "columns of A alone\nblack, score" in capsys.readouterr().out


def test_a_dataset_with_columns_of_its_own_is_whole(root: Path) -> None:
    assert verify(open_audit_dataset(str(root))).faults == []


def test_only_the_table_and_what_measures_them_name_the_flags() -> None:
    names = [f'"{column.name}"' for column in CLIP_COLUMNS if column.flag]
    files = [path for package in PACKAGES for path in Path(package).rglob("*.py")]
    assert len(files) > 200
    naming = {path.name for path in files if all(name in path.read_text() for name in names)}
    assert naming == {"columns.py", "pipeline.py"}
