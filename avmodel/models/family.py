"""The interface of a model family to the trainer, the probe and the tasks: random masks, losses, token streams."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from einops import rearrange
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from avmodel.embedding import fit_columns, fit_image, kernel_from_rgb
from avmodel.layers import ViT
from avmodel.masking import Masking, masking_from_ids
from avmodel.objectives import Term, masked_mse, normalize_patches, patchify, reconstruct
from avmodel.renaming import Rules

Modality: TypeAlias = Literal["image", "audio"]
BOTH: tuple[Modality, ...] = ("image", "audio")

# Published single-modality weights: what they are, their license, where they are.
MAE = "MAE's ViT (CC-BY-NC-4.0) is at https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth."
AUDIOMAE = "AudioMAE's ViT (CC-BY-4.0) is linked from https://github.com/facebookresearch/AudioMAE."
IN21K = "ImageNet-21k ViTs (Apache-2.0) are timm's, such as vit_base_patch16_224.augreg_in21k."
AST = "AST (BSD-3-Clause) is linked from https://github.com/YuanGongND/ast."


class Draws(NamedTuple):
    """A batch's random numbers, functions of the seed, the epoch and each sample's place in its order."""

    noise: Int64[Tensor, "b n"]  # of each sample: Family.num_draws integers from 0 to 2^53 - 1
    places: Int64[Tensor, "b o"]  # the sample's place in Family.num_orders random orders of all processes' samples
    total: int  # samples of all processes


class Vectors(NamedTuple):
    """What the contrastive loss compares: row i of `anchors` matches row i of `candidates`."""

    anchors: Float[Tensor, "b d"]
    candidates: Float[Tensor, "b d"]


class Contrast(Enum):
    """What a call does with the vectors that the contrastive loss compares."""

    COMPARED = "compared"  # the loss has the contrast of the batch's vectors
    APART = "apart"  # the output has the vectors; the loss has the other terms alone
    ALONE = "alone"  # the output has the vectors and no losses


class Output(NamedTuple):
    """Losses by name, `total` first, and what was predicted where the objective predicts patches.

    No losses if nothing but a contrast that is kept apart is learned.
    """

    losses: dict[str, Float[Tensor, ""]]
    image_pred: Float[Tensor, "b n patch"] | None = None
    audio_pred: Float[Tensor, "b m patch2"] | None = None
    image_mask: Float[Tensor, "b n"] | None = None  # 1 where removed
    audio_mask: Float[Tensor, "b m"] | None = None
    vectors: Vectors | None = None  # only of a call that does not compare them


# What an `Output` has of predicted patches: of the image, of the audio, their masks.
Predicted: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
NOT_PREDICTED: Predicted = (None, None, None, None)


def for_each_image(audio: Float[Tensor, "a *n"], image: Float[Tensor, "b *m"]) -> Float[Tensor, "b *n"]:
    """The rows of `audio`, each as often as it has images, which stand one after the other."""
    return audio if audio.shape[0] == image.shape[0] else audio.repeat_interleave(len(image) // len(audio), dim=0)


class Stream(NamedTuple):
    """What a model makes of an input, or of both together."""

    tokens: Float[Tensor, "b n d"]  # after the final norms
    vector: Float[Tensor, "b d"]  # what stands for all of it, float32: what tasks classify, compare and write


def mean_stream(tokens: Float[Tensor, "b n d"]) -> Stream:
    """The stream whose vector is the mean token."""
    return Stream(tokens, tokens.float().mean(dim=1))


class LayerTokens(NamedTuple):
    """Tokens of both modalities after one block, before the final norm."""

    image: Float[Tensor, "b n d"]
    audio: Float[Tensor, "b m d"]


class AttentionMaps(NamedTuple):
    """What a model attends to, patch by patch as it cuts them; None: it has no such map of this modality."""

    title: str
    image: Float[Tensor, "b n"] | None
    audio: Float[Tensor, "b m"] | None


class Family(nn.Module, ABC):
    """A model that learns from pairs of images and log-mels.

    Call it with normalized images, stored log-mels and the masks from `choose`; it returns an `Output`. A model that
    compares samples also takes `contrast=`, one of `Contrast`; what is random in a forward pass is drawn for the
    vectors first, so that two calls from one random state have the same.
    """

    # By modality: where its published weights are, shown when the file is missing. Absent: no import of such weights.
    published_starts: ClassVar[Mapping[Modality, str]] = {}
    config: Any
    modalities: tuple[Modality, ...] = BOTH  # those that the model has learned from, and can encode
    num_draws: int  # random integers that a sample takes
    num_orders: int = 0  # random orders of the batch that it takes
    least_batch: int = 1  # samples that all processes together must give it at once
    mel_scale: tuple[float, float] | None = None  # mean and divisor that normalize the stored log-mel
    # Beginnings of the names of the parameters of the layers that both modalities' tokens enter together.
    joint_names: ClassVar[tuple[str, ...]] = ()
    time_first: bool = False  # patches go along the spectrogram's time row by row, not along its frequency
    # Groups of losses, each stepped by an optimizer of its own after a forward pass of its own; None: all at once.
    step_terms: tuple[tuple[str, ...] | None, ...] = (None,)

    @property
    def feature_dim(self) -> int:
        """Width of the tokens of `streams`."""
        return int(self.config.vit.embed_dim)

    @abstractmethod
    def choose(self, draws: Draws) -> Any:
        """Which tokens are hidden, on the CPU: the third argument of a call."""

    @abstractmethod
    def streams(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Float[Tensor, "_ _ d"]]:
        """Unmasked token streams after the final norms.

        Args:
            image: Normalized images; None leaves the modality out.
            log_mel: Stored log-mels; None leaves the modality out. If there are k images for each log-mel (b = k * a,
                the images of one log-mel next to each other), each image is paired with its log-mel.

        Returns:
            `image`, `audio`, and `fusion` or `joint` if the family has it. A modality left out has no stream.
        """

    def encode(
        self, image: Float[Tensor, "b 3 h w"] | None, log_mel: Float[Tensor, "a 1 mel t"] | None
    ) -> dict[str, Stream]:
        """The streams, each with the vector that stands for it: its mean token, if the family has no token for that.

        Arguments and names as of `streams`.
        """
        return {name: mean_stream(tokens) for name, tokens in self.streams(image, log_mel).items()}

    def joint_alone(
        self,
        image: Float[Tensor, "b 3 h w"] | None,  # noqa: ARG002  # the families that have joint layers read them
        log_mel: Float[Tensor, "a 1 mel t"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "_ _ d"] | None:
        """Tokens of one modality, the other being None, as a model that was tuned on `joint` tokens reads them.

        None: the family's joint layers never get one modality alone.
        """
        return None

    @abstractmethod
    def forward_intermediates(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"]
    ) -> list[LayerTokens]:
        """Unmasked tokens after each encoder block, in the model's own patch order."""

    def get_intermediate_layers(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"], wanted: Sequence[int]
    ) -> list[LayerTokens]:
        """Tokens after the wanted blocks, counted from 0: row by row of `image_grid` and of `audio_grid`.

        Of several images for each log-mel, all meet it. Raises ValueError for a block that there isn't.
        """
        if not all(0 <= layer < self.depth for layer in wanted):
            raise ValueError(f"layers {tuple(wanted)} asked for; the model has {self.depth}, counted from 0")
        found = self.forward_intermediates(image, for_each_image(log_mel, image))
        if self.time_first:
            mel = self.audio_grid[0]
            found = [x._replace(audio=rearrange(x.audio, "b (t mel) d -> b (mel t) d", mel=mel)) for x in found]
        return [found[layer] for layer in wanted]

    @property
    def depth(self) -> int:
        """Blocks that a token passes."""
        return int(self.config.vit.depth)

    @property
    def image_grid(self) -> tuple[int, int]:
        """Rows and columns of the image's tokens."""
        height, width = self.config.image_size
        return height // self.config.patch_size, width // self.config.patch_size

    @property
    def audio_grid(self) -> tuple[int, int]:
        """Tokens along the spectrogram's frequency and along its time, whatever the family's own order."""
        mel, steps = self.config.audio_size
        return mel // self.config.patch_size, steps // self.config.patch_size

    def load_vit(
        self, modality: Modality, vit: Mapping[str, Tensor], fill: Callable[[Mapping[str, Tensor]], None]
    ) -> None:
        """Load a published ViT as the initial weights of one modality. Called for keys of `published_starts` only.

        Args:
            modality: image or audio.
            vit: The ViT's weights, named as `avmodel.weights.vit.published_vit` does.
            fill: Function that copies weights into the model by the model's own names.

        Raises:
            ValueError: If the ViT does not fit this modality.
        """
        raise NotImplementedError

    def modality_vit(self, modality: Modality) -> ViT | None:  # noqa: ARG002  # the families that have one read it
        """The separate ViT of one modality, which other models can start from; None if the family has none."""
        return None

    def maskings(self, image_ids: Int[Tensor, "b i"], audio_ids: Int[Tensor, "b a"]) -> tuple[Masking, Masking]:
        """The maskings of image and audio that keep these patches."""
        return (
            masking_from_ids(image_ids, math.prod(self.image_grid)),
            masking_from_ids(audio_ids, math.prod(self.audio_grid)),
        )

    @property
    def mel_map(self) -> tuple[float, float]:
        """Factor and summand by which the model scales a log-mel before it cuts patches."""
        if self.mel_scale is None:
            return 1.0, 0.0
        mean, divisor = self.mel_scale
        return 1 / divisor, -mean / divisor

    @property
    def compares_samples(self) -> bool:
        """Whether the loss is over pairs of samples: every process must then give equally many."""
        return bool(self.config.compares_samples)

    def contrast(self, vectors: Vectors, *, gather: bool = True) -> Float[Tensor, ""]:
        """The contrastive loss of these rows, not weighted; `gather`: of all processes' as one batch, as in a call.

        Called for models that compare samples only; their config has its weight, `contrast_weight`.
        """
        raise NotImplementedError

    def attention(
        self,
        image: Float[Tensor, "b 3 h w"],  # noqa: ARG002  # the families that have such maps read both
        log_mel: Float[Tensor, "b 1 mel t"],  # noqa: ARG002
    ) -> Sequence[AttentionMaps]:
        """Maps of what the model attends to in whole inputs, to draw; none by default."""
        return ()

    def before_training(self) -> None:
        """Called by the trainer once, after the initial weights are loaded and before the first step."""

    def after_step(self) -> None:
        """Called by the trainer after each optimizer step."""

    def audio_input(self, log_mel: Float[Tensor, "b 1 mel t"]) -> Float[Tensor, "b 1 h w"]:
        """A log-mel as its patches are cut: the model's columns, whole patches, normalized, time downwards if so."""
        p = self.config.patch_size
        x = fit_columns(log_mel, self.config.audio_size, p)
        x = x[..., : x.shape[2] // p * p, : x.shape[3] // p * p]
        if self.mel_scale is not None:
            x = (x - self.mel_scale[0]) / self.mel_scale[1]
        return x.transpose(-1, -2) if self.time_first else x

    def audio_output(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 mel t"]:
        """The log-mel whose `audio_input` this is."""
        x = x.transpose(-1, -2) if self.time_first else x
        return x if self.mel_scale is None else x * self.mel_scale[1] + self.mel_scale[0]

    def image_input(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """An image as its patches are cut. Raises ValueError for one of another size than the model's."""
        p = self.config.patch_size
        image = fit_image(image, self.config.image_size)
        return image[..., : image.shape[2] // p * p, : image.shape[3] // p * p]

    def targets(self, x: Float[Tensor, "b c h w"], modality: Modality) -> Float[Tensor, "b n patch"]:
        """Targets of a modality's decoder: all patches of its input, each normalized if `normalizes` says so."""
        patches = patchify(x.float(), self.config.patch_size)
        return normalize_patches(patches) if self.normalizes(modality) else patches

    def reconstruction_terms(
        self,
        image: Float[Tensor, "b 3 h w"],
        log_mel: Float[Tensor, "b 1 h2 w2"],
        predicted: Predicted,
        *,
        weight: float = 1.0,
        on: str = "masked",
    ) -> list[Term]:
        """The reconstruction losses of both inputs, as their patches are cut; `on` as of `masked_mse`."""
        image_pred, audio_pred, image_mask, audio_mask = predicted
        assert image_pred is not None and audio_pred is not None
        assert image_mask is not None and audio_mask is not None
        return [
            Term("image", weight, masked_mse(image_pred, self.targets(image, "image"), image_mask, on)),
            Term("audio", weight, masked_mse(audio_pred, self.targets(log_mel, "audio"), audio_mask, on)),
        ]

    def normalizes(self, modality: Modality) -> bool:
        """Whether patches of this modality are predicted normalized, each by its own mean and deviation."""
        own: bool | None = self.config.normalize_audio_targets if modality == "audio" else None
        return bool(self.config.normalize_targets) if own is None else own

    def pictures(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "b 1 mel t"], output: Any
    ) -> tuple[Float[Tensor, "b 3 h2 w2"], Float[Tensor, "b 1 mel2 s"]] | None:
        """The inputs with their removed patches as `output` predicts them, on the inputs' own scale; None without."""
        if output.image_pred is None or output.audio_pred is None:
            return None
        p = self.config.patch_size
        seen, heard = self.image_input(image), self.audio_input(log_mel)
        return (
            reconstruct(seen, output.image_pred, output.image_mask, patch_size=p, normalized=self.normalizes("image")),
            self.audio_output(
                reconstruct(
                    heard, output.audio_pred, output.audio_mask, patch_size=p, normalized=self.normalizes("audio")
                )
            ),
        )


def vit_names(target: str) -> Rules:
    """Rows that give a published ViT's kernel, blocks and last norm to the ViT `target` of a model."""
    return ((r"((?:patch_embed|blocks|norm)\..+)", rf"{target}.\1"),)


def own_channels(vit: Mapping[str, Tensor], modality: Modality, reduce: str) -> Mapping[str, Tensor]:
    """The ViT with a one-channel patch kernel if an image ViT is loaded for audio; else unchanged."""
    kernel = vit["patch_embed.proj.weight"]
    if modality != "audio" or kernel.shape[1] != 3:
        return vit
    return {**vit, "patch_embed.proj.weight": kernel_from_rgb(kernel, reduce)}
