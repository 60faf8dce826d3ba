"""`avkit inspect`: what is in a dataset, one of its samples, or a training run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from avcli.help import OUTPUT, defaulted
from avcli.options import JSON, WHERE, print_json
from avmanifest.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from avdata.audit.report import MapMaker

EXAMPLES: Final = """\b
What is inspected:
  DATASET  a prepared dataset, a manifest's parquet file or folder, tars, or a
           folder of tars; here or by URL
  RUN      the folder of a training run; several runs are compared

\b
Examples:
  avkit inspect data/vggsound
  avkit inspect data/vggsound --html report.html --lists lists
  avkit inspect data/vggsound --html report.html --embedding features/vggsound
  avkit inspect data/vggsound --serve
  avkit inspect data/vggsound --where "not still and rms_dbfs > -45 and 'dog barking' in labels"
  avkit inspect data/vggsound --failed
  avkit inspect data/vggsound --key vgg-0A1b2C3d4E5_000030 --png sample.png
  avkit inspect 's3://bucket/shards/{00000..00009}.tar' --json
  avkit inspect runs/first
  avkit inspect runs/first runs/second --html runs.html

See also avkit verify, avkit diff and avkit spectrogram. Exit code 4: verification found damage.
"""

_RUN_OPTIONS: Final = ("--json", "--html", "--png")

_OF_A_PAGE: Final = {
    "--samples": "the number of samples",
    "--thumbnails": "the number of thumbnails",
    "--seed": "the seed of the draw of samples",
    "--embedding": "the map of features",
}
_WITH_FAILED: Final = {"--failed", "--csv", "--json", "--where"}
_NOT_SERVED: Final = {"--html", "--verify", "--json", "--samples", "--thumbnails", "--seed"}

PNG_REMEDY: Final = "Give --png another path."


def inspect(
    sources: Annotated[list[str], typer.Argument(metavar="DATASET|RUN...", help="What to show: see below.")],
    as_json: JSON = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also read every byte, as avkit verify does.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page for a browser.", rich_help_panel=OUTPUT)
    ] = None,
    where: WHERE = None,
    key: Annotated[str | None, typer.Option("--key", metavar="KEY", help="Show this sample.")] = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", metavar="FILE", help="Write a picture of the sample or run.", rich_help_panel=OUTPUT),
    ] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option(
            "--lists",
            metavar="FOLDER",
            help="Folder of official lists, or RECIPE=FILE: test sets to find in the dataset. Repeatable.",
        ),
    ] = None,
    samples: Annotated[
        int | None, defaulted("SAMPLES", "With --html: samples with all frames and sound.", "24", OUTPUT)
    ] = None,
    thumbnails: Annotated[
        int | None, defaulted("SAMPLES", "With --html: samples with thumbnails.", "1000", OUTPUT)
    ] = None,
    seed: Annotated[int | None, defaulted("SEED", "With --html: seed of the draw of samples.", "0", OUTPUT)] = None,
    embedding: Annotated[
        Path | None,
        typer.Option(
            "--embedding",
            metavar="FOLDER|FILE",
            help="With --html or --serve: the --out of avkit evaluate embed, drawn as a map.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Serve the page with every clip to this machine, until Ctrl-C.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    port: Annotated[int | None, defaulted("PORT", "With --serve: the port of 127.0.0.1.", "a free one", OUTPUT)] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="List the clips that failed, each with its reason; with --json all of it.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="With --failed: as CSV.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Show the contents of a dataset, a sample or a training run, or compare training runs."""
    source = sources[0]
    if len(sources) > 1 and (other := next((one for one in sources if not _is_run(Path(one))), None)) is not None:
        raise ConfigError(
            f"{other}: not a training run. Several places are compared only if each is a training run; compare two "
            "datasets with avkit diff A B."
        )
    if _is_run(Path(source)):
        given = {
            "--verify": verify, "--where": where, "--key": key, "--lists": lists, "--samples": samples,
            "--thumbnails": thumbnails, "--seed": seed, "--embedding": embedding, "--serve": serve, "--port": port,
            "--failed": failed, "--csv": as_csv,
        }  # fmt: skip
        if strange := [name for name, value in given.items() if not (value is None or value is False or value == [])]:
            raise ConfigError(f"{strange[0]} does not apply to a training run, which takes {', '.join(_RUN_OPTIONS)}")
        if len(sources) > 1:
            _runs([Path(one) for one in sources], html, png, as_json=as_json)
        else:
            _run(Path(source), html, png, as_json=as_json)
        return
    _require_sense(
        {
            "--samples": samples, "--thumbnails": thumbnails, "--seed": seed, "--html": html, "--verify": verify,
            "--key": key, "--png": png, "--where": where, "--embedding": embedding, "--lists": lists or None,
            "--serve": serve, "--port": port, "--json": as_json, "--failed": failed, "--csv": as_csv,
        }
    )  # fmt: skip
    if failed:
        _failed(source, where, as_json=as_json, as_csv=as_csv)
    elif key is not None:
        _sample(source, key, png, as_json=as_json)
    elif serve:
        _serve(source, where, lists or [], embedding, port or 0)
    else:
        shown = {"num_samples": samples, "num_thumbnails": thumbnails, "seed": seed}
        how = {name: value for name, value in shown.items() if value is not None}
        _dataset(source, where, lists or [], html, how, embedding, as_json=as_json, verify=verify)


def _require_sense(options: dict[str, Any]) -> None:
    """Raise ConfigError for options that do not go together."""
    given = {name for name, value in options.items() if value is not None and value is not False}
    if "--failed" in given and (others := [name for name in options if name in given - _WITH_FAILED]):
        raise ConfigError(f"--failed lists failed clips: leave {', '.join(others)} out")
    if "--csv" in given and (not given >= {"--failed"} or "--json" in given):
        raise ConfigError("--csv is a format of --failed: give both, and not --json")
    if "--key" in given and (
        others := [name for name in options if name in given - {"--key", "--png", "--json", "--lists"}]
    ):
        raise ConfigError(f"--key shows one sample: leave {', '.join(others)} out")
    if "--png" in given and "--key" not in given:
        raise ConfigError("--png draws one sample: give --key KEY. For a page of the dataset give --html FILE.")
    if "--serve" in given and (others := [name for name in options if name in given & _NOT_SERVED]):
        raise ConfigError(f"--serve shows all clips on a page: leave {', '.join(others)} out")
    if "--port" in given and "--serve" not in given:
        raise ConfigError("--port is the port of --serve: give both")
    for name, what in _OF_A_PAGE.items():
        if name in given and not given & {"--html", "--serve"}:
            raise ConfigError(f"{name} is {what} on the page of --html: give both")
    if {"--verify", "--where"} <= given:
        raise ConfigError("--verify reads every byte of the dataset: leave --where out")


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "dataset.json").exists()


def _dataset(
    source: str,
    where: str | None,
    lists: list[str],
    html: Path | None,
    how: dict[str, int],
    embedding: Path | None,
    *,
    as_json: bool,
    verify: bool,
) -> None:
    from avcli.inspect_output import print_summary, print_verification, verifying
    from avdata.audit.dataset import open_audit_dataset
    from avdata.audit.summary import summarize

    dataset = open_audit_dataset(source, where=where)
    found: dict[str, Any] = {} if verify and not html else summarize(dataset, lists)
    verification = None
    if verify:
        with verifying(dataset) as on_shard:
            from avdata.audit.verify import verify as verify_dataset

            verification = verify_dataset(dataset, on_shard=on_shard)
    if html is not None:
        from avcli.inspect_output import drawing
        from avdata.audit.report import ReportConfig, report
        from avdata.draw.page import write_page

        config = ReportConfig(**how)
        with drawing() as on_sample:
            maps = _map_maker(embedding)
            write_page(html, report(dataset, found, verification, config, make_maps=maps, on_sample=on_sample))
    if as_json:
        print_json(found if verification is None else {**found, "verification": verification.as_dict()})
    else:
        if found:
            print_summary(found)
        if verification is not None:
            print_verification(verification)
        if html is not None:
            typer.echo(f"\n{html}: open it in a browser", err=True)
    if verification is not None and verification.faults:
        raise typer.Exit(ExitCode.DAMAGED)


def _failed(source: str, where: str | None, *, as_json: bool, as_csv: bool) -> None:
    from avcli.failed_output import print_failed, print_failed_csv, print_failed_json
    from avdata.audit.dataset import open_audit_dataset
    from avmanifest.failures import failed_clips

    dataset = open_audit_dataset(source, where=where)
    clips = list(failed_clips(split.table for split in dataset.splits.values()))
    num_requested = sum(len(split.table) for split in dataset.splits.values())
    if as_json:
        print_failed_json(clips, num_requested)
    elif as_csv:
        print_failed_csv(clips)
    else:
        print_failed(clips, num_requested, dataset.root)


def _map_maker(embedding: Path | None) -> "MapMaker | None":
    if embedding is None:
        return None
    from avmodel.evaluate.projection import make_maps

    return partial(make_maps, embedding)


def _serve(source: str, where: str | None, lists: list[str], embedding: Path | None, port: int) -> None:
    from avdata.audit.dataset import open_audit_dataset
    from avdata.audit.serve import ClipServer, PageServer
    from avdata.audit.summary import summarize

    dataset = open_audit_dataset(source, where=where)
    clips = ClipServer(dataset, summarize(dataset, lists), _map_maker(embedding))
    with PageServer(clips, port) as server, _ended_by_signals(server.shutdown):
        typer.echo(server.url)
        typer.echo("Open it in a browser of this machine. Ctrl-C ends it.", err=True)
        server.serve_forever()


@contextmanager
def _ended_by_signals(end: Callable[[], None]) -> Iterator[None]:
    """Within, SIGINT and SIGTERM call `end` in a thread of its own: Ctrl-C is how a server ends, and no error."""

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=end, daemon=True).start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sample(source: str, key: str, png: Path | None, *, as_json: bool) -> None:
    from avdata.audit.dataset import open_audit_dataset
    from avdata.audit.sample import read_sample, sample_json

    sample = read_sample(open_audit_dataset(source), key)
    if png is not None:
        from avdata.audit.picture import draw_sample
        from avdata.draw.figures import save_figure

        save_figure(draw_sample(sample), png, PNG_REMEDY)
    if as_json:
        print_json(sample_json(sample))
    elif png is None:
        from avcli.inspect_output import print_sample

        print_sample(sample)
    else:
        typer.echo(f"{png}: {key}", err=True)


def _run(folder: Path, html: Path | None, png: Path | None, *, as_json: bool) -> None:
    from avmodel.inspect_run import read_run, run_json, thinned, write_run_report

    run = read_run(folder)
    if html is not None:
        write_run_report(html, run)
    if png is not None:
        from avdata.draw.figures import draw_curves, save_figure

        curves = [(one.name, one.steps, one.values) for one in map(thinned, (*run.curves, *run.probes))]
        last = run.pictures[-1] if run.pictures else None
        save_figure(draw_curves(f"{run.name}   {run.summary}", curves, last), png, PNG_REMEDY)
    if as_json:
        print_json(run_json(run))
        return
    if html is None and png is None:
        from avcli.run_summary import print_run

        print_run(run)
    if png is not None:
        typer.echo(f"{png}: {run.name}", err=True)
    if html is not None:
        from avcli.end_card import print_end_card

        print_end_card(run, html)


def _runs(folders: list[Path], html: Path | None, png: Path | None, *, as_json: bool) -> None:
    from avmodel.inspect_runs import compare_runs, comparison_json, write_comparison

    if png is not None:
        raise ConfigError("--png draws one training run. For several runs give --html FILE.")
    comparison = compare_runs(folders)
    if html is not None:
        write_comparison(html, comparison)
        typer.echo(f"{html}: {', '.join(comparison.names)}", err=True)
    if as_json:
        print_json(comparison_json(comparison))
    elif html is None:
        from avcli.run_summary import print_comparison

        print_comparison(comparison)
