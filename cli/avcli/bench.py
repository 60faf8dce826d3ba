"""`avkit bench`: speed and memory of avkit on this machine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from avcli.options import given, print_json

app = typer.Typer(no_args_is_help=True, help="Measure avkit on this machine.")

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


@app.callback()
def bench() -> None:
    """Measure avkit on this machine."""


@app.command("prepare")
def bench_prepare(
    videos: Annotated[Path | None, typer.Argument(help="A folder of videos; synthetic ones if not given.")] = None,
    clips: Annotated[int | None, typer.Option(help="Videos to measure speed on.")] = None,
    memory_clips: Annotated[list[int] | None, typer.Option(help="Numbers of clips to measure memory at.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Clips per second and core, compared with decoding alone and with ffmpeg; memory by number of clips."""
    from avdata.prepare.bench import PrepareBench, bench_prepare

    options = given(videos=videos, num_clips=clips, memory_clips=tuple(memory_clips) if memory_clips else None)
    found = bench_prepare(PrepareBench(**options))
    _show(found, as_json=as_json)


@app.command("sources")
def bench_sources(
    clips: Annotated[int | None, typer.Option(help="Synthetic clips to prepare.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds of a clip.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds; each measures every source.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Clips per second of prepare from a web server on loopback, and from a folder of the same clips."""
    from avdata.prepare.bench_sources import SourcesBench
    from avdata.prepare.bench_sources import bench_sources as measure

    found = measure(SourcesBench(**given(num_clips=clips, clip_seconds=seconds, rounds=rounds)))
    _show(found, as_json=as_json)


@app.command("loader")
def bench_loader(
    dataset: Annotated[Path | None, typer.Argument(help="A prepared dataset; a synthetic one if not given.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset.")] = None,
    samples: Annotated[int | None, typer.Option(help="Samples that each loader reads in a round.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds; each measures every loader.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of a batch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Samples per second on all cores, compared with webdataset and JPEG decoding alone; time by stage; memory."""
    from avdata.load.bench import LoaderBench, bench_loader

    options = given(dataset=dataset, split=split, samples=samples, rounds=rounds, batch_size=batch_size)
    found = bench_loader(LoaderBench(**options))
    _show(found, as_json=as_json)


@app.command("open")
def bench_open_command(
    samples: Annotated[int | None, typer.Option(help="Samples of the drawn dataset.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a sample.")] = None,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="Draw and open the index alone: quicker, with many samples.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
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


@app.command("step")
def bench_step_command(
    size: Annotated[str | None, typer.Option(help="tiny, small, base, large, or WIDTHxDEPTHxHEADS.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Samples of a step. Repeat for a sweep.")] = None,
    fusion: Annotated[
        list[str] | None,
        typer.Option(help="factorized, dense, dense-pairs, token, none; all if not given. Repeatable."),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            help="Families in place of fusions: all, deepavfusion, cavmae, crossmae, avsiam, avsep, ... Repeatable."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or bfloat16-residual.")] = None,
    compile_model: Annotated[
        str | None,
        typer.Option("--compile", help="torch.compile: none, blocks or whole.", show_default="blocks on CUDA"),
    ] = None,
    encode: Annotated[
        bool, typer.Option("--encode", help="Encode whole inputs without gradients in place of training steps.")
    ] = False,
    rounds: Annotated[int | None, typer.Option(help="Rounds; each measures every row.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of each row in a round.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Pretraining steps of all fusions or families: samples per second, memory, share of the matrix rate."""
    import json

    from avmodel.bench import StepBench, bench_step

    options = given(
        size=size,
        batches=tuple(batch) if batch else None,
        rows=tuple(fusion) if fusion else None,
        families=tuple(family) if family else None,
        device=device,
        precision=precision,
        compile=compile_model,
        encode=encode or None,
        rounds=rounds,
        steps=steps,
    )
    rows = bench_step(StepBench(**options))
    for line in map(json.dumps, rows) if as_json else step_table(rows):
        typer.echo(line)


@app.command("fusion")
def bench_fusion_command(
    size: Annotated[
        str | None, typer.Option(help="tiny, small, base, large, or WIDTHxDEPTHxHEADS.", show_default="base")
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            help="Samples that are encoded at once. Repeat for a sweep.", show_default="2, or 8 to 64 on CUDA"
        ),
    ] = None,
    fusion: Annotated[
        list[str] | None,
        typer.Option(help="factorized, dense, dense-pairs, token, none; all if not given. Repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    compile_model: Annotated[
        str | None, typer.Option("--compile", help="torch.compile: none or blocks.", show_default="blocks on CUDA")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds; each measures every row.")] = None,
    steps: Annotated[int | None, typer.Option(help="Encodings of each row in a round.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """DeepAVFusion's table 6: operations, time and memory of encoding whole inputs, by fusion, beside the paper's."""
    import json

    from avmodel.bench import StepBench, bench_fusion

    options = given(
        size=size,
        batches=tuple(batch) if batch else None,
        rows=tuple(fusion) if fusion else None,
        device=device,
        precision=precision,
        compile=compile_model,
        rounds=rounds,
        steps=steps,
    )
    rows = bench_fusion(StepBench(**options))
    for line in map(json.dumps, rows) if as_json else step_table(rows, FUSION_COLUMNS):
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
