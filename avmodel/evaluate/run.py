"""One evaluation, from checkpoint to results folder."""

from dataclasses import replace
from pathlib import Path

from avdata.draw.scores import save_pictures
from avmanifest.errors import ConfigError
from avmodel.distributed import join_world
from avmodel.evaluate.config import EvalConfig, Progress
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.loaded import require_modalities
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.places import EVALUATIONS
from avmodel.evaluate.result import RESULTS_FILE, Result, write_result
from avmodel.evaluate.tasks import TASKS
from avmodel.inputs import Source
from avmodel.precision import require_precision


def evaluate(
    task: str,
    config: EvalConfig,
    checkpoint: Path,
    test: Source,
    *,
    train: Source | None = None,
    out: Path | None = None,
    accept_unknown: bool = False,
    progress: Progress | None = None,
) -> tuple[Result, Path]:
    """Evaluate a checkpoint on a dataset, in one process or under torchrun.

    Args:
        task: A name of TASKS.
        config: The task's settings, such as `task_config(task)`.
        checkpoint: A run's folder, or a checkpoint.
        test: Folder of a prepared dataset, or shards.
        train: As `test`. None: the training split of the same folder.
        out: Folder of the result. None: evaluations/TASK in the folder of the run.
        accept_unknown: Accept weights that the checkpoint doesn't have.
        progress: Called with what is done, how much of it, and out of how much.

    Returns:
        The result and its folder.

    Raises:
        ConfigError: The checkpoint or data can't be evaluated: see `load_pretrained` and `open_splits`; or the task
            would not read `train`.
        AvkitError: As the task raises.
    """
    if train is not None and (why := config.reads_no_training_data()):
        raise ConfigError(f"training data is given (--train), but {why}")
    with join_world(config.device) as world:
        require_precision(config.precision, world.device)
        loaded = load_pretrained(checkpoint, world.device, accept_unknown=accept_unknown, weights=config.weights)
        require_modalities(loaded.model, config.data.mode)
        folder = out or loaded.folder / EVALUATIONS / task
        run = Evaluation(loaded=loaded, test=test, train=train, out=folder, world=world, progress=progress)
        result = TASKS[task].run(config, run)
        if world.is_main:
            pictures = save_pictures(result.extra, folder)
            files = (RESULTS_FILE, *(path.name for path in pictures), *result.files)
            result = replace(result, files=files, rule=TASKS[task].headline)
            write_result(result, folder)
        world.barrier()
    return result, folder
