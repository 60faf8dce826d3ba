"""`avkit inspect`: what is in a dataset, and whether it is whole; a sample, a spectrogram, a difference, a run."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from avcli.options import print_json

EXAMPLES: Final = """\b
What is inspected:
  DATASET             a prepared dataset, a manifest's parquet file or folder, tars, a folder of tars; local or remote
  RUN                 the folder of a training run
  spectrogram FILE    the log-mel of a video or audio file, made as prepare makes it
  diff A B            two datasets: what they share and where they differ

\b
Examples:
  avkit inspect data/vggsound
  avkit inspect data/vggsound --verify deep
  avkit inspect data/vggsound --html report.html --lists lists
  avkit inspect data/vggsound --key vgg-0A1b2C3d4E5_000030 --png sample.png
  avkit inspect 's3://bucket/shards/{00000..00009}.tar' --json
  avkit inspect spectrogram clip.mp4 --mel released --png mel.png
  avkit inspect diff data/mine data/theirs
  avkit inspect runs/first

Exit code 4: verification found damage.
"""

_MODES: Final[dict[str, tuple[str, ...]]] = {
    "dataset": ("--json", "--verify", "--repair", "--html", "--key", "--png", "--lists"),
    "run": ("--json", "--html", "--png"),
    "spectrogram": ("--json", "--png", "--mel"),
    "diff": ("--json",),
}
"""The options that each thing takes."""

_PNG_REMEDY: Final = "Give --png another path."


def inspect(
    what: Annotated[
        list[str], typer.Argument(metavar="DATASET | RUN | spectrogram FILE | diff A B", help="See below.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte; `--verify deep` decodes every member, too.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --verify: put bad shards away, so that prepare makes them again.")
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="One page for a browser.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="KEY", help="Show this sample.")] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Draw into a picture.")] = None,
    mel: Annotated[str | None, typer.Option("--mel", help="spectrogram: paper, released or kaldi.")] = None,
    lists: Annotated[
        list[str] | None,
        typer.Option("--lists", help="Folder of official lists, or RECIPE=FILE: test sets to find in the dataset."),
    ] = None,
    samples: Annotated[int | None, typer.Option("--samples", help="With --html: samples to show.")] = None,
) -> None:
    """What a dataset holds, and whether it is whole."""
    from avmanifest.errors import ConfigError

    words = list(what)
    deep = verify and "deep" in words and len(words) > 1
    if deep:
        words.remove("deep")
    given = {
        "--json": as_json, "--verify": verify, "--repair": repair, "--html": html, "--key": key, "--png": png,
        "--mel": mel, "--lists": lists, "--samples": samples,
    }  # fmt: skip
    mode, files = _mode(words)
    known = (*_MODES[mode], *(("--samples",) if html and mode == "dataset" else ()))
    if strange := [name for name, value in given.items() if value not in (None, False, []) and name not in known]:
        raise ConfigError(f"{strange[0]} is not for inspecting a {mode}, which takes {', '.join(_MODES[mode])}")
    if mode == "spectrogram":
        _spectrogram(Path(files[0]), mel, png, as_json=as_json)
    elif mode == "diff":
        _diff(files[0], files[1], as_json=as_json)
    elif mode == "run":
        _run(Path(files[0]), html, png, as_json=as_json)
    elif key is not None:
        if verify or repair or html:
            raise ConfigError("--key shows one sample: leave --verify, --repair and --html out")
        _sample(files[0], key, png, as_json=as_json)
    else:
        if png is not None:
            raise ConfigError(
                "--png draws one sample: name it with --key KEY. --html FILE makes a page of the dataset."
            )
        if repair and not verify:
            raise ConfigError("--repair puts away what --verify finds: give both")
        _dataset(files[0], lists or [], html, samples, as_json=as_json, verify=verify, deep=deep, repair=repair)


def _mode(words: list[str]) -> tuple[str, list[str]]:
    """What is to be inspected, and its files."""
    from avmanifest.errors import ConfigError

    counts = {"spectrogram": 1, "diff": 2}
    if words[0] in counts and len(words) > 1:
        mode, files = words[0], words[1:]
        if len(files) != counts[mode]:
            raise ConfigError(f"inspect {mode} takes {counts[mode]} file names, not {len(files)}: {', '.join(files)}")
        return mode, files
    if len(words) > 1:
        raise ConfigError(f"one dataset at a time: {', '.join(words)}. Two are compared by `avkit inspect diff A B`.")
    folder = Path(words[0])
    is_run = (folder / "config.json").is_file() and not (folder / "dataset.json").exists()
    return ("run" if is_run else "dataset"), words


def _dataset(
    source: str,
    lists: list[str],
    html: Path | None,
    samples: int | None,
    *,
    as_json: bool,
    verify: bool,
    deep: bool,
    repair: bool,
) -> None:
    from avcli.inspect_output import print_repair, print_summary, print_verification, verifying
    from avdata.audit.opened import open_audited
    from avdata.audit.summary import summarize

    opened = open_audited(source)
    found: dict[str, Any] = {} if verify and not html else summarize(opened, lists)
    verification = None
    if verify:
        with verifying(opened) as on_shard:
            from avdata.audit.verify import verify as verify_dataset

            verification = verify_dataset(opened, deep=deep, on_shard=on_shard)
    put_away = []
    if repair and verification is not None and verification.faults:
        from avdata.audit.repair import repair as put_away_bad_shards

        put_away = put_away_bad_shards(opened, verification.faults)
    if html is not None:
        from avdata.audit.report import ReportConfig, write_report

        config = ReportConfig() if samples is None else ReportConfig(num_samples=samples)
        write_report(html, opened, found, verification, config)
    if as_json:
        extra = {} if verification is None else {"verification": verification.as_dict()}
        moved = {"quarantined": [str(folder) for folder in put_away]} if repair else {}
        print_json({**found, **extra, **moved})
    else:
        if found:
            print_summary(found)
        if verification is not None:
            print_verification(verification)
        if repair:
            print_repair(put_away)
        if html is not None:
            typer.echo(f"\n{html}: open it in a browser", err=True)
    if verification is not None and verification.faults:
        raise typer.Exit(4)


def _sample(source: str, key: str, png: Path | None, *, as_json: bool) -> None:
    from avdata.audit.opened import open_audited
    from avdata.audit.sample import read_sample, sample_json

    sample = read_sample(open_audited(source), key)
    if png is not None:
        from avdata.audit.picture import draw_sample
        from avdata.draw.figures import save_figure

        save_figure(draw_sample(sample), png, _PNG_REMEDY)
    if as_json:
        print_json(sample_json(sample))
    elif png is None:
        from avcli.inspect_output import print_sample

        print_sample(sample)
    else:
        typer.echo(f"{png}: {key}", err=True)


def _spectrogram(path: Path, mel: str | None, png: Path | None, *, as_json: bool) -> None:
    from avcli.options import given
    from avdata.prepare.spectrogram import file_spectrogram

    found = file_spectrogram(path, **given(mel=mel))
    if png is not None:
        from avdata.draw.figures import draw_spectrogram, save_figure

        title = f"{path.name}   {found.profile.name}   {found.log_mel.shape[0]} x {found.log_mel.shape[1]}"
        save_figure(draw_spectrogram(found.log_mel, found.profile, title), png, _PNG_REMEDY)
    if as_json:
        print_json(
            {
                "file": str(path),
                "profile": found.profile.name,
                "shape": list(found.log_mel.shape),
                "seconds": found.seconds,
                "rms_dbfs": found.rms_dbfs,
                "min": float(found.log_mel.min()),
                "mean": float(found.log_mel.mean()),
                "max": float(found.log_mel.max()),
            }
        )
    elif png is None:
        from avcli.inspect_output import print_spectrogram

        print_spectrogram(path, found)
    else:
        typer.echo(f"{png}: {found.profile.name}, {found.log_mel.shape[0]} x {found.log_mel.shape[1]}", err=True)


def _diff(one: str, other: str, *, as_json: bool) -> None:
    from avdata.audit.diff import diff
    from avdata.audit.opened import open_audited

    found = diff(open_audited(one), open_audited(other))
    if as_json:
        print_json(found)
        return
    from avcli.inspect_output import print_diff

    print_diff(found)


def _run(folder: Path, html: Path | None, png: Path | None, *, as_json: bool) -> None:
    from avmodel.inspect_run import read_run, run_json, thinned, write_run_report

    run = read_run(folder)
    if html is not None:
        write_run_report(html, run)
    if png is not None:
        from avdata.draw.figures import draw_curves, save_figure

        curves = [(one.name, one.steps, one.values) for one in map(thinned, (*run.curves, *run.probes))]
        last = run.pictures[-1] if run.pictures else None
        save_figure(draw_curves(f"{run.name}   {run.summary}", curves, last), png, _PNG_REMEDY)
    if as_json:
        print_json(run_json(run))
        return
    if html is None and png is None:
        from avcli.run_summary import print_run

        print_run(run)
    for path in (html, png):
        if path is not None:
            typer.echo(f"{path}: {run.name}", err=True)
