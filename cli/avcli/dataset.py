"""`avkit dataset`: change a prepared dataset in place, or make another of its clips, without decoding media again."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from avcli.help import App, defaulted, examples
from avcli.options import JSON, print_json
from avmanifest.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from avdata.prepare.operations.derive import Derivation
    from avdata.prepare.operations.run import Done, Operation

EXAMPLES: Final = """\b
Examples:
  avkit dataset add-mel data/vggsound released
  avkit dataset add-step data/vggsound levels:max_silence_share=0.9
  avkit dataset remove data/vggsound --list takedown.txt
  avkit dataset reshard data/vggsound --shard-size 5000
  avkit dataset subset data/vggsound --where "not silent" --to data/loud
  avkit dataset merge data/vggsound data/audioset --to data/both

New shards are built beside the old ones and verified, then exchanged. After an interruption the same command goes on;
any other command that writes to the dataset finishes or undoes it. End training runs that read the dataset first: they
notice that its shards are others, and stop.
"""

app = App(
    help="Change a prepared dataset in place, or make another of its clips, without decoding media again.",
    epilog=EXAMPLES,
)


DATASET = Annotated[str, typer.Argument(help="Folder of the dataset.", metavar="DATASET")]
WORKERS = Annotated[
    int | None,
    defaulted("PROCESSES", "Processes that build shards.", "one a core", min=1),
]
TO = Annotated[str, typer.Option("--to", metavar="FOLDER", help="Folder of the new dataset, which does not exist yet.")]


@app.command("add-mel", epilog=examples("avkit dataset add-mel data/vggsound released"))
def add_mel(
    dataset: DATASET,
    profile: Annotated[str, typer.Argument(help="Log-mel profile: paper, released or kaldi.", metavar="PROFILE")],
    workers: WORKERS = None,
    as_json: JSON = False,
) -> None:
    """Add the log-mel of another profile to every sample, from its FLAC."""
    from avdata.prepare.operations.mel import AddMel

    _run(dataset, AddMel(profile), workers, as_json=as_json)


@app.command(
    "add-step",
    epilog=examples(
        "avkit dataset add-step data/vggsound cuts",
        "avkit dataset add-step data/vggsound levels:max_silence_share=0.9",
    ),
)
def add_step(
    dataset: DATASET,
    step: Annotated[
        str,
        typer.Argument(help="As for prepare --step: NAME[:setting=value,...] or package.module:Class.", metavar="STEP"),
    ],
    workers: WORKERS = None,
    as_json: JSON = False,
) -> None:
    """Run a step on every sample, from its frames and its FLAC: it adds columns or members, or drops the clip."""
    from avdata.prepare.operations.add_step import AddStep
    from avdata.prepare.steps.registry import load_steps

    (loaded,) = load_steps((step,))
    _run(dataset, AddStep(loaded), workers, as_json=as_json)


@app.command(epilog=examples("avkit dataset remove data/vggsound --list takedown.txt"))
def remove(
    dataset: DATASET,
    list_path: Annotated[
        Path, typer.Option("--list", metavar="FILE", help="Text file of keys or ids of videos, one a line.")
    ],
    workers: WORKERS = None,
    as_json: JSON = False,
) -> None:
    """Remove clips, as after a takedown: their rows stay with status `removed`, and no content of them is kept.

    Quarantined shards and fetched media are removed, too. A later prepare does not bring the clips back.
    """
    from avdata.prepare.operations.remove import Remove, read_ids

    _run(dataset, Remove(read_ids(list_path)), workers, as_json=as_json)


@app.command(epilog=examples("avkit dataset reshard data/vggsound --shard-size 5000"))
def reshard(
    dataset: DATASET,
    shard_size: Annotated[int, typer.Option(min=1, metavar="CLIPS", help="Clips of a shard.")],
    workers: WORKERS = None,
    as_json: JSON = False,
) -> None:
    """Give the clips to shards of another size. Keys, splits and order stay."""
    from avdata.prepare.operations.reshard import Reshard

    _run(dataset, Reshard(shard_size), workers, as_json=as_json)


@app.command(epilog=examples("avkit dataset migrate data/old"))
def migrate(dataset: DATASET, workers: WORKERS = None, as_json: JSON = False) -> None:
    """Convert a dataset that an earlier version of avkit prepared to the present format."""
    from avdata.prepare.operations.migrate import Migrate

    _run(dataset, Migrate(), workers, as_json=as_json)


@app.command(
    epilog=examples(
        'avkit dataset subset data/vggsound --where "not silent" --to data/loud',
        "avkit dataset subset data/vggsound --keys keys.txt --to data/chosen",
    )
)
def subset(
    dataset: DATASET,
    to: TO,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help='SQL condition on the manifest\'s columns, such as "not silent".'),
    ] = None,
    keys: Annotated[Path | None, typer.Option(metavar="FILE", help="Text file of keys, one a line.")] = None,
    shard_size: Annotated[int | None, defaulted("CLIPS", "Clips of a shard.", "as in DATASET", min=1)] = None,
    workers: WORKERS = None,
    as_json: JSON = False,
) -> None:
    """Make a new dataset of some clips: samples with the same bytes, in shards of their own.

    The condition is about all clips: failed ones that it selects keep their rows. Add `and status = 'ok'` for samples
    alone. DATASET does not change.
    """
    from avdata.prepare.operations.remove import read_ids
    from avdata.prepare.operations.subset import Subset

    chosen = Subset(where=where, keys=None if keys is None else read_ids(keys), shard_size=shard_size)
    _derive([dataset], to, chosen, workers, as_json=as_json)


@app.command(
    epilog=examples(
        "avkit dataset merge data/vggsound data/audioset --to data/both",
        "avkit dataset merge data/a data/b --prefix a- --prefix b- --to data/both",
    )
)
def merge(
    datasets: Annotated[list[str], typer.Argument(help="Folders of two or more datasets.", metavar="DATASET...")],
    to: TO,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Put before the keys of a dataset. Once for each dataset, in their order. Repeatable."
        ),
    ] = None,
    shard_size: Annotated[int | None, defaulted("CLIPS", "Clips of a shard.", "as in the first", min=1)] = None,
    workers: WORKERS = None,
    as_json: JSON = False,
) -> None:
    """Make one new dataset of several whose samples have the same settings. They do not change."""
    from avdata.prepare.operations.merge import Merge

    _derive(datasets, to, Merge(prefixes=tuple(prefix or ()), shard_size=shard_size), workers, as_json=as_json)


@app.command(epilog=examples("avkit dataset settle data/vggsound"))
def settle(dataset: DATASET) -> None:
    """Finish an operation that was stopped while it exchanged files, or undo one that was stopped before."""
    from avdata.prepare.operations.run import settle_dataset

    settle_dataset(dataset, lambda text: typer.echo(text, err=True))


def _run(dataset: str, operation: "Operation", workers: int | None, *, as_json: bool) -> None:
    from avdata.prepare.operations.run import run_operation

    _print(_told(partial(run_operation, dataset, operation), workers), "exchanged", as_json=as_json)


def _derive(sources: list[str], to: str, derivation: "Derivation", workers: int | None, *, as_json: bool) -> None:
    from avdata.prepare.operations.derive import derive_dataset

    _print(_told(partial(derive_dataset, sources, to, derivation), workers), "published", as_json=as_json)


def _told(work: "Callable[..., Done]", workers: int | None) -> "Done":
    """Do the work. What it says goes to stderr."""
    from rich.console import Console

    from avcli.progress import say
    from avdata.cores import usable_cores

    tell = partial(say, Console(stderr=True))
    return work(num_workers=workers or usable_cores(), observe=tell, note=tell)


def _print(done: "Done", end: str, *, as_json: bool) -> None:
    if as_json:
        print_json(done.as_dict())
        return
    if not done.changed:
        typer.echo(f"{done.root}: nothing to do")
        return
    typer.echo(
        f"{done.root}: {done.operation}: {counted(done.num_shards, 'shard')} with {counted(done.num_clips, 'clip')} "
        f"built, verified and {end}; {counted(done.bytes_written, 'byte')} written."
    )
