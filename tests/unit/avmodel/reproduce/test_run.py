"""Plans and their execution, by commands that only leave traces."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from avmanifest.errors import ConfigError, ExitCode
from avmodel.costs import count_parameters
from avmodel.presets import run_config
from avmodel.reproduce.paper import Paper, Source, paper_of, read_paper
from avmodel.reproduce.plan import PAPER, TINY, make_plan
from avmodel.reproduce.report import escape_latex, escape_markdown, make_reports, number_of, write_report
from avmodel.reproduce.run import alone, run_plan

CONTENT = {
    "title": "A paper",
    "citation": "A.",
    "data": {"a": {"recipe": "vggsound"}, "b": {"recipe": "audioset"}},
    "models": {"m": {"data": ["a", "b"], "preset": "deepavfusion"}, "n": {"data": ["b"], "preset": "demo"}},
    "evaluations": {"near": {"task": "knn", "data": "a", "train": "b"}},
    "tables": [
        {
            "number": "1",
            "title": "Things & others",
            "columns": [{"name": "A_1", "unit": "%", "evaluate": "near"}],
            "rows": [
                {"name": "m|x", "model": "m", "paper": [50.0]},
                {"name": "n", "model": "n", "paper": [40.5], "score": "all", "metric": "accuracy"},
                {"name": "far", "paper": [1.0], "cannot": "Nobody has it."},
            ],
        }
    ],
}
RESULT = {
    "headline": {"row": "fusion", "metric": "map"},
    "scores": {
        "fusion": {"map": {"mean": 41.257, "spread": 0.5, "values": [41.0, 41.5], "interval": [40.0, 42.5]}},
        "all": {"accuracy": {"mean": 12.0, "spread": 0.0, "values": [12.0]}},
    },
    "baselines": {},
    "data": {"test": {"samples": 1234}},
    "line": "a line",
}


class Traces:
    """Executes commands by noting them; one whose words hold `fails` ends as asked."""

    def __init__(self, fails: str = "", code: int = ExitCode.INCOMPLETE) -> None:
        self.fails, self.code = fails, code
        self.done: list[tuple[str, ...]] = []

    def __call__(self, words: Sequence[str], printed: Path) -> int:
        self.done.append(tuple(words))
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        if words[0] == "pretrain":
            (out / "config.json").write_text("{}")
        if words[0] == "evaluate":
            (out / "results.json").write_text(json.dumps(RESULT))
        return self.code if self.fails and self.fails in words else ExitCode.DONE


def paper() -> Paper:
    return paper_of("x", CONTENT, "x.toml")


def silent(text: str) -> None:
    """Say nothing."""


def test_commands_come_in_order_each_once(tmp_path: Path) -> None:
    plan = make_plan(paper(), paper().tables, TINY, tmp_path)
    assert [step.name for step in plan.steps] == [
        "prepare/drawn", "pretrain/m", "evaluate/m/near", "pretrain/n", "evaluate/n/near",
    ]  # fmt: skip
    words = {step.name: step.words for step in plan.steps}
    assert words["pretrain/m"][:4] == ("pretrain", "deepavfusion", "--data", str(tmp_path / "data" / "drawn"))
    assert words["pretrain/m"].count("--data") == 1
    assert "model.size=32x12x4" in words["pretrain/m"]
    assert "random_weights=false" in words["evaluate/n/near"]
    assert plan.missing == ()


def test_at_the_papers_scale_commands_have_the_presets_alone(tmp_path: Path) -> None:
    plan = make_plan(paper(), paper().tables, PAPER, tmp_path, {"a": "s3://bucket/a", "b": "local:videos"})
    words = {step.name: step.words for step in plan.steps}
    made = str(tmp_path / "x" / "data" / "b")
    assert words["prepare/b"] == ("prepare", "audioset", "--source", "local:videos", "--out", made)
    run = str(tmp_path / "x" / "runs" / "m")
    assert words["pretrain/m"] == (
        "pretrain", "deepavfusion", "--data", "s3://bucket/a", "--data", made, "--out", run,
    )  # fmt: skip
    out = f"{run}/evaluations/near"
    assert words["evaluate/m/near"] == (
        "evaluate", "knn", run, "--data", "s3://bucket/a", "--train", made, "--out", out,
    )  # fmt: skip


def test_all_that_is_missing_is_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(paper(), paper().tables, PAPER, tmp_path, {"a": str(tmp_path / "nowhere")})
    execute = Traces()
    with pytest.raises(ConfigError) as refused:
        run_plan(plan, execute, silent)
    message = str(refused.value)
    assert "x at the scale paper lacks:" in message
    assert f"--data a={tmp_path / 'nowhere'}: no prepared dataset is there" in message
    assert "--data b=PATH: the folder of the dataset that `avkit prepare audioset --source ... --out PATH`" in message
    assert "weights/mae_pretrain_vit_base.pth: no such file" in message
    assert execute.done == []
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("scale", "data", "message"),
    [
        ("huge", {}, "unknown scale 'huge'; known: tiny, paper"),
        (TINY, {"a": "data/a"}, "--data: the scale tiny draws its videos"),
        (PAPER, {"c": "data/c"}, "--data c: not a dataset of x; known: a, b"),
    ],
)
def test_what_a_scale_does_not_take_is_refused(scale: str, data: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(paper(), paper().tables, scale, tmp_path, data)


def test_what_is_done_is_not_run_again_and_a_pretraining_resumes(tmp_path: Path) -> None:
    plan = make_plan(paper(), paper().tables, TINY, tmp_path)
    first = Traces(fails="demo")
    assert run_plan(plan, first, silent) == ExitCode.INCOMPLETE
    assert [words[0] for words in first.done] == ["prepare", "pretrain", "evaluate", "pretrain"]
    assert all("--resume" not in words for words in first.done)
    said: list[str] = []
    second = Traces()
    assert run_plan(plan, second, said.append) == ExitCode.DONE
    assert [words[0] for words in second.done] == ["pretrain", "evaluate"]
    assert second.done[0][-1] == "--resume"
    assert said[0].startswith("[1/2] avkit pretrain demo --data ")
    third = Traces()
    assert run_plan(plan, third, silent) == ExitCode.DONE
    assert third.done == []


def test_a_result_of_another_command_is_refused(tmp_path: Path) -> None:
    plan = make_plan(paper(), paper().tables, TINY, tmp_path)
    run_plan(plan, Traces(), silent)
    mark = tmp_path / "x" / "done" / "pretrain.n.json"
    mark.write_text(mark.read_text().replace("steps=2", "steps=9"))
    with pytest.raises(ConfigError, match=r"runs/n: was made by another command than `avkit pretrain demo"):
        run_plan(plan, Traces(), silent)
    mark.write_text("[")
    with pytest.raises(ConfigError, match=r"not valid JSON.*Remove the file to run the command again"):
        run_plan(plan, Traces(), silent)


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    plan = make_plan(paper(), paper().tables, TINY, tmp_path)
    with alone(plan.folder), pytest.raises(ConfigError, match="another process works there"):
        run_plan(plan, Traces(), silent)
    assert run_plan(plan, Traces(), silent) == ExitCode.DONE


def test_the_lock_is_held_by_a_command_that_outlives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "from pathlib import Path\n"
        "from avmodel.reproduce.run import alone\n"
        "with alone(Path(sys.argv[1])):\n"
        "    subprocess.Popen([sys.executable, '-c', 'print(1, flush=True); input()'], close_fds=False)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as killed:
        assert killed.stdin is not None
        assert killed.stdout is not None
        assert killed.wait() == -signal.SIGKILL
        assert killed.stdout.readline() == b"1\n"  # of the command, which waits for its input
        with pytest.raises(ConfigError, match="another process works there"), alone(tmp_path):
            pass
        killed.stdin.close()
        assert killed.stdout.read() == b""  # when the command has ended
    with alone(tmp_path):
        pass


def test_a_table_has_the_papers_numbers_and_ours(tmp_path: Path) -> None:
    plan = make_plan(paper(), paper().tables, TINY, tmp_path)
    [before] = make_reports(plan)
    assert "| m\\|x | 50 | - |" in before.markdown()
    assert "- m\\|x; n: not run yet" in before.markdown()
    run_plan(plan, Traces(), silent)
    [report] = make_reports(plan)
    text = report.markdown()
    assert "# A paper, table 1: Things & others" in text
    assert "| | A\\_1 (%), paper | here |" in text
    assert "| m\\|x | 50 | 41.26 ± 0.50 \\[40.00, 42.50\\] (n = 1,234) |" in text
    assert "| n | 40.5 | 12 (n = 1,234) |" in text
    assert "| far | 1 | - |" in text
    assert "- far: Nobody has it." in text
    assert "- m\\|x: a line" in text
    latex = report.latex()
    assert r"\multicolumn{2}{c}{A\_1 (\%)}" in latex
    assert r"m\textbar{}x & 50 & 41.26 $\pm$ 0.50 [40.00, 42.50] (n = 1,234) \\" in latex
    paths = write_report(report, plan.folder)
    assert [path.name for path in paths] == ["table-1.md", "table-1.tex"]
    assert paths[0].read_text() == text
    assert paths[1].read_text() == latex


def test_a_score_that_the_result_lacks_is_named(tmp_path: Path) -> None:
    content = json.loads(json.dumps(CONTENT))
    content["tables"][0]["columns"][0]["metric"] = "sdr"
    lacking = paper_of("x", content, "x.toml")
    plan = make_plan(lacking, lacking.tables, TINY, tmp_path)
    run_plan(plan, Traces(), silent)
    with pytest.raises(ConfigError, match=r"no 'sdr' of 'fusion' in its scores; known: fusion: map, all: accuracy"):
        make_reports(plan)


def test_measures_settings_and_benchmarks_are_read(tmp_path: Path) -> None:
    content = json.loads(json.dumps(CONTENT)) | {"benches": {"speed": {"command": ["step"]}}}
    content["tables"][0]["columns"] = [
        {"name": "hours", "measure": "hours"},
        {"name": "memory", "measure": "memory_gb"},
        {"name": "rate", "measure": "samples_per_s"},
        {"name": "parameters", "measure": "parameters_m"},
        {"name": "epochs", "preset": "pretrain cavmae", "setting": "epochs"},
        {"name": "from", "preset": "finetune cav-mae", "setting": "optim.drops", "times": "epochs"},
        {"name": "speed", "bench": "speed", "line": "fusion=none", "field": "samples_per_s"},
    ]
    content["tables"][0]["rows"] = [{"name": "n", "model": "n", "paper": [1.0] * 7}]
    own = paper_of("x", content, "x.toml")
    plan = make_plan(own, own.tables, TINY, tmp_path)
    assert [step.name for step in plan.steps] == ["prepare/drawn", "pretrain/n", "bench/speed"]
    assert plan.steps[-1].words == ("bench", "step", "--json")
    assert plan.steps[-1].is_printed
    run = tmp_path / "x" / "runs" / "n"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"batch_size": 36}))
    lines = [{"step": n, "samples_per_s": 0.01 * n, "peak_memory_mb": 500.0 * n} for n in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan.steps[-1].out.parent.mkdir(parents=True)
    plan.steps[-1].out.write_text('{"fusion": "all", "samples_per_s": 1}\n{"fusion": "none", "samples_per_s": 7.5}\n')
    [report] = make_reports(plan)
    [(_, cells)] = report.rows
    values = [cell.ours.value for cell in cells if cell.ours]
    parameters = count_parameters(run_config("demo").model) / 1e6
    assert values == pytest.approx([36 * (100 + 50 + 100 / 3) / 3600, 1.5, 0.02, parameters, 25.0, 2.0, 7.5])


def test_names_are_escaped() -> None:
    assert escape_markdown("a|b*c_d\n`e` <f>") == r"a\|b\*c\_d \`e\` \<f\>"
    assert (
        escape_latex(r"50% & \x_{1}^2~$#")
        == r"50\% \& \textbackslash{}x\_\{1\}\textasciicircum{}2\textasciitilde{}\$\#"
    )


def test_a_real_papers_rows_need_no_more_than_they_name(tmp_path: Path) -> None:
    found = read_paper("deepavfusion")
    plan = make_plan(found, found.chosen(["5"], ["late fusion"]), TINY, tmp_path)
    assert [step.name for step in plan.steps] == [
        "prepare/drawn",
        "pretrain/deepavfusion-late",
        "evaluate/deepavfusion-late/vggsound-probe",
        "evaluate/deepavfusion-late/separation-vggsound-music",
        "evaluate/deepavfusion-late/avss",
    ]


def test_a_number_says_its_own_n_and_what_it_is_within_noise_of() -> None:
    """`n` of the score, not of the test: clips without a label are not scored."""
    noise = {"mean": 1.0, "interval": [-1.0, 3.0], "within_noise": True}
    score = {"mean": 50.0, "spread": 0.0, "values": [50.0], "n": 1200, "interval": [48.0, 52.0]}
    score["differences"] = {"random weights, all": noise, "chance": noise | {"within_noise": False}}
    number = number_of(RESULT | {"scores": {"all": {"map": score}}}, Source(score="all", metric="map"), Path("x"))
    assert str(number) == "50 [48.00, 52.00] (n = 1,200), within noise of random weights, all"
