"""Fine-tuning of a model for retrieval: a contrastive loss between the modalities, each encoded without the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avdata.load import Batch
from avmodel.augment import augment, num_augment_draws
from avmodel.checkpoint import load_model, save_checkpoint
from avmodel.evaluate.data import Split, varied_view
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.finetune.classifier import blank
from avmodel.evaluate.loaded import with_settings
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.retrieval.config import RetrievalConfig
from avmodel.evaluate.training import Training, freeze_all_but_used
from avmodel.evaluate.training import train as train_module
from avmodel.fit import Moment
from avmodel.inputs import reading_notes, to_inputs
from avmodel.models.family import Family
from avmodel.objectives import info_nce
from avmodel.optim import make_optimizer
from avmodel.precision import autocast
from avmodel.rundir import CHECKPOINTS

AUGMENT = 5  # id of a sequence of random numbers
# Settings that training doesn't know.
TEST_ONLY = (
    "gallery",
    "compare",
    "dense.heads",
    "dense.head_pool",
    "dense.space_pool",
    "dense.time_pool",
    "dense.unit_length",
    "align",
    "align_dim",
    "align_epochs",
    "align_batch_size",
    "align_lr",
    "align_temperature",
    "data.windows",
    "data.frames",
    "data.test_split",
    "data.test_labels",
)


class Pairs(nn.Module):
    """A model that gives both modalities' vectors, as the test compares them."""

    def __init__(self, model: Family) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        seen, heard = self.model.encode(image, None)["image"], self.model.encode(None, log_mel)["audio"]
        return seen.vector, heard.vector


def tuned(config: RetrievalConfig, run: Evaluation, train: Split, seed: int, folder: Path) -> Evaluation:
    """The evaluation of the model after all epochs of fine-tuning; its checkpoint in `folder` is a plain model's.

    Each sample is compared with those that all devices take at once. Raises as `avmodel.evaluate.training.train`.
    """
    world = run.world
    view = varied_view(config, run.loaded)

    def build() -> Pairs:
        pairs = Pairs(with_settings(run.loaded, drop_path=config.drop_path).model).to(world.device)
        freeze_all_but_used(pairs, lambda: torch.cat([x.sum(dim=1) for x in pairs(*blank(pairs.model))]))
        return pairs

    def loss(forward: nn.Module, batch: Batch, moment: Moment) -> Float[Tensor, ""]:
        image, log_mel = to_inputs(batch, world.device)
        draws = moment.chance(AUGMENT).random((len(batch), num_augment_draws(config.augment)))
        log_mel = augment(log_mel, config.augment, torch.from_numpy(draws))
        with autocast(config.precision, world.device):
            seen, heard = forward(image, log_mel)
        return info_nce(heard, seen, temperature=config.temperature)

    def save(pairs: Pairs, done: int, state: Mapping[str, Any]) -> None:
        notes, state = reading_notes(view), {"step": done, **state}
        save_checkpoint(folder / CHECKPOINTS, done, pairs.model, pairs.model.config, state, keep=1, notes=notes)

    training = Training(
        name="fine-tuning for retrieval",
        view=view,
        build=build,
        optimizer=lambda pairs: make_optimizer(pairs, config.optim),
        loss=loss,
        save=save,
        load=lambda pairs, path: pairs.model.load_state_dict(load_model(path, world.device)[0].state_dict()),
        test_only=TEST_ONLY,
        splits={"train": train},
    )
    train_module(config, run, training, seed, folder)
    world.barrier()
    return run.of(load_pretrained(folder, world.device))
