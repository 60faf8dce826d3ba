"""A model's encoder as a program of its own, without avkit's code: torch.export (.pt2) or ONNX.

Inputs are a batch of windows: `images` [b, 3, h, w], normalized as ImageNet's are, and `log_mel` [b, 1, mel, t] as
`avkit prepare` stores it; of a model of one modality its input alone. Outputs are the vector [b, d] of each stream,
under the stream's name, and its tokens [b, n, d], under NAME_tokens. b is free. The program is run beside the model
before the file is written, and is refused if they differ.
"""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avmanifest.errors import AvkitError, ConfigError, StorageError
from avmanifest.extras import naming_extras
from avmanifest.files import UNFINISHED
from avmanifest.secrets import excerpt
from avmodel.evaluate.loaded import LoadedModel
from avmodel.inputs import IMAGENET_MEAN, IMAGENET_STD
from avmodel.models import family_of
from avmodel.models.family import Family

FORMATS: Final = {"pt2": ".pt2", "onnx": ".onnx"}
"""Formats and the suffix of their files."""

BOUND: Final = 1e-4  # largest difference of an output, relative to the largest output of the model
BATCHES: Final = (1, 2, 5)  # sizes that are compared
NOTE: Final = "avkit.json"  # what a file says of itself: family, inputs, outputs, window


class NotExportedError(AvkitError):
    """The program of a model could not be made, or gives other outputs than the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written program."""

    path: Path
    format: str
    family: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    difference: float  # the largest, relative to the largest output
    bytes: int


class Encoder(nn.Module):
    """The model's vectors and tokens by name, from the inputs of its modalities."""

    def __init__(self, model: Family) -> None:
        super().__init__()
        self.model = model
        self.modalities = tuple(name for name in ("image", "audio") if name in model.modalities)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Outputs of one batch; `inputs` are those of `modalities`, in this order."""
        given = dict(zip(self.modalities, inputs, strict=True))
        found: dict[str, Tensor] = {}
        for name, stream in self.model.encode(given.get("image"), given.get("audio")).items():
            found |= {name: stream.vector, f"{name}_tokens": stream.tokens}
        return found

    def draw(self, size: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs of so many windows, drawn: as normalized images, and as log-mels of the model's scale."""
        generator = torch.Generator().manual_seed(seed)
        config, (factor, shift) = self.model.config, self.model.mel_map
        drawn = {
            "image": torch.randn(size, 3, *config.image_size, generator=generator),
            "audio": (torch.randn(size, 1, *config.audio_size, generator=generator) - shift) / factor,
        }
        return tuple(drawn[name] for name in self.modalities)


INPUTS: Final = {"image": "images", "audio": "log_mel"}


def export_model(
    loaded: LoadedModel, to: Path, *, format: str | None = None, bound: float = BOUND, overwrite: bool = False
) -> Exported:
    """Write the encoder of a model as a program, after it was compared with the model.

    Args:
        loaded: The model, by `load_pretrained`, on the CPU.
        to: The file; its suffix is that of the format.
        format: One of FORMATS; None: as the suffix says. onnx needs the extra `onnx`.
        bound: Largest difference of an output, relative to the largest, with which it is still written.
        overwrite: Replace a file that is there.

    Raises:
        ConfigError: The format or suffix is none, or a file is there.
        NotExportedError: No program could be made of the model, or it differs by more than `bound`.
        StorageError: The file can't be written.
    """
    format = format_of(to, format)
    require_free(to, overwrite=overwrite)
    encoder = Encoder(loaded.model.eval()).eval()
    examples = encoder.draw(2)
    with torch.no_grad(), _problems_of(encoder, format):
        batch = torch.export.Dim("batch", min=1)
        shapes = tuple({0: batch} for _ in examples)
        program = torch.export.export(encoder, examples, dynamic_shapes=(shapes,), strict=False)
    note = _note(loaded, encoder)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        # In a folder, as torch wants the file to have its suffix.
        with tempfile.TemporaryDirectory(prefix=f".{to.name}.", suffix=UNFINISHED, dir=to.parent) as folder:
            unfinished = Path(folder) / to.name
            if format == "pt2":
                torch.export.save(program, unfinished, extra_files={NOTE: json.dumps(note)})
                run = _torch_runner(unfinished)
            else:
                _save_onnx(program, encoder, note, unfinished)
                run = _onnx_runner(unfinished)
            difference = largest_difference(encoder, run)
            if not difference <= bound:  # also for one that is not a number
                raise NotExportedError(
                    f"{to}: outputs of the program differ from the model's by {difference:.2e} of the largest, more "
                    f"than {bound:.0e}: not written. Please report it, with the family {note['family']}."
                )
            unfinished.replace(to)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{to}: not written ({error}). Free space, or give another --to.") from error
    return Exported(
        path=to,
        format=format,
        family=note["family"],
        inputs={name: tuple(shape) for name, shape in note["inputs"].items()},
        outputs={name: tuple(shape) for name, shape in note["outputs"].items()},
        difference=difference,
        bytes=to.stat().st_size,
    )


def format_of(to: Path, format: str | None) -> str:
    """The format of a file of this name. Raises ConfigError for an unknown one, or a name that does not fit it."""
    if format is not None and format not in FORMATS:
        raise ConfigError(f"--format {format}: unknown; known: {', '.join(FORMATS)}")
    found = format or next((name for name, suffix in FORMATS.items() if suffix == to.suffix), None)
    if found is None or to.suffix != FORMATS[found]:
        expected = " or ".join(FORMATS.values()) if found is None else FORMATS[found]
        raise ConfigError(f"--to {to}: give a name that ends in {expected}.")
    return found


def require_free(to: Path, *, overwrite: bool) -> None:
    """Raise ConfigError for a file that is there, unless `overwrite`, and for a folder."""
    if to.is_dir() or (to.exists() and not overwrite):
        raise ConfigError(f"--to {to}: is there already. Give another name, or --overwrite for a file.")


def largest_difference(encoder: Encoder, run: Any) -> float:
    """The largest difference between the outputs of a program and of the encoder, relative to the largest output.

    Of several sizes of batches, each drawn anew. `run`: inputs -> outputs by name.
    """
    worst = 0.0
    for size in BATCHES:
        inputs = encoder.draw(size, seed=size)
        with torch.no_grad():
            expected, found = encoder(*inputs), run(inputs)
        for name, value in expected.items():
            if tuple(found[name].shape) != tuple(value.shape):
                return float("inf")
            far = float((found[name] - value).abs().max() / value.abs().max().clamp_min(1e-6))
            worst = far if not far <= worst else worst
    return worst


def _note(loaded: LoadedModel, encoder: Encoder) -> dict[str, Any]:
    """What the file says of itself, as JSON data."""
    config = loaded.model.config
    sizes = {"images": (3, *config.image_size), "log_mel": (1, *config.audio_size)}
    with torch.no_grad():
        outputs = {name: list(value.shape) for name, value in encoder(*encoder.draw(1)).items()}
    return {
        "family": family_of(config),
        "inputs": {INPUTS[name]: ["batch", *sizes[INPUTS[name]]] for name in encoder.modalities},
        "outputs": {name: ["batch", *shape[1:]] for name, shape in outputs.items()},
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "profile": loaded.profile,
        "window_s": loaded.window_s,
        "fit": loaded.fit,
        "around_frame": loaded.around_frame,
        "license": loaded.origin.get("license"),
        "checkpoint": loaded.origin.get("sha256"),
    }


def _torch_runner(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of buffers that torch itself reads the file into
        program = torch.export.load(path).module()
    return lambda inputs: program(*inputs)


def _save_onnx(program: Any, encoder: Encoder, note: Mapping[str, Any], path: Path) -> None:
    with naming_extras():
        import onnxscript  # noqa: F401, PLC0415 - what torch writes it with

    names = list(note["outputs"])
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with torch.no_grad(), _problems_of(encoder, "onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program,
            input_names=[INPUTS[name] for name in encoder.modalities],
            output_names=names,
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        made.model.metadata_props["avkit"] = json.dumps(note)
        made.save(str(path), external_data=False)


def _onnx_runner(path: Path) -> Any:
    with naming_extras():
        import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(inputs: tuple[Tensor, ...]) -> dict[str, Float[Tensor, "..."]]:
        given = {one.name: value.numpy() for one, value in zip(session.get_inputs(), inputs, strict=True)}
        return {name: torch.from_numpy(value) for name, value in zip(names, session.run(None, given), strict=True)}

    return run


@contextmanager
def _problems_of(encoder: Encoder, format: str) -> Iterator[None]:
    """Convert what torch raises for a model that it cannot export."""
    try:
        yield
    except (AvkitError, OSError, ModuleNotFoundError):
        raise
    except Exception as error:  # torch has many
        family = family_of(encoder.model.config)
        raise NotExportedError(
            f"{family}: torch {torch.__version__} makes no {format} of this model ({excerpt(str(error), 300)}). "
            f"{'Try --format pt2.' if format == 'onnx' else 'Please report it.'}"
        ) from error
