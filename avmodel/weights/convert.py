"""Conversion of a published checkpoint to a .safetensors file with its family, spectrograms and license."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from safetensors import SafetensorError

from avdata.profiles import column_start_s, profile
from avmanifest.errors import ConfigError, StorageError
from avmanifest.files import replacing
from avmanifest.names import unknown_name
from avmanifest.settings import parse
from avmodel.checkpoint import save_weights
from avmodel.models import FAMILIES, imported_families, part
from avmodel.models.family import Family
from avmodel.weights.files import require_file
from avmodel.weights.published import Importer, PublishedWeights, identify


def convert(
    path: Path,
    out: Path,
    *,
    family: str = "deepavfusion",
    accept_unknown: bool = False,
    settings: Sequence[str] = (),
) -> PublishedWeights:
    """Write a published checkpoint of a family as a .safetensors file, and return which file it is.

    `settings` are `key=value` for config fields that the shapes of weights don't determine. `accept_unknown` accepts a
    file whose hash is not that of a published one; no hashes of AVSiam and CAV-MAE are known. Raises as the family's
    importer; ConfigError for an unknown family or setting and for an `out` that exists or has another suffix,
    StorageError if it can't be written.
    """
    if out.suffix != ".safetensors" or out.exists():
        raise ConfigError(f"{out}: {'is there already' if out.exists() else 'give a name ending in .safetensors'}")
    model, published, notes = imported(path, family, accept_unknown=accept_unknown, settings=settings)
    try:
        with replacing(out) as unfinished:
            save_weights(unfinished, model, model.config, notes=notes)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{out}: not written ({error}). Free space, or give another --out.") from error
    return published


def imported(
    path: Path, family: str, *, accept_unknown: bool, settings: Sequence[str]
) -> tuple[Family, PublishedWeights, dict[str, str]]:
    """The model in a published checkpoint, which file it is, and the notes for a checkpoint of ours.

    Arguments and errors as of `convert`.
    """
    importer = importer_of(family)
    hints = get_type_hints(FAMILIES[family].config_type)
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in hints:
            raise ConfigError(f"--set {setting!r}: expected key=value with one of {', '.join(sorted(hints))}")
        given[key] = parse(text, hints[key], key)
    model, published = importer.read(path, **given, **({"accept_unknown": accept_unknown} if importer.known else {}))
    window_s = importer.window_s
    if importer.around_frame:
        window_s = model.config.audio_size[1] * column_start_s(1, profile(importer.profile))
    notes = {
        "profile": importer.profile,
        "window_s": str(window_s),
        "fit": importer.fit,
        "around_frame": str(importer.around_frame),
        "license": published.license,
    }
    return model, published, notes


def read_published(path: Path, *, accept_unknown: bool = False) -> tuple[Family, PublishedWeights, dict[str, str]]:
    """The model in a published file, by the family that the list of published models has for its hash.

    A file that the list does not know is read as DeepAVFusion's. Returns as `imported`. Raises ConfigError for a ViT of
    one modality, which is no whole model, and as the family's importer.
    """
    require_file(path)
    published = identify(path)
    if (entry := published.entry) is None:
        return imported(path, "deepavfusion", accept_unknown=accept_unknown, settings=())
    if not entry.family:
        raise ConfigError(
            f"{path}: {entry.title}: the ViT of one modality, no whole model. It starts a pretraining: --set "
            f"{entry.starts[0]}={path}"
        )
    model, _, notes = imported(path, entry.family, accept_unknown=False, settings=entry.settings)
    return model, published, {**notes, "license": published.license}


def importer_of(family: str) -> Importer:
    """The importer of a family's published checkpoints. Raises ConfigError for a family without any."""
    known = imported_families()
    if family not in known:
        raise ConfigError(unknown_name("--family", family, known))
    importer: Importer = part(str(FAMILIES[family].importer))
    return importer
