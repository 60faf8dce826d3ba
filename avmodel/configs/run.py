"""What a training run is: its model, data, optimizer and schedule."""

from dataclasses import dataclass, field
from typing import Annotated

from avdata.tracking import (
    TrackioProject,
    WandbGroup,
    WandbName,
    WandbProject,
    WandbResume,
    WandbTags,
    check_tracking,
)
from avmanifest.errors import ConfigError
from avmanifest.settings import SHARE, Bounds, check
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.choices import Device, DeviceBatchSize, Epochs
from avmodel.configs.data import DataConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.model import ModelConfig
from avmodel.configs.optim import OptimConfig
from avmodel.configs.validation import ValidationConfig

PRECISIONS = ("float32", "bfloat16")
RESIDUAL = "bfloat16-residual"
HALF = "float16"
TRAINING_PRECISIONS = (*PRECISIONS, RESIDUAL, HALF)
COMPILE = ("none", "blocks", "whole")
PARALLEL = ("ddp", "fsdp")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One training run. `avmodel.presets` has the named ones."""

    name: Annotated[str, "The run's name."]
    model: ModelConfig = field(default_factory=DeepAVFusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    batch_size: Annotated[int, "Samples of an optimizer step, over all devices and micro-steps.", Bounds(1)] = 512
    device_batch_size: DeviceBatchSize = 64
    gradient_cache: Annotated[
        bool,
        "Contrast all samples of a step with one another, however few the devices take at once: two forward passes, "
        "with the gradients of one large batch. false: only those that all devices take at once.",
    ] = False
    epochs: Epochs = 200
    steps: Annotated[
        int | None, "Optimizer steps. none: as many as epochs says. 0: the untrained start is saved.", Bounds(0)
    ] = None
    start: Annotated[
        str | None,
        "Own run, checkpoint or published model (avkit models) of the same family whose weights the whole model starts "
        "from, to go on on other data; image_weights and audio_weights are then not read. none: as these say.",
    ] = None
    image_weights: Annotated[
        str | None,
        "Published checkpoint, its name (avkit models) or folder of an own run that the image branch, or a shared one, "
        "starts from.",
    ] = None
    audio_weights: Annotated[
        str | None, "Published checkpoint, its name or folder of an own run that the audio branch starts from."
    ] = None
    seed: Annotated[int, "Seed of weights, order and augmentation.", Bounds(0)] = 0
    device: Device = "auto"
    precision: Annotated[
        str,
        "Precision of the forward pass; weights stay float32. bfloat16: autocast. bfloat16-residual: tokens are "
        "bfloat16 between the blocks, too, and each weight is cast once a step. float16: autocast, the loss "
        "scaled, for cards without bfloat16 (V100, T4); steps whose gradients overflow are left out.",
        TRAINING_PRECISIONS,
    ] = "float32"
    compile: Annotated[
        str, "torch.compile: of each block, or of the whole model, on CUDA with CUDA graphs.", COMPILE
    ] = "none"
    parallel: Annotated[
        str,
        "What several processes have of the model. ddp: each all of it. fsdp: weights, gradients and optimizer states "
        "are divided among them (FSDP2): less memory, more communication, the same losses.",
        PARALLEL,
    ] = "ddp"
    checkpoint_activations: Annotated[
        bool, "Keep only the inputs of blocks for the backward pass and compute the rest again: less memory, slower."
    ] = False
    ema_decay: Annotated[
        float | None,
        "Share that a moving average of the weights keeps at each step; checkpoints have it in ema.safetensors, and "
        "evaluate and apply take it with weights=ema. none: no average.",
        SHARE,
    ] = None
    ema_start: Annotated[int, "Steps during which that average is a copy of the weights.", Bounds(0)] = 0
    save_every: Annotated[int, "Steps between checkpoints; the last step is always saved.", Bounds(1)] = 1000
    keep_checkpoints: Annotated[int | None, "Newest checkpoints to keep. none: all.", Bounds(1)] = 2
    keep_every: Annotated[
        int | None,
        "Checkpoints of steps that are a multiple of this are kept beside the newest. none: no others.",
        Bounds(1),
    ] = None
    pictures_every: Annotated[int | None, "Steps between pictures; also at the end. none: never.", Bounds(1)] = 1000
    probe_every: Annotated[int | None, "Epochs between probes; also at the end. none: never.", Bounds(1)] = 10
    wandb_project: WandbProject = None
    trackio_project: TrackioProject = None
    wandb_name: WandbName = None
    wandb_group: WandbGroup = None
    wandb_tags: WandbTags = ()
    wandb_resume: WandbResume = "allow"

    def __post_init__(self) -> None:
        check(self)
        check_tracking(self)
        if self.checkpoint_activations and self.precision == RESIDUAL and self.compile != "none":
            raise ConfigError(
                f"checkpoint_activations with precision={RESIDUAL} and compile={self.compile}: only two of them go "
                "together. Set compile=none, or precision=bfloat16."
            )

        if self.parallel == "fsdp" and self.precision == RESIDUAL:
            raise ConfigError(
                f"parallel=fsdp with precision={RESIDUAL}: it casts whole weights, which no process has. Set "
                "precision=bfloat16, or parallel=ddp."
            )
        if self.parallel == "fsdp" and self.compile == "whole":
            raise ConfigError(
                "parallel=fsdp with compile=whole: weights are gathered between the blocks. Set compile=blocks or none."
            )

    @property
    def pretrained(self) -> list[str]:
        """Branches that start from trained weights, published or one's own, while the rest does not."""
        if self.start is not None:
            return []
        weights = {"image": self.image_weights, "audio": self.audio_weights}
        return [branch for branch, path in weights.items() if path is not None]

    def micro_batch(self, world_size: int) -> tuple[int, int]:
        """As `micro_batches`, of this run's batch."""
        return micro_batches(self.batch_size, self.device_batch_size, world_size)

    def validation_batch(self, world_size: int) -> tuple[int, int]:
        """As `micro_batches`, of a batch of the held-out loss."""
        size = self.validation.batch_size
        return micro_batches(size, self.device_batch_size, world_size, "validation.batch_size")

    def contrast_parts(self, world_size: int) -> int:
        """Micro-steps whose samples the contrastive loss compares with one another; 1 if there is no such loss."""
        _, micro_steps = self.micro_batch(world_size)
        return micro_steps if self.gradient_cache and self.model.compares_samples else 1

    def contrast_note(self, world_size: int) -> str | None:
        """A line on how many samples the contrastive loss compares on so many devices; None without such a loss."""
        if not self.model.compares_samples:
            return None
        size, micro_steps = self.micro_batch(world_size)
        parts = self.contrast_parts(world_size)
        devices = f"{world_size} device{'s' if world_size > 1 else ''}"
        at_once = f"{size} at once on {devices}" if world_size == 1 else f"{size} at once on each of {devices}"
        compared = self.model.num_compared(size * world_size * parts, world_size)
        note = f"contrast: each sample is compared with {compared:,} ({at_once}"
        if parts > 1:
            note += f", {parts} micro-steps together by gradient_cache"
        elif micro_steps > 1:
            note += f"; with gradient_cache=true {self.model.num_compared(self.batch_size, world_size):,}"
        published = self.model.published_contrast
        return f"{note})" + (f"; {published}." if published else "")


def micro_batches(
    batch_size: int, device_batch_size: int, world_size: int, name: str = "batch_size"
) -> tuple[int, int]:
    """Samples that a device takes at once, and how often in a step: as few equal micro-steps as will do.

    Raises ConfigError, with the setting's name, for a batch that doesn't divide among the processes.
    """
    share, rest = divmod(batch_size, world_size)
    if rest:
        raise ConfigError(f"{name}={batch_size} doesn't divide among {world_size} processes")
    micro_steps = -(-share // device_batch_size)
    while share % micro_steps:
        micro_steps += 1
    return share // micro_steps, micro_steps
