"""Ways to damage a checkpoint or the file `latest`, and runs that are resumed with each."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avmanifest.errors import AvkitError
from avmodel.checkpoint import load_trainer_state, read_weights, save_checkpoint, save_weights
from avmodel.checkpoint_folder import LATEST_FILE, MODEL_FILE, TRAINER_FILE
from avmodel.distributed import World
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.rundir import CHECKPOINTS
from avmodel.train import Listener, train
from tests.faults.fault import Fault
from tests.runs import TINY, DrawnBatches, curve, tiny_run

HERE = World(0, 1, torch.device("cpu"))
RUN = tiny_run(save_every=2, keep_checkpoints=None)  # six steps: checkpoints 2, 4 and 6


class Heard(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.begun_at: int | None = None

    def started(self, *, step: int, steps: int, epochs: float) -> None:
        self.begun_at = step

    def note(self, text: str) -> None:
        self.notes.append(text)


def resumed(out: Path, run: Any = RUN, **how: Any) -> Heard:
    heard = Heard()
    train(run, DrawnBatches(), out, HERE, listener=heard, **(how or {"resume": True}))
    return heard


def flip(file: Path, place: float = 0.7) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)


def cut(file: Path, length: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(length * len(content))])


def saved_again(checkpoint: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """The checkpoint with another content and true hashes: damage from before it was written."""
    state, weights = load_trainer_state(checkpoint), read_weights(checkpoint / MODEL_FILE)[0]
    change(state, weights)
    step = int(checkpoint.name[5:])
    shutil.rmtree(checkpoint)
    try:
        save_checkpoint(checkpoint.parent, step, weights, TINY, state)
    except Exception:  # weights that are not finite are not saved by us; another program may have
        checkpoint.mkdir()
        shutil.copy(checkpoint.parent / "step-00000004" / TRAINER_FILE, checkpoint)
        save_weights(checkpoint / MODEL_FILE, weights, TINY, step=step)


def moments(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = next(iter(state["optimizer"]["state"].values()))
    return values


def ints(state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    weights.update({name: tensor.int() for name, tensor in weights.items()})


def not_numbers(state: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    weights["encoder.fusion_tokens"] = torch.full_like(weights["encoder.fusion_tokens"], torch.nan)


def another_model(checkpoint: Path) -> None:
    other = replace(TINY, decoder_depth=2)
    shutil.rmtree(checkpoint)
    save_checkpoint(checkpoint.parent, 6, DeepAVFusion(other), other, {"step": 6, "optimizer": {}, "loader": {}})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the weights": lambda c: flip(c / MODEL_FILE),
    "a flipped bit in the header": lambda c: flip(c / MODEL_FILE, 0.01),
    "a flipped bit in the trainer's state": lambda c: flip(c / TRAINER_FILE),
    "cut weights": lambda c: cut(c / MODEL_FILE, 0.9),
    "cut trainer's state": lambda c: cut(c / TRAINER_FILE, 0.5),
    "empty weights": lambda c: cut(c / MODEL_FILE, 0),
    "empty trainer's state": lambda c: cut(c / TRAINER_FILE, 0),
    "no trainer's state": lambda c: (c / TRAINER_FILE).unlink(),
    "another step's trainer's state": lambda c: shutil.copy(c.with_name("step-00000004") / TRAINER_FILE, c),
    "another step's files": lambda c: shutil.copytree(c.with_name("step-00000004"), c, dirs_exist_ok=True),
    "a folder in place of weights": lambda c: ((c / MODEL_FILE).unlink(), (c / MODEL_FILE).mkdir()),
    "text in place of weights": lambda c: (c / MODEL_FILE).write_text("id,label\n"),
    "whole numbers as weights": lambda c: saved_again(c, ints),
    "weights that are not finite": lambda c: saved_again(c, not_numbers),
    "no optimizer": lambda c: saved_again(c, lambda state, _: state.pop("optimizer")),
    "an optimizer without groups": lambda c: saved_again(c, lambda state, _: state.update(optimizer={})),
    "moments of another shape": lambda c: saved_again(
        c, lambda state, _: moments(state).update(exp_avg=torch.zeros(3))
    ),
    "moments that are not finite": lambda c: saved_again(
        c, lambda state, _: moments(state)["exp_avg"].fill_(torch.inf)
    ),
    "no position of the loader": lambda c: saved_again(c, lambda state, _: state.pop("loader")),
    "another form of the loader's position": lambda c: saved_again(c, lambda state, _: state.update(loader={"at": 1})),
    "a step that is a text": lambda c: saved_again(c, lambda state, _: state.update(step="6")),
    "another model": another_model,
}


def checkpoint_faults(folder: Path) -> Iterator[Fault]:
    """Each damage to the latest checkpoint of a run, which is then resumed."""
    straight = folder / "straight"
    train(RUN, DrawnBatches(), straight, HERE)
    for number, (name, damage) in enumerate(DAMAGE.items()):
        out = folder / str(number)
        shutil.copytree(straight, out)
        damage(out / CHECKPOINTS / "step-00000006")
        (out / CHECKPOINTS / LATEST_FILE).write_text("step-00000006")
        try:
            heard = resumed(out)
            said = "said" if any("is taken in place of step-00000006" in note for note in heard.notes) else "silent"
            same = "the same curve" if curve(out) == curve(straight) else "another curve"
            seen = f"from step {heard.begun_at}, {said}, {same}"
        except AvkitError as error:
            seen = type(error).__name__
        yield Fault(f"checkpoint: {name}", "pretrain --resume", "from step 4, said, the same curve", seen)
