"""`avkit evaluate`: evaluate a checkpoint on a task."""

from pathlib import Path
from typing import Annotated

import typer

from avcli.download import DOWNLOAD, download_named
from avcli.help import OUTPUT, SETTINGS, defaulted, filled
from avcli.options import CONFIG, EXPLAIN, JSON, SET, TOML, configured, explained, given, print_json, require_explain
from avcli.pretrain import DATA_WHERE
from avmanifest.errors import ConfigError

EXAMPLES = """\b
Examples:
  avkit evaluate linear-probe runs/first --data data/vggsound
  avkit evaluate linear-probe runs/first --data data/vggsound --preset supplement --set seeds=0,1,2
  avkit evaluate linear-probe deepavfusion-vggsound --data data/vggsound --download
  avkit evaluate finetune runs/first --data data/vggsound --set data.mode=audio
  avkit evaluate finetune runs/first --data data/vggsound --set data.test_labels=vggsounder=vggsounder.csv
  avkit evaluate knn runs/first --data data/vggsound
  avkit evaluate retrieval runs/first --data data/vggsound --set gallery=5-per-class
  avkit evaluate separation runs/first --data data/vggsound-music --set mixtures=vggmusic_eval_ss.csv
  avkit evaluate localization runs/first --data data/vgg-ss
  avkit evaluate localization runs/first --data data/flickr --preset supervised --set boxes=Annotations
  avkit evaluate segmentation runs/first --data data/avsbench-s4 --set data.test_split=val
  avkit evaluate segmentation runs/first --data data/avsbench-avss --preset avss
  avkit evaluate embed runs/first --data data/vggsound --out features/vggsound
  torchrun --nproc-per-node 8 -m avcli.main evaluate finetune runs/first --data data/vggsound

After an interruption the same command continues: finished features and epochs are kept.
"""

_DATA, _CHECKPOINT = "Data", "The checkpoint"  # headings of the options


def evaluate(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="The task, as avkit tasks lists them: linear-probe, finetune, knn, retrieval, localization, "
            "segmentation, separation or embed.",
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run's folder, a checkpoint, a released .pth file, or a name of avkit models. Required, except "
            "with --explain.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="Test data: a prepared dataset's folder, or shard URLs. Repeatable. Required.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    train: Annotated[
        list[str] | None, defaulted("FOLDER|URL", "Training data. Repeatable.", "the train split of --data", _DATA)
    ] = None,
    out: Annotated[
        Path | None, defaulted("FOLDER", "Folder of the results.", "evaluations/TASK of the run", OUTPUT)
    ] = None,
    where: DATA_WHERE = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="A named preset of the task; avkit tasks TASK lists them.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    config: CONFIG = None,
    settings: SET = None,
    accept_unknown: Annotated[
        bool,
        typer.Option(
            "--accept-unknown",
            help="Evaluate a .pth file that is not one of the released ones.",
            rich_help_panel=_CHECKPOINT,
        ),
    ] = False,
    fetch: DOWNLOAD = False,
    explain: EXPLAIN = False,
    toml: TOML = False,
    as_json: JSON = False,
) -> None:
    """Score a pretrained model on a task, with trivial baselines."""
    from avmodel.evaluate.tasks import TASKS, task_config

    require_explain(explain=explain, toml=toml)
    asked = configured(task_config(task, preset), file=config, given=given(**{"data.where": where}), settings=settings)
    if explain:
        presets = filled(f"presets: {', '.join(TASKS[task].presets)}")
        before = "\n".join(filled(text) for text in (TASKS[task].summary, f"Headline: {TASKS[task].headline}."))
        typer.echo(explained(asked, toml=toml, before=before, after=presets))
        return
    if checkpoint is None:
        raise ConfigError("CHECKPOINT is missing: a run's folder, a checkpoint, or a name of avkit models")
    if not data:
        raise ConfigError("--data is missing: a prepared dataset's folder, or shard URLs")
    if fetch:
        download_named([checkpoint])
    from avdata.load.open import require_folders
    from avmodel.apply.refusals import require_trained

    require_trained(checkpoint, None)  # torch takes seconds to import
    require_folders([*data, *(train or ())])
    from avcli.evaluate_output import print_result
    from avcli.progress import EvaluationProgress
    from avmodel.distributed import is_first_process
    from avmodel.evaluate.run import evaluate as run

    test = data[0] if len(data) == 1 else data
    trained = train[0] if train and len(train) == 1 else train or None
    with EvaluationProgress() as progress:
        result, folder = run(
            task, asked, checkpoint, test, train=trained, out=out, accept_unknown=accept_unknown, progress=progress
        )
    if is_first_process():
        print_json(result.as_dict()) if as_json else print_result(result, folder)
