"""From where a run goes on: one checkpoint for all processes, and the state of optimizers and batches in it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from avmanifest.errors import AvkitError, CheckpointError, ConfigError
from avmodel.checkpoint import load_trainer_state
from avmodel.checkpoint_folder import newest_whole, place_of
from avmodel.distributed import World
from avmodel.nonfinite import SkippedSteps
from avmodel.sharding import own_part, share_of

T = TypeVar("T")

SKIPPED_STEPS = "skipped_steps"  # absent: none, as in states of earlier versions
LOSS_SCALE = "loss_scale"  # of runs in float16
AVERAGE = "weight_average"  # of runs with ema_decay: what ema.safetensors does not say
STATES = {"step": int, "optimizer": dict, "loader": dict}  # what every trainer state has


@runtime_checkable
class Stateful(Protocol):
    """A part of a training that knows where it is: its batches, for example."""

    def state_dict(self) -> dict[str, int | str]: ...
    def load_state_dict(self, values: Mapping[str, Any]) -> None: ...


def load_together(
    folder: Path,
    load: Callable[[Path], T],
    world: World,
    *,
    step: int | None = None,
    say: Callable[[str], object],
) -> tuple[Path, T] | None:
    """As `newest_whole`: process 0 chooses the checkpoint, and all processes load that one.

    Raises:
        ConfigError, CheckpointError: As `newest_whole`, on every process.
    """
    found: tuple[Path, T] | None = None
    failure: AvkitError | None = None
    if world.is_main:
        try:
            found = newest_whole(folder, load, step=step, say=say)
        except AvkitError as error:
            failure = error
    together(world, failure, folder)
    chosen_step, again = world.of_main(place_of(found[0]) if found else (-1, 0))
    if chosen_step < 0:
        return None
    if not world.is_main:
        name = f"step-{chosen_step:08d}" + (f"-{again}" if again > 1 else "")
        try:
            found = folder / name, load(folder / name)
        except AvkitError as error:
            failure = error
    together(world, failure, folder)
    return found


def together(world: World, failure: AvkitError | None, where: Path) -> None:
    """Raise a process's error on all processes; on the others a CheckpointError that points to it."""
    if world.any(failure is not None):
        raise failure or CheckpointError(f"{where}: refused by another process, which says why.")


def trainer_state(
    done: int, optimizers: Sequence[torch.optim.Optimizer], batches: Stateful, skipped: SkippedSteps, **more: Any
) -> dict[str, Any]:
    """What a checkpoint keeps beside the weights, for `restore`; `more` is the task's own."""
    first, *further = (optimizer.state_dict() for optimizer in optimizers)
    state = {"step": done, "optimizer": first, "loader": batches.state_dict(), **more}
    state |= {SKIPPED_STEPS: skipped.count} if skipped.count else {}
    return state | ({"further_optimizers": further} if further else {})


def restore(
    checkpoint: Path, optimizers: Sequence[torch.optim.Optimizer], batches: Stateful
) -> tuple[int, dict[str, Any]]:
    """Put optimizers and batches where they were.

    Args:
        checkpoint: The folder of one checkpoint.
        optimizers: As many as were saved, over the same parameters.
        batches: The loader of the same data.

    Returns:
        Steps that the checkpoint has done, and its whole state.

    Raises:
        CheckpointError: The state is damaged, or of another model.
        ConfigError: The batches are of other data, or in another order.
    """
    state = load_trainer_state(checkpoint)
    wrong = [name for name, kind in STATES.items() if not isinstance(state.get(name), kind)]
    if wrong or state["step"] != place_of(checkpoint)[0]:
        what = f"no {wrong[0]}" if wrong else f"step {state['step']}"
        raise CheckpointError(f"{checkpoint}: its trainer state has {what}: damaged, or of another checkpoint.")
    saved = [state["optimizer"], *state.get("further_optimizers", [])]
    try:
        for optimizer, values in zip(optimizers, saved, strict=True):
            optimizer.load_state_dict(shares_of(optimizer, values))
            require_fitting(optimizer)
        batches.load_state_dict(state["loader"])
    except (ConfigError, CheckpointError):
        raise
    # torch and the batches read the values as they come: a wrong one may be any of their errors.
    except Exception as error:
        raise CheckpointError(f"{checkpoint}: its trainer state does not fit this run ({error!r}).") from error
    return int(state["step"]), state


def load_state(part: Stateful, state: Mapping[str, Any], name: str, checkpoint: Path) -> None:
    """Give a part of the training what the trainer's state has under its name.

    Raises CheckpointError if there is nothing, or nothing that fits.
    """
    try:
        part.load_state_dict(state[name])
    # As in `restore`: whatever a wrong value leads to.
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint}: its trainer state has no {name} that fits ({error!r}): damaged."
        ) from error


def shares_of(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's saved state with this process's shares of the moments of sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            name: share_of(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in moments.items()
        }
        for number, moments in values["state"].items()
    }
    return {**values, "state": state}


def require_fitting(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError for moments that are not finite or not of their parameter's shape: torch does not look."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, Tensor):
                continue
            if value.numel() > 1 and value.shape != parameter.shape:
                raise ValueError(f"{name} is {list(value.shape)}, its parameter {list(parameter.shape)}")
            if not bool(torch.isfinite(own_part(value)).all()):
                raise ValueError(f"{name} has values that are not finite")
