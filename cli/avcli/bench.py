"""`avkit bench`: speed and memory of avkit on this machine."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from avcli.help import OUTPUT, App, defaulted, examples
from avcli.options import JSON, given, print_json

EXAMPLES = """\b
Examples:
  avkit bench prepare my_videos
  avkit bench loader data/vggsound
  avkit bench step --size base --family cavmae --family avsiam
"""

app = App(help="Measure avkit on this machine.", epilog=EXAMPLES)


FAMILY_COLUMNS = (
    "parameters_m",
    "samples_per_s",
    "peak_memory_mb",
    "state_memory_mb",
    "flops_share",
    "gflop_per_sample",
    "speed_of_nomask",
    "memory_of_avsiam",
)
FUSION_COLUMNS = (
    "gflop_per_sample",
    "released_gflop",
    "samples_per_s",
    "ms_per_sample",
    "cpu_ms_per_sample",
    "peak_memory_mb",
    "extra_memory_mb",
    "speed_of_none",
    "paper_speed_of_none",
    "memory_of_none",
    "paper_memory_of_none",
)
STEP_COLUMNS = (
    "samples_per_s",
    "peak_memory_mb",
    "flops_share",
    "gflop_per_sample",
    "speed_of_none",
    "memory_of_none",
)


def _size(default: str) -> Any:
    return defaulted("SIZE", "Size of the models: tiny, small, base, large, or WIDTHxDEPTHxHEADS.", default)


def _batch(what: str, default: str) -> Any:
    return defaulted("SAMPLES", f"{what} Repeatable.", default)


def _precision(known: str) -> Any:
    return defaulted(f"[{known}]", "Precision of the forward pass.", "float32, or bfloat16 on CUDA")


def _compile(known: str) -> Any:
    help_text = "What torch.compile compiles."
    return typer.Option("--compile", metavar=f"[{known}]", help=help_text, show_default="none, or blocks on CUDA")


def _steps(what: str) -> Any:
    return defaulted("STEPS", f"{what} of each row in a round.", "1, or 10 on CUDA")


def _rounds(what: str, default: str) -> Any:
    return defaulted("ROUNDS", f"Rounds; each measures every {what}.", default)


STEP_ROUNDS = Annotated[int | None, _rounds("row", "3, or 5 on CUDA")]
FUSION = Annotated[
    list[str] | None,
    defaulted("[factorized|dense|dense-pairs|token|none]", "Fusions that are compared. Repeatable.", "all"),
]
DEVICE = Annotated[str | None, defaulted("DEVICE", "Where it runs: auto, cpu, cuda or cuda:1.", "auto")]
JSON_LINES = Annotated[bool, typer.Option("--json", help="Print a JSON object for each row.", rich_help_panel=OUTPUT)]


@app.callback()
def bench() -> None:
    """Measure avkit on this machine."""


@app.command("prepare", epilog=examples("avkit bench prepare", "avkit bench prepare my_videos --clips 32"))
def bench_prepare(
    videos: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="A folder of videos.", show_default="synthetic ones")
    ] = None,
    clips: Annotated[int | None, defaulted("CLIPS", "Videos to measure speed on.", "16")] = None,
    memory_clips: Annotated[
        list[int] | None, defaulted("CLIPS", "Clips of a run whose memory is measured. Repeatable.", "500,5000")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Clips per second and core, compared with decoding alone and with ffmpeg; memory by number of clips."""
    from avdata.prepare.bench import PrepareBench, bench_prepare

    options = given(videos=videos, num_clips=clips, memory_clips=tuple(memory_clips) if memory_clips else None)
    found = bench_prepare(PrepareBench(**options))
    _show(found, as_json=as_json)


@app.command("sources", epilog=examples("avkit bench sources --clips 100"))
def bench_sources(
    clips: Annotated[int | None, defaulted("CLIPS", "Synthetic clips to prepare.", "500")] = None,
    seconds: Annotated[float | None, defaulted("SECONDS", "Seconds of a clip.", "10.0")] = None,
    rounds: Annotated[int | None, _rounds("source", "3")] = None,
    as_json: JSON = False,
) -> None:
    """Clips per second of prepare from a web server on loopback, and from a folder of the same clips."""
    from avdata.prepare.bench_sources import SourcesBench
    from avdata.prepare.bench_sources import bench_sources as measure

    found = measure(SourcesBench(**given(num_clips=clips, clip_seconds=seconds, rounds=rounds)))
    _show(found, as_json=as_json)


@app.command("loader", epilog=examples("avkit bench loader", "avkit bench loader data/vggsound --batch-size 128"))
def bench_loader(
    dataset: Annotated[
        Path | None,
        typer.Argument(metavar="DATASET", help="Folder of a prepared dataset.", show_default="a synthetic one"),
    ] = None,
    split: Annotated[str | None, defaulted("SPLIT", "Split of the dataset.", "train")] = None,
    samples: Annotated[int | None, defaulted("SAMPLES", "Samples that each loader reads in a round.", "4096")] = None,
    rounds: Annotated[int | None, _rounds("loader", "5")] = None,
    batch_size: Annotated[int | None, defaulted("SAMPLES", "Samples of a batch.", "64")] = None,
    as_json: JSON = False,
) -> None:
    """Samples per second on all cores, compared with webdataset and JPEG decoding alone; time by stage; memory."""
    from avdata.load.bench import LoaderBench, bench_loader

    options = given(dataset=dataset, split=split, samples=samples, rounds=rounds, batch_size=batch_size)
    found = bench_loader(LoaderBench(**options))
    _show(found, as_json=as_json)


@app.command("open", epilog=examples("avkit bench open --samples 100000 --index-only"))
def bench_open_command(
    samples: Annotated[int | None, defaulted("SAMPLES", "Samples of the drawn dataset.", "2000000")] = None,
    frames: Annotated[int | None, defaulted("FRAMES", "Frames of a sample.", "4")] = None,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="Draw and open the index alone: quicker, with many samples.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Seconds and memory of opening a dataset: by its manifest and markers, and by its index."""
    from avdata.load.bench_open import OpenBench, bench_open

    _show(bench_open(OpenBench(**given(samples=samples, frames=frames), manifest=not index_only)), as_json=as_json)


def _show(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Print figures by name, or as JSON."""
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name:40} {value}")


@app.command(
    "step",
    epilog=examples(
        "avkit bench step",
        "avkit bench step --size base --batch 64 --batch 128 --device cuda",
        "avkit bench step --family all --json",
    ),
)
def bench_step_command(
    size: Annotated[str | None, _size("tiny, or base on CUDA")] = None,
    batch: Annotated[
        list[int] | None, _batch("Samples of a step.", "2, or 8 for families; 64, 128 and 256 on CUDA")
    ] = None,
    fusion: FUSION = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAMILY",
            help="Families in place of fusions: all, deepavfusion, cavmae, crossmae, avsiam, avsep, ... Repeatable.",
        ),
    ] = None,
    device: DEVICE = None,
    precision: Annotated[str | None, _precision("float32|bfloat16|bfloat16-residual")] = None,
    compile_model: Annotated[str | None, _compile("none|blocks|whole")] = None,
    encode: Annotated[
        bool, typer.Option("--encode", help="Encode whole inputs without gradients in place of training steps.")
    ] = False,
    rounds: STEP_ROUNDS = None,
    steps: Annotated[int | None, _steps("Steps")] = None,
    as_json: JSON_LINES = False,
) -> None:
    """Pretraining steps of all fusions or families: samples per second, memory, share of the matrix rate."""
    from avmodel.bench import StepBench, bench_step

    many = _tuples(batches=batch, rows=fusion, families=family)
    one = given(size=size, device=device, precision=precision, compile=compile_model, rounds=rounds, steps=steps)
    _print_rows(bench_step(StepBench(**one, **many, encode=encode)), as_json=as_json)


@app.command("fusion", epilog=examples("avkit bench fusion --size base --batch 8"))
def bench_fusion_command(
    size: Annotated[str | None, _size("base")] = None,
    batch: Annotated[list[int] | None, _batch("Samples that are encoded at once.", "2, or 8 to 64 on CUDA")] = None,
    fusion: FUSION = None,
    device: DEVICE = None,
    precision: Annotated[str | None, _precision("float32|bfloat16")] = None,
    compile_model: Annotated[str | None, _compile("none|blocks")] = None,
    rounds: STEP_ROUNDS = None,
    steps: Annotated[int | None, _steps("Encodings")] = None,
    as_json: JSON_LINES = False,
) -> None:
    """DeepAVFusion's table 6: operations, time and memory of encoding whole inputs, by fusion, beside the paper's."""
    from avmodel.bench import StepBench, bench_fusion

    many = _tuples(batches=batch, rows=fusion)
    one = given(size=size, device=device, precision=precision, compile=compile_model, rounds=rounds, steps=steps)
    _print_rows(bench_fusion(StepBench(**one, **many)), as_json=as_json, columns=FUSION_COLUMNS)


def _tuples(**options: list[Any] | None) -> dict[str, Any]:
    """The repeatable options that were given, as the settings take them."""
    return {name: tuple(values) for name, values in given(**options).items()}


def _print_rows(rows: Iterable[Mapping[str, Any]], *, as_json: bool, columns: Sequence[str] | None = None) -> None:
    """Print each row as soon as it is measured: a line of JSON, or of the table."""
    for line in map(json.dumps, rows) if as_json else step_table(rows, columns):
        typer.echo(line)


def step_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Iterator[str]:
    """The rows as lines of a table; `columns` None: those of families or of fusions."""
    for number, row in enumerate(rows):
        kind, usual, width = ("family", FAMILY_COLUMNS, 17) if "family" in row else ("fusion", STEP_COLUMNS, 12)
        names = columns or usual
        if number == 0:
            compiled = "" if row["compile"] == "none" else f", compiled: {row['compile']}"
            yield (
                f"{row['size']}, {row['precision']}{compiled} on {row['device']}, "
                f"{row['threads']} threads; matrix products: {row['matmul_tflops']:.3f} TFLOP/s; "
                f"medians of {len(row['ms_per_sample_by_round'])} rounds"
            )
            yield f"{kind:{width}}{'batch':>6}" + "".join(f"{name:>{_width(name)}}" for name in names)
        yield f"{row[kind]:{width}}{row['batch']:>6}" + "".join(
            f"{_figure(row, name):>{_width(name)}}" for name in names
        )


def _width(name: str) -> int:
    return max(18, len(name) + 2)


def _figure(row: Mapping[str, Any], name: str) -> str:
    """A figure of a row. One that the paper or its code doesn't have is a dash."""
    if row[name] is None:
        return "-" if name.startswith(("paper_", "released_")) else "out of memory"
    return f"{row[name]:.3f}"
