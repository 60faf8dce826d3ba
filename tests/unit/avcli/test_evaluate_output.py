import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from avcli.evaluate_output import named_files, print_result
from avmodel.bootstrap import PERCENT, Sampled, constants, resamples_of
from avmodel.evaluate.result import Result, Scores, tables

METRICS = ("map", "auc", "d_prime", "hit")


def several(right: int) -> Scores:
    """Several metrics of 1,234 clips, so many in ten of which are right."""
    share = resamples_of(1234).share(np.arange(1234) % 10 < right)
    return dict.fromkeys(METRICS, share) | {"skipped_classes": Sampled(3.0)}


def result_of(metric: str, **fields: object) -> Result:
    common = {
        "task": "linear probe",
        "headline": ("all", metric),
        "unit": "%",
        "mode": "frozen, audio-visual",
        "view": {"windows": 1, "window": "3 s"},
        "data": {"test": {"split": "vggsound/test", "subset_id": "0123", "samples": 1234}},
        "checkpoint": {"sha256": "abc"},
        "settings": {},
        "files": ("results.json", "classes.png"),
        "rule": "the mean of the logits",
    }
    return Result(**{**common, **fields})


def printed(result: Result, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    print_result(result, Path("out"), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_every_score_of_the_tables_has_n_and_an_interval_at_any_width(width: int) -> None:
    found = tables([{"all": several(8), "audio": several(6)}], {}, [{"all": several(5), "audio": several(6)}])
    text = printed(result_of("map", **found), width)
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert max(map(len, rows)) <= width
    assert "…" not in "".join(rows)
    for name in ("all ", "audio ", "random weights, all ", "random weights, audio "):
        mine = [row for row in rows if row.startswith(f"│ {name}")]
        assert sum(row.count("[") for row in mine) == len(METRICS)
        assert all("1,234" in row for row in mine)
        assert sum(row.count("~") for row in mine) == (len(METRICS) if name == "audio " else 0)
        assert sum(row.count(" 3 ") for row in mine) == 1  # a count has no interval


def test_noise_is_said_in_words_and_the_headline_by_its_rule() -> None:
    found = tables(
        [{"all": several(8), "audio": several(6)}],
        {"chance": constants({"map": 60.0, "auc": 50.0})},
        [{"all": several(5), "audio": several(6)}],
    )
    text = printed(result_of("map", **found), 120)
    assert "headline: map of all; rule: the mean of the logits" in text
    assert "95 % intervals, by the bootstrap over clips" in text
    assert "map of all beside random weights, all: difference +29.9 [+27.6, +32.4]" in text
    assert "map of audio beside random weights, audio: difference +0.0 [" in text
    assert "within noise: the interval of the paired difference to a baseline contains 0; besides those above:" in text
    assert "  map of audio: chance" in text
    assert "  auc of audio: random weights, audio" in text
    assert text.endswith("in out: results.json, classes.png\n")


def test_without_baselines_nothing_is_called_noise() -> None:
    text = printed(result_of("map", **tables([{"all": several(8)}], {}, [])), 120)
    assert "noise" not in text and "~" not in text


def test_seeds_are_said() -> None:
    share = resamples_of(50).share(np.arange(50) % 2 == 0)
    found = tables([{"all": {"map": share}}, {"all": {"map": share}}], {}, [])
    assert "by the bootstrap over clips and seeds" in printed(result_of("map", seeds=(0, 1), **found), 120)
    one = resamples_of(50).mean(np.arange(50.0))._replace(bounds=PERCENT)
    text = printed(result_of("sdr", units="mixture", **tables([{"all": {"sdr": one}}], {}, [])), 120)
    assert "by the bootstrap over mixtures\n" in text


def test_a_task_without_scores_says_what_it_wrote() -> None:
    rows = {"image": constants({"samples": 15.0, "dimensions": 32.0})}
    files = ("results.json", *(f"embeddings/part-{n:05d}.parquet" for n in range(5)), "map.png")
    found = tables([rows], {}, [])
    result = result_of(
        "samples", headline=("image", "samples"), said="15 rows, a vector of image (32)", files=files, **found
    )
    text = printed(result, 80)
    assert text.startswith("linear probe, frozen, audio-visual: 15 rows, a vector of image (32)\n")
    assert "│" not in text and "headline" not in text
    assert "embeddings/part-00000.parquet to embeddings/part-00004.parquet (5 files), map.png" in text


def test_few_files_are_all_named() -> None:
    assert named_files(("results.json", "e/a", "e/b", "map.png")) == ["results.json", "e/a", "e/b", "map.png"]
