"""A fine-tuned model: the pretrained one and its heads, with the names of their classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avmanifest.errors import ConfigError
from avmodel.checkpoint import fill_own, load_model, load_trainer_state, of_weights_file, save_checkpoint
from avmodel.checkpoint_folder import STEP_NAME, TRAINER_FILE
from avmodel.evaluate.features import pooled_streams
from avmodel.evaluate.heads import ALL, Heads
from avmodel.evaluate.training import freeze_all_but_used
from avmodel.inputs import Inputs
from avmodel.models.family import Family
from avmodel.rundir import CHECKPOINTS, checkpoints_of


class Classifier(nn.Module):
    """A pretrained model and heads on the mean token of each of its streams."""

    def __init__(self, model: Family, classes: int, mode: str, *, multi_label: bool = False) -> None:
        super().__init__()
        self.model, self.mode, self.multi_label = model, mode, multi_label
        with torch.no_grad():
            widths = {name: x.shape[1] for name, x in pooled_streams(model, blank(model), mode).items()}
        self.heads = Heads(widths, classes, normalize=False)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"], mode: str | None = None
    ) -> dict[str, Float[Tensor, "k c"]]:
        """Logits of each stream and of all; `mode`: the modalities to use, at most those of training."""
        logits: dict[str, Tensor] = self.heads(pooled_streams(self.model, Inputs(image, log_mel), mode or self.mode))
        return logits

    def probabilities(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """Of each class by itself if a sample may have several, else of one among all."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)


def blank(model: Family) -> Inputs:
    """One input of the model's size, with nothing in it."""
    config = model.config
    device = next(model.parameters()).device
    return Inputs(
        torch.zeros(1, 3, *config.image_size, device=device), torch.zeros(1, 1, *config.audio_size, device=device)
    )


def freeze_unused(classifier: Classifier) -> None:
    """Take the parts out of training that no logit depends on, such as the decoders of a masked autoencoder."""
    freeze_all_but_used(classifier, lambda: classifier(*blank(classifier.model))[ALL])


def save_classifier(
    folder: Path,
    classifier: Classifier,
    classes: Sequence[str],
    step: int,
    trainer_state: Mapping[str, Any],
    notes: Mapping[str, str] | None = None,
) -> None:
    """A checkpoint that `load_classifier` reads, and from whose state its training goes on; notes as `save_weights`."""
    state = {
        "step": step,
        "heads": classifier.heads.state_dict(),
        "classes": list(classes),
        "mode": classifier.mode,
        "multi_label": classifier.multi_label,
        **trainer_state,
    }
    save_checkpoint(folder / CHECKPOINTS, step, classifier.model, classifier.model.config, state, keep=1, notes=notes)


def load_classifier(path: Path | str, device: torch.device) -> tuple[Classifier, tuple[str, ...]]:
    """A fine-tuned classifier, in evaluation mode, and the names of its classes.

    `path`: a seed's folder, or a checkpoint. Raises ConfigError for a folder without one, CheckpointError for damaged
    files.
    """
    path, folder = Path(path), checkpoints_of(path)
    if not folder.is_dir() or (folder == path and not STEP_NAME.fullmatch(path.name)):
        raise ConfigError(f"{path}: no fine-tuned classifier there. avkit evaluate finetune makes one.")
    return of_weights_file(folder, lambda file: _load_classifier(file.parent, device))[1]


def _load_classifier(checkpoint: Path, device: torch.device) -> tuple[Classifier, tuple[str, ...]]:
    model, _ = load_model(checkpoint, device)
    state = load_trainer_state(checkpoint)
    if not {"heads", "classes", "mode"} <= state.keys():
        raise ConfigError(f"{checkpoint}: a pretrained model without heads. avkit evaluate finetune makes them.")
    classes = tuple(state["classes"])
    multi_label = bool(state.get("multi_label", False))  # older checkpoints lack it
    classifier = Classifier(model, len(classes), state["mode"], multi_label=multi_label).to(device)
    fill_own(classifier.heads, state["heads"], checkpoint / TRAINER_FILE)
    return classifier.eval(), classes
