from avmodel.evaluate.result import Result, Score


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
    assert "; 1 window(s) of 3 s, the middle frame (crop); " in line(test, frames=1, fit="crop")
    assert "; 1 window(s) of 3 s, 10 frames (squash); " in line(test, frames=10, fit="squash")
