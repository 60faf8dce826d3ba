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
from avmodel.evaluate.config import MODES
from avmodel.evaluate.features import pooled_streams
from avmodel.evaluate.finetune.config import HEAD_NORMS, HEADS, FinetuneConfig
from avmodel.evaluate.heads import ALL, Heads
from avmodel.evaluate.training import freeze_all_but_used
from avmodel.inputs import Inputs
from avmodel.models.family import Family, Stream, for_each_image
from avmodel.rundir import CHECKPOINTS, checkpoints_of


class Classifier(nn.Module):
    """A pretrained model and linear heads on its mean tokens, of one of the kinds HEADS.

    Args:
        model: The pretrained model.
        classes: Number of classes.
        mode: Modalities that it is trained with, one of MODES.
        multi_label: Whether a sample may have several classes.
        heads: Which mean tokens have a head: see `FinetuneConfig.heads`.
        head_norm: What normalizes them, one of HEAD_NORMS.
        mixed: Whether steps of training have one modality alone, which `concat` has heads of their own for.
        head_streams: The only streams that have a head, of the kind `per-stream`; None: all.

    Raises ConfigError for heads on joint tokens of a model that has none, and as `streams_with_heads`.
    """

    def __init__(
        self,
        model: Family,
        classes: int,
        mode: str,
        *,
        multi_label: bool = False,
        heads: str = HEADS[0],
        head_norm: str = HEAD_NORMS[0],
        mixed: bool = False,
        head_streams: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.mode, self.multi_label = model, mode, multi_label
        self.kind, self.head_norm, self.mixed = heads, head_norm, mixed
        with torch.no_grad():
            found = [self.features(blank(model), one) for one in self.modes]
        widths = {name: x.shape[1] for features in found for name, x in features.items()}
        if head_streams is not None:
            chosen = {name for one in self.modes for name in streams_with_heads(model, one, head_streams)}
            widths = {name: width for name, width in widths.items() if name in chosen}
        self.heads = Heads(widths, classes, normalize=False, layer_norm=head_norm == "layer")

    @property
    def modes(self) -> tuple[str, ...]:
        """The modalities, together or alone, that steps of its training have."""
        return MODES if self.mixed else (self.mode,)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"], mode: str | None = None
    ) -> dict[str, Float[Tensor, "k c"]]:
        """Logits of each head and of all; `mode`: the modalities to use, at most those of training.

        Raises ConfigError for a mode that no head was trained for.
        """
        mode = mode or self.mode
        if self.kind == "concat" and mode not in self.modes:
            raise ConfigError(
                f"data.mode={mode}: this classifier was trained with {self.mode} alone (heads=concat). Train one with "
                "mixed=true, which has heads for each modality."
            )
        features = self.features(Inputs(image, log_mel), mode)
        if not set(features) & set(self.heads.heads):
            raise ConfigError(
                f"data.mode={mode}: this classifier has heads on {', '.join(self.heads.heads)} alone. Leave {mode} "
                "out of missing."
            )
        logits: dict[str, Tensor] = self.heads(features)
        return logits

    def features(self, inputs: Inputs, mode: str) -> dict[str, Float[Tensor, "k _"]]:
        """What the heads read, float32: by stream; of one `joint` head; or of `both` modalities or the one there is."""
        if self.kind == "per-stream":
            return pooled_streams(self.model, inputs, mode)
        image = None if mode == "audio" else inputs.image
        log_mel = None if mode == "image" else inputs.log_mel
        if self.kind == "joint" and mode != self.mode:
            tokens = self.model.joint_alone(image, log_mel)
            if tokens is None:
                raise ConfigError(
                    f"data.mode={mode}: {type(self.model).__name__} has no way to read one modality with a head on "
                    "joint tokens. Set heads=concat, or heads=per-stream."
                )
            return {"joint": tokens.float().mean(dim=1)}
        streams = self.model.encode(image, log_mel)
        if self.kind == "joint":
            if mode == MODES[0] and "joint" not in streams:
                raise ConfigError(
                    f"heads=joint: {type(self.model).__name__} has no joint tokens. Set heads=concat, or "
                    "heads=per-stream."
                )
            return {"joint": streams["joint" if mode == MODES[0] else mode].vector}
        if mode != MODES[0]:
            return {mode: streams[mode].vector}
        return {"both": torch.cat(both_means(streams), dim=1)}

    def probabilities(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """Of each class by itself if a sample may have several, else of one among all."""
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=1)

    def lacks_heads_for(self, mode: str) -> bool:
        """Whether no head has a stream when only the modalities of `mode` are given."""
        if self.kind != HEADS[0] or mode == self.mode:
            return False
        return not set(self.heads.heads) & set(stream_widths(self.model, mode))


def streams_with_heads(model: Family, mode: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The streams that get a head: those wanted, or for None all, that the model has in a mode.

    Raises ConfigError for a wanted stream that the model does not have, and if no head is left in that mode.
    """
    found = stream_widths(model, mode)
    if wanted is None:
        return tuple(found)
    known, setting = stream_widths(model), f"head_streams={','.join(wanted)}"
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{setting}: this model has no stream {name!r}; known: {', '.join(known)}")
    chosen = tuple(name for name in found if name in wanted)
    if not chosen:
        raise ConfigError(
            f"{setting}: no head is left with {mode} alone. Name one of {', '.join(found)} as well, or leave {mode} "
            "out of data.mode, missing and mixed."
        )
    return chosen


def stream_widths(model: Family, mode: str = MODES[0]) -> dict[str, int]:
    """Names and widths of the model's streams in a mode."""
    with torch.no_grad():
        return {name: x.shape[1] for name, x in pooled_streams(model, blank(model), mode).items()}


def both_means(streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
    """Vectors of sound and image: means of the joint tokens, in which audio is first; their own without such."""
    audio, image = streams["audio"], streams["image"]
    if "joint" not in streams:
        return for_each_image(audio.vector, image.vector), image.vector
    counts = [audio.tokens.shape[1], image.tokens.shape[1]]
    heard, seen = torch.split(streams["joint"].tokens.float(), counts, dim=1)
    return heard.mean(dim=1), seen.mean(dim=1)


def blank(model: Family) -> Inputs:
    """One input of the model's size, with nothing in it."""
    config = model.config
    device = next(model.parameters()).device
    return Inputs(
        torch.zeros(1, 3, *config.image_size, device=device), torch.zeros(1, 1, *config.audio_size, device=device)
    )


def require_joint(config: FinetuneConfig, model: Family) -> None:
    """Raise ConfigError for a rate of joint layers, or tests of one modality with a head on them, without such."""
    name = type(model).__name__
    if config.joint_lr != 1 and not model.joint_names:
        raise ConfigError(f"joint_lr={config.joint_lr:g}: {name} has no joint layers. Set joint_lr=1.")
    empty = blank(model)
    if config.heads == "joint" and (config.missing or config.mixed):
        with torch.no_grad():
            if model.joint_alone(empty.image, None) is None:
                raise ConfigError(
                    f"heads=joint with missing={config.missing}, mixed={config.mixed}: the joint layers of {name} "
                    "never get one modality alone. Set heads=concat, or heads=per-stream."
                )


def freeze_unused(classifier: Classifier) -> None:
    """Take the parts out of training that no logit depends on, such as the decoders of a masked autoencoder."""
    inputs = blank(classifier.model)
    freeze_all_but_used(classifier, lambda: sum(classifier(*inputs, mode)[ALL].sum() for mode in classifier.modes))


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
        "heads_kind": classifier.kind,
        "head_norm": classifier.head_norm,
        "mixed": classifier.mixed,
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
    # Older checkpoints lack these.
    kind, norm = state.get("heads_kind", HEADS[0]), state.get("head_norm", HEAD_NORMS[0])
    if state["mode"] not in MODES or kind not in HEADS or norm not in HEAD_NORMS:
        raise ConfigError(
            f"{checkpoint}: heads {kind!r} with norm {norm!r} of mode {state['mode']!r}: not a classifier of this "
            "version of avkit."
        )
    names = tuple(dict.fromkeys(name.split(".")[1] for name in state["heads"] if name.startswith("heads.")))
    classifier = Classifier(
        model,
        len(classes),
        state["mode"],
        multi_label=bool(state.get("multi_label", False)),
        heads=kind,
        head_norm=norm,
        mixed=bool(state.get("mixed", False)),
        head_streams=names if kind == HEADS[0] else None,
    ).to(device)
    fill_own(classifier.heads, state["heads"], checkpoint / TRAINER_FILE)
    return classifier.eval(), classes
