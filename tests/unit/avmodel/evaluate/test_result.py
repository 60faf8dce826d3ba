import numpy as np
import pytest

from avmodel.bootstrap import constants, resamples_of
from avmodel.evaluate.result import Result, Score, Scores, plain_score, tables


def rows(**shares: int) -> dict[str, Scores]:
    """Rows of 300 clips, each with so many in ten right: the same clips for the same number."""
    resamples = resamples_of(300)
    return {row: {"accuracy": resamples.share(np.arange(300) % 10 < right)} for row, right in shares.items()}


def result_of(**fields: object) -> Result:
    common = {
        "task": "linear probe",
        "headline": ("all", "accuracy"),
        "unit": "%",
        "mode": "audio-visual",
        "view": {"windows": 10, "window": "3 s"},
        "data": {"test": {"split": "vggsound/test", "subset_id": "0123", "samples": 310}},
        "checkpoint": {"sha256": "abc"},
        "settings": {},
    }
    return Result(**{**common, **fields})


def test_rows_are_compared_with_their_own_random_weights_and_with_trivial_baselines() -> None:
    trivial = {"chance": constants({"accuracy": 50.0}), "majority": rows(majority=5)["majority"]}
    result = result_of(**tables([rows(all=8, audio=7)], trivial, [rows(all=6, audio=7)]))
    differences = result.scores["all"]["accuracy"].differences
    assert list(differences) == ["random weights, all", "chance", "majority"]
    assert differences["random weights, all"].value == pytest.approx(20)
    assert result.scores["all"]["accuracy"].noise == ()
    assert result.scores["audio"]["accuracy"].noise == ("random weights, audio",)
    assert list(result.baselines) == ["chance", "majority", "random weights, all", "random weights, audio"]


def test_the_file_has_n_intervals_and_differences() -> None:
    result = result_of(**tables([rows(all=8)], {"chance": constants({"accuracy": 50.0})}, [rows(all=8)]))
    plain = result.as_dict()
    ours, drawn = plain["scores"]["all"]["accuracy"], plain["baselines"]["random weights, all"]["accuracy"]
    low, high = ours["interval"]
    assert (ours["mean"], ours["n"]) == (80, 300) and low < 80 < high
    assert drawn["interval"] == [low, high] and drawn["n"] == 300
    assert ours["differences"]["random weights, all"]["within_noise"] is True
    assert ours["differences"]["chance"] == {
        "mean": 30.0,
        "interval": [pytest.approx(low - 50), pytest.approx(high - 50)],
        "within_noise": False,
    }
    assert plain["baselines"]["chance"]["accuracy"] == {"mean": 50.0, "spread": 0.0, "values": [50.0]}


def test_a_score_without_an_interval_says_so_in_the_file() -> None:
    alone = resamples_of(1).mean(np.array([3.0]))
    result = result_of(**tables([{"all": {"accuracy": alone}}], {}, [{"all": {"accuracy": alone}}]))
    score = result.scores["all"]["accuracy"]
    assert plain_score(score)["interval"] is None and plain_score(score)["n"] == 1
    assert score.noise == ("random weights, all",)


def test_the_line_for_a_paper_has_the_interval_and_the_baseline() -> None:
    line = result_of(**tables([rows(all=8)], {}, [rows(all=6)])).line()
    assert line.startswith("linear probe, audio-visual: accuracy 80.0 % [75.")
    assert "n = 300; random weights, all: 60.0 [5" in line  # of the clips that were scored, not of all 310
    assert "difference +20.0 [+15" in line and "within noise" not in line
    same = result_of(**tables([rows(all=8)], {}, [rows(all=8)])).line()
    assert "difference +0.0 [-" in same and ", within noise; 10 windows of 3 s" in same


def test_seeds_give_a_spread_and_one_interval() -> None:
    result = result_of(**tables([rows(all=8), rows(all=6)], {}, []), seeds=(0, 1))
    score = result.scores["all"]["accuracy"]
    assert (score.mean, score.spread) == (70, pytest.approx(14.14, abs=0.01))
    low, high = score.interval or (0, 0)
    assert high - low > 2 * 9  # of clips alone it is 10.4
    assert "accuracy 70.0 ± 14.1 % [" in result.line() and "2 seeds" in result.line()


def test_the_line_for_a_paper_has_the_condition_beside_the_subset_id() -> None:
    test = {"split": "vggsound/test", "subset_id": "0123456789abcdef", "samples": 1234}

    def line(data: dict[str, object], **view: object) -> str:
        return Result(
            task="linear probe",
            headline=("fusion", "accuracy"),
            unit="%",
            scores={"fusion": {"accuracy": Score(mean=50.0, spread=0.0, values=(50.0,))}},
            baselines={},
            mode="audio-visual",
            view={"windows": 1, "window": "3 s", **view},
            data={"test": data},
            checkpoint={"sha256": "abc"},
            settings={},
        ).line()

    assert "vggsound/test, subset 0123456789abcdef, n = 1,234;" in line(test)
    assert "subset 0123456789abcdef where 'not still', n = 1,234;" in line(test | {"where": "not still"})
    assert "; 1 window of 3 s, the middle frame (crop); " in line(test, frames=1, fit="crop")
    assert "; 1 window of 3 s, 10 frames (squash); " in line(test, frames=10, fit="squash")
