"""One evaluation, from checkpoint to results folder."""

from pathlib import Path

from avdata.draw.scores import save_pictures
from avmodel.distributed import join_world, require_precision
from avmodel.evaluate.config import EvalConfig, Progress
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.loaded import load_pretrained
from avmodel.evaluate.places import EVALUATIONS
from avmodel.evaluate.result import Result, write_result
from avmodel.evaluate.tasks import TASKS
from avmodel.inputs import Source


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
    """Evaluate a checkpoint on a dataset, alone or under torchrun; the result, and its folder.

    `test` is a prepared dataset's folder, or shards; so is `train`, whose default is the training split of the same
    folder. `out` defaults to evaluations/TASK in the folder of the run. Raises ConfigError for what can't be evaluated
    (see `load_pretrained`, `open_splits`), and the errors of the task.
    """
    with join_world(config.device) as world:
        require_precision(config.precision, world.device)
        loaded = load_pretrained(checkpoint, world.device, accept_unknown=accept_unknown)
        folder = out or loaded.folder / EVALUATIONS / task
        run = Evaluation(loaded=loaded, test=test, train=train, out=folder, world=world, progress=progress)
        result = TASKS[task].run(config, run)
        if world.is_main:
            save_pictures(result.extra, folder)
            write_result(result, folder)
        world.barrier()
    return result, folder
