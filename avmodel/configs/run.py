"""What a training run is: its model, data, optimizer and schedule."""

from dataclasses import dataclass, field

from avmanifest.errors import ConfigError
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.data import DataConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.model import ModelConfig
from avmodel.configs.optim import OptimConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One training run. `avmodel.presets` has the named ones."""

    name: str
    model: ModelConfig = field(default_factory=DeepAVFusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch_size: int = 512  # samples of an optimizer step, over all devices and micro-steps
    device_batch_size: int = 64  # most that one device takes at once; more become micro-steps
    epochs: int = 200
    steps: int | None = None  # takes the place of epochs
    # What the image branch, or a shared one, starts from: a published checkpoint, or the folder of a run of one's own.
    image_weights: str | None = None
    audio_weights: str | None = None  # likewise the audio branch; over a shared one if both are given
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"  # bfloat16: autocast; weights stay float32
    compile: bool = False
    save_every: int = 1000  # steps; the last one is always saved
    keep_checkpoints: int | None = 2  # the newest; none: all
    pictures_every: int | None = 1000  # steps, and at the end; none: never
    probe_every: int | None = 10  # epochs, and at the end; none: never
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "device_batch_size",
            "epochs",
            "steps",
            "save_every",
            "keep_checkpoints",
            "pictures_every",
            "probe_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be 1 or more")
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: must be 0 or more")

    @property
    def pretrained(self) -> list[str]:
        """Branches that start from trained weights, published or one's own."""
        weights = {"image": self.image_weights, "audio": self.audio_weights}
        return [branch for branch, path in weights.items() if path is not None]

    def micro_batch(self, world_size: int) -> tuple[int, int]:
        """As `micro_batches`, of this run's batch."""
        return micro_batches(self.batch_size, self.device_batch_size, world_size)


def micro_batches(batch_size: int, device_batch_size: int, world_size: int) -> tuple[int, int]:
    """Samples that a device takes at once, and how often in a step: as few equal micro-steps as will do.

    Raises ConfigError for a batch that doesn't divide among the processes.
    """
    share, rest = divmod(batch_size, world_size)
    if rest:
        raise ConfigError(f"batch_size={batch_size} doesn't divide among {world_size} processes")
    micro_steps = -(-share // device_batch_size)
    while share % micro_steps:
        micro_steps += 1
    return share // micro_steps, micro_steps
