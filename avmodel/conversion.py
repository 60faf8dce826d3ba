"""A published checkpoint as a file of ours, which says its family, its spectrograms and its license."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from safetensors import SafetensorError

from avmanifest.errors import ConfigError, StorageError
from avmodel.checkpoint import save_weights
from avmodel.convert import PublishedWeights, import_deepavfusion
from avmodel.imports import import_avsiam, import_cav_mae
from avmodel.models import FAMILIES
from avmodel.models.family import Family
from avmodel.overrides import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """How a family's published checkpoints are read, and what they were trained on."""

    read: Callable[..., tuple[Family, PublishedWeights]]
    profile: str  # of the spectrograms
    window_s: float | None  # None: the whole clip
    known: bool = False  # the published files are known by size and sha256


IMPORTERS: dict[str, Importer] = {
    "deepavfusion": Importer(read=import_deepavfusion, profile="released", window_s=3.0, known=True),
    "avsiam": Importer(read=import_avsiam, profile="kaldi", window_s=None),
    "cavmae": Importer(read=import_cav_mae, profile="kaldi", window_s=None),
}


def convert(
    path: Path,
    out: Path,
    *,
    family: str = "deepavfusion",
    accept_unknown: bool = False,
    settings: Sequence[str] = (),
) -> PublishedWeights:
    """Write a published checkpoint of that family as a .safetensors file; what it was.

    `settings` are `key=value` of config fields that shapes don't tell. `accept_unknown` takes a file that is not one of
    those known byte for byte; of AVSiam and CAV-MAE none is known so. Raises as the family's importer; ConfigError for
    an unknown family or setting and for an `out` that is there already or has another suffix, StorageError if it can't
    be written.
    """
    if family not in IMPORTERS:
        raise ConfigError(f"unknown --family {family!r}; known: {', '.join(IMPORTERS)}")
    if out.suffix != ".safetensors" or out.exists():
        raise ConfigError(f"{out}: {'is there already' if out.exists() else 'give a name ending in .safetensors'}")
    importer, hints = IMPORTERS[family], get_type_hints(FAMILIES[family].config_type)
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in hints:
            raise ConfigError(f"--set {setting!r}: expected key=value with one of {', '.join(sorted(hints))}")
        given[key] = parse(text, hints[key], key)
    model, published = importer.read(path, **given, **({"accept_unknown": accept_unknown} if importer.known else {}))
    notes = {"profile": importer.profile, "window_s": str(importer.window_s), "license": published.license}
    unfinished = out.with_name(f".unfinished-{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_weights(unfinished, model, model.config, notes=notes)
        unfinished.replace(out)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise StorageError(f"{out}: not written ({error}). Free space, or give another --out.") from error
    return published
