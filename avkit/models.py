"""Trained models: clips and batches to vectors."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float32

from avdata.dataset import Dataset as Samples
from avdata.load.batch import ArrayBatch
from avdata.load.views import EvalView
from avdata.urls import hub_repository, with_home
from avdata.video_windows import iter_windows
from avmanifest.errors import ConfigError, DecodeError
from avmanifest.extras import naming_extras, require_extras
from avmanifest.names import near_paths, no_such
from avmanifest.secrets import shown_url
from avmanifest.wording import counted

if TYPE_CHECKING:
    from avdata.load.tensors import Batch
    from avmodel.evaluate.loaded import LoadedModel


class Embeddings(Mapping[str, np.ndarray]):
    """Vectors by stream: `embeddings["audio"]` is float32 [n, width], a row a window of the clip, or a sample.

    Streams are image, audio and, for models with one, fusion or joint; those of a modality that the input lacks are
    missing. `start_s` and `end_s` are the spans of the windows in the clip; None for batches.
    """

    def __init__(
        self,
        vectors: Mapping[str, Float32[np.ndarray, "n _"]],
        start_s: Float32[np.ndarray, " n"] | None = None,
        end_s: Float32[np.ndarray, " n"] | None = None,
    ) -> None:
        """As `Model.embed` makes them."""
        self.start_s, self.end_s = start_s, end_s
        self._vectors = dict(vectors)

    def __getitem__(self, stream: str) -> Float32[np.ndarray, "n _"]:
        return self._vectors[stream]

    def __iter__(self) -> Iterator[str]:
        return iter(self._vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    def __repr__(self) -> str:
        shapes = ", ".join("{} {} x {}".format(name, *x.shape) for name, x in self._vectors.items())
        over = "" if self.start_s is None or self.end_s is None else f", {self.start_s[0]:g} to {self.end_s[-1]:g} s"
        return f"Embeddings({shapes}{over})"


class Model:
    """A trained model, in evaluation mode. `embed` makes vectors of clips and batches."""

    def __init__(self, loaded: "LoadedModel", place: str) -> None:
        """As `load_model` makes it."""
        self.loaded = loaded
        """The model with what its checkpoint says of the data, for functions of avmodel."""
        self.place = place
        """Where it was loaded from, without secrets."""

    @property
    def module(self) -> Any:
        """The torch module, an `avmodel.models.family.Family`."""
        return self.loaded.model

    @property
    def family(self) -> str:
        """Name of the family, such as deepavfusion."""
        return str(self.loaded.origin["family"])

    @property
    def config(self) -> Any:
        """The model's config, such as `config.image_size`."""
        return self.loaded.model.config

    @property
    def num_parameters(self) -> int:
        """Numbers that were learned."""
        return sum(parameter.numel() for parameter in self.loaded.model.parameters())

    @property
    def device(self) -> str:
        """Where the weights are, such as cpu or cuda:0."""
        return str(next(self.loaded.model.parameters()).device)

    @property
    def view(self) -> EvalView:
        """The view of a sample that the model was trained with: `dataset.loader(view=model.view, shuffle=False)`."""
        from avmodel.evaluate.config import EvalDataConfig  # noqa: PLC0415 - imports torch
        from avmodel.evaluate.data import one_view  # noqa: PLC0415

        return one_view(EvalDataConfig(), self.loaded)

    def to(self, device: str) -> "Model":
        """The same model on another device, such as cuda or cuda:1. Raises ConfigError for one that is not there."""
        from avmodel.distributed import choose_device  # noqa: PLC0415

        self.loaded.model.to(choose_device(device))
        return self

    @overload
    def embed(
        self,
        what: str | Path,
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        fps: float | None = None,
    ) -> Embeddings: ...

    @overload
    def embed(
        self,
        what: list[Any] | tuple[str | Path, ...],
        *,
        window_s: float | None = None,
        hop_s: float | None = None,
        fps: float | None = None,
    ) -> list[Embeddings]: ...

    @overload
    def embed(self, what: "ArrayBatch | Batch") -> Embeddings: ...

    @overload
    def embed(self, *, images: np.ndarray | None = None, log_mel: np.ndarray | None = None) -> Embeddings: ...

    def embed(
        self,
        what: Any = None,
        *,
        images: np.ndarray | None = None,
        log_mel: np.ndarray | None = None,
        window_s: float | None = None,
        hop_s: float | None = None,
        fps: float | None = None,
    ) -> Any:
        """Vectors of a clip, of several clips, or of a batch.

        Args:
            what: A path of a video or audio file; or a list of them; or a batch of a loader with `view=model.view`.
            images: In place of `what`: frames of a batch, uint8 RGB [b, 3, h, w], of the model's image size.
            log_mel: In place of `what`: log-mels of a batch, [b, mel, t], of the profile `model.view.profile`. With
                `images` or alone.
            window_s: For files: seconds of a window; None: as in training.
            hop_s: For files: seconds from a window's start to the next one's; None: window_s.
            fps: For files: frames a second, whose vectors are averaged; None: one frame, in the middle of the window.

        Returns:
            `Embeddings` of a file (a row a window) or of a batch (a row a sample); of a list, a list of them.

        Raises:
            ConfigError: There is no such file, or arrays do not fit the model.
            DecodeError: A file is no media file, or has neither sound nor pictures that the model can read.
        """
        given = [
            name
            for name, value in (("a clip or batch", what), ("images", images), ("log_mel", log_mel))
            if value is not None
        ]
        if not given or (what is not None and len(given) > 1):
            raise ConfigError(
                f"embed takes a clip, a list of clips, or a batch; or images, log_mel or both. Given: "
                f"{', '.join(given) or 'nothing'}."
            )
        if isinstance(what, str | Path):
            return self._embed_clip(with_home(str(what)), window_s, hop_s, fps)
        if isinstance(what, list | tuple):
            return [self._embed_clip(clip, window_s, hop_s, fps) for clip in _paths(what)]
        for name, value in (("window_s", window_s), ("hop_s", hop_s), ("fps", fps)):
            if value is not None:
                raise ConfigError(f"{name}={value} is for files; a batch's windows are as its loader made them.")
        if what is None:
            return self._embed_arrays(images, log_mel)
        return self._embed_batch(what)

    def _embed_clip(
        self, clip: str | Path, window_s: float | None, hop_s: float | None, fps: float | None
    ) -> Embeddings:
        from avmodel.apply.embed import VideoEmbedder  # noqa: PLC0415
        from avmodel.apply.inputs import span_windows, window_inputs  # noqa: PLC0415
        from avmodel.configs.apply import SpanConfig  # noqa: PLC0415

        config = SpanConfig(window_s=window_s, hop_s=hop_s, fps=fps)
        inputs = window_inputs(self.loaded, config.window_s, fit=config.fit)
        embedder = VideoEmbedder(loaded=self.loaded, inputs=inputs, window_config=span_windows(inputs, config))
        rows: list[Mapping[str, np.ndarray]] = []
        spans: list[tuple[float, float]] = []
        try:
            for window, vectors in embedder(iter_windows(clip, embedder.window_config)):
                rows.append(vectors)
                spans.append((window.start_s, window.end_s))
        except DecodeError as error:  # what a model lacks does not name the clip
            if str(clip) in error.message:
                raise
            raise DecodeError(error.status, f"{clip}: {error.message}") from error
        start_s, end_s = np.array(spans, np.float32).T
        return Embeddings({name: np.stack([row[name] for row in rows]) for name in rows[0]}, start_s, end_s)

    def _embed_batch(self, batch: Any) -> Embeddings:
        from avdata.load.tensors import Batch, as_tensors  # noqa: PLC0415 - needs torch

        if isinstance(batch, ArrayBatch):
            batch = as_tensors(batch)
        if not isinstance(batch, Batch):
            hint = (
                " For a dataset, embed the batches of its loader."
                if isinstance(batch, Samples) or hasattr(batch, "loader")
                else ""
            )
            raise ConfigError(
                f"embed of a {type(batch).__name__}: expected a path, a list of paths, or a batch of a loader.{hint}"
            )
        if batch.profile != self.view.profile:
            raise ConfigError(
                f"the batch has {batch.profile!r} spectrograms, the model was trained on {self.view.profile!r}. Make "
                "the loader with view=model.view."
            )
        if batch.images.ndim != 4 or batch.log_mel.ndim != 3:
            raise ConfigError("the batch has several windows or frames a sample. Make the loader with view=model.view.")
        return self._encoded(batch.images, batch.gained_log_mel())

    def _embed_arrays(self, images: np.ndarray | None, log_mel: np.ndarray | None) -> Embeddings:
        import torch  # noqa: PLC0415

        for name, array, axes in (("images", images, "[b, 3, h, w]"), ("log_mel", log_mel, "[b, mel, t]")):
            if array is not None and np.ndim(array) != axes.count(",") + 1:
                raise ConfigError(f"{name} of shape {list(np.shape(array))}: expected {axes}.")
        if images is not None and np.asarray(images).dtype != np.uint8:
            raise ConfigError(f"images are {np.asarray(images).dtype}: expected uint8, RGB from 0 to 255.")
        if images is not None and log_mel is not None and len(images) != len(log_mel):
            raise ConfigError(
                f"{counted(len(images), 'image')} and {counted(len(log_mel), 'log-mel')}: expected as many of each."
            )
        if not len(images if images is not None else log_mel):  # type: ignore[arg-type]  # one is given
            raise ConfigError("an empty batch: expected at least one sample.")
        frames = None if images is None else torch.from_numpy(np.ascontiguousarray(images))
        heard = None if log_mel is None else torch.from_numpy(np.ascontiguousarray(log_mel, np.float32))
        return self._encoded(frames, heard)

    def _encoded(self, images: Any, log_mel: Any) -> Embeddings:
        import torch  # noqa: PLC0415

        from avmodel.inputs import normalize_images  # noqa: PLC0415

        config, device = self.config, self.device
        wanted = (config.audio_size[0], tuple(config.image_size))
        if images is not None and (images.shape[1] != 3 or tuple(images.shape[2:]) != wanted[1]):
            height, width = wanted[1]
            raise ConfigError(
                f"images of shape {list(images.shape)}: this model takes [b, 3, {height}, {width}]. A loader with "
                "view=model.view makes them."
            )
        if log_mel is not None and log_mel.shape[1] != wanted[0]:
            raise ConfigError(
                f"log_mel of shape {list(log_mel.shape)}: this model takes [b, {wanted[0]}, t]. A loader with "
                "view=model.view makes them."
            )
        columns = config.audio_size[1]
        if log_mel is not None and not columns <= log_mel.shape[2] < columns + config.patch_size:
            raise ConfigError(
                f"log_mel of shape {list(log_mel.shape)}: this model takes [b, {wanted[0]}, {columns}], or up to "
                f"{config.patch_size - 1} further columns. A loader with view=model.view makes them."
            )
        if log_mel is not None and not bool(torch.isfinite(log_mel).all()):
            raise ConfigError("log_mel has values that are not finite, of which there are no vectors.")
        given = {"image": images, "audio": log_mel}
        learned = self.loaded.model.modalities
        if not any(given[modality] is not None for modality in learned):
            name = "log_mel" if learned == ("audio",) else "images"
            raise ConfigError(f"this model has learned from {' and '.join(learned)} alone. Give {name}.")
        seen = None if images is None else normalize_images(images.to(device))
        heard = None if log_mel is None else log_mel.float().to(device).unsqueeze(1)
        with torch.no_grad():
            streams = self.loaded.model.encode(seen, heard)
        return Embeddings({name: stream.vector.float().cpu().numpy() for name, stream in streams.items()})

    def __repr__(self) -> str:
        return f"Model({self.family}, {_rounded(self.num_parameters)} parameters, {self.device}, from {self.place})"


def load_model(place: str | Path, *, device: str = "auto", weights: str = "model") -> Model:
    """Load a trained model.

    Args:
        place: The folder of a run or of a checkpoint, a .safetensors file (released weights become one by
            `avkit convert`), a name of `avkit models` that was downloaded, the folder of a published model, or one of
            the Hugging Face hub: hf:USER/NAME or hf:USER/NAME@REVISION. Models of the hub are fetched once and kept.
        device: auto, cpu, cuda or cuda:NUMBER. auto: cuda if there is one.
        weights: model, or ema for the moving average of the weights, of a run with ema_decay.

    Raises:
        ConfigError: torch is not installed, or there is no such model.
        CheckpointError: Its files are damaged.
        StorageError: The hub does not answer.

    Example:
        ```python
        model = avkit.load_model("runs/first")
        print(model.embed("clip.mp4")["audio"].shape)  # (windows, width)
        ```
    """
    require_extras("torch")
    place = name = with_home(str(place))
    with naming_extras():
        from avmodel.configs.choices import WEIGHTS  # noqa: PLC0415
        from avmodel.distributed import choose_device  # noqa: PLC0415
        from avmodel.evaluate.loading import load_pretrained  # noqa: PLC0415
        from avmodel.hub import load_published  # noqa: PLC0415
        from avmodel.registry.named import located, named_entry  # noqa: PLC0415

        if weights not in WEIGHTS:
            raise ConfigError(f"weights={weights!r}: known: {', '.join(WEIGHTS)}.")
        chosen = choose_device(device)
        if hub_repository(name, revisions=True) is not None:
            if weights != "model":
                raise ConfigError(f"weights={weights}: a published model has one set of weights. Leave it out.")
            return Model(load_published(name, chosen), name)
        if named_entry(place) is None and not located(place).exists():
            raise ConfigError(
                f"{shown_url(name)}: no such model. Give a run's folder, a checkpoint, a .safetensors file, a name of "
                f"avkit models, or hf:USER/NAME.{near_paths(place)}"
            )
        return Model(load_pretrained(place, chosen, weights=weights), shown_url(name))


def _paths(clips: Sequence[Any]) -> list[str | Path]:
    """The clips, all of which are there. Raises ConfigError else, before any is decoded."""
    for clip in clips:
        if not isinstance(clip, str | Path):
            raise ConfigError(f"embed of a list with a {type(clip).__name__}: expected paths.")
        if not Path(with_home(str(clip))).exists():
            raise ConfigError(no_such("video", clip))
    return [with_home(str(clip)) for clip in clips]


def _rounded(count: int) -> str:
    """A count in three digits: 211 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
