"""Published fine-tuned checkpoints as classifiers of ours."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from avmanifest.errors import ConfigError
from avmanifest.files import read_text
from avmanifest.names import unknown_name
from avmanifest.recipe import canonical_label, load_recipe
from avmodel.checkpoint import fill_weights
from avmodel.evaluate.config import MODES
from avmodel.evaluate.finetune.classifier import Classifier, save_classifier
from avmodel.renaming import renamed
from avmodel.weights.convert import imported, importer_of
from avmodel.weights.files import read_weights
from avmodel.weights.published import PublishedWeights

DISPLAY_NAME = "display_name"  # the column of class_labels_indices*.csv that names a class


def convert_classifier(
    path: Path,
    out: Path,
    *,
    family: str,
    classes: str,
    mode: str = MODES[0],
    several: bool = False,
    settings: Sequence[str] = (),
) -> PublishedWeights:
    """Write a published fine-tuned checkpoint as a folder that `evaluate finetune` and `apply` take as a classifier.

    Args:
        path: The published file.
        out: The folder to write; it must not be there, or be empty.
        family: The family of the model.
        classes: The classes in the order of the head's outputs: see `listed_classes`.
        mode: The modalities that it was fine-tuned with, one of MODES; the weights don't tell.
        several: Whether a sample may have several classes, as in AudioSet.
        settings: As of `avmodel.weights.convert.convert`.

    Raises:
        ConfigError: The file has no heads of this family, or of another number of classes; or as `convert`.
        StorageError: It can't be written.
    """
    if mode not in MODES:
        raise ConfigError(unknown_name("mode", mode, MODES))
    if out.suffix == ".safetensors" or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ConfigError(f"{out}: give the name of a folder that isn't there: a classifier is a folder")
    published = importer_of(family).heads
    if published is None:
        raise ConfigError(f"--classes: no fine-tuned checkpoints of {family} are imported. Leave --classes out.")
    names = listed_classes(classes)
    heads = renamed(read_weights(path), published.names)
    outputs = {name: len(weight) for name, weight in heads.items() if name.startswith("heads.")}
    if not outputs:
        raise ConfigError(
            f"{path}: no heads of a fine-tuned {family} in it. Leave --classes out for a pretrained model."
        )
    if wrong := {count for count in outputs.values() if count != len(names)}:
        raise ConfigError(f"{path}: heads of {wrong.pop()} classes; {classes} lists {len(names)}.")
    model, license_, notes = imported(path, family, accept_unknown=False, settings=settings)
    classifier = Classifier(
        model,
        len(names),
        mode,
        multi_label=several,
        heads=published.kind,
        head_norm="layer",
        mixed=published.mixed and mode == MODES[0],
    )
    wanted = classifier.heads.state_dict()
    fill_weights(classifier.heads, {name: weight for name, weight in heads.items() if name in wanted}, path)
    save_classifier(out, classifier, names, 0, {}, notes)
    return license_


def listed_classes(text: str) -> tuple[str, ...]:
    """Class names in the order of a head's outputs.

    `text` is a recipe, whose own order is taken, or RECIPE=FILE: a CSV with the column display_name (as CAV-MAE's
    class_labels_indices_vgg.csv), or a name a line. Names become the recipe's spelling. Raises ConfigError for a recipe
    without labels, a file that can't be read, and names that are there twice.
    """
    name, equals, file = text.partition("=")
    recipe = load_recipe(name)
    if not equals:
        if not recipe.labels:
            raise ConfigError(f"--classes {text}: this recipe has no classes of its own. Give {name}=FILE.")
        return recipe.labels
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--classes {text}: cannot be read as a text of class names ({error})") from error
    rows = list(csv.reader(lines))
    if rows and DISPLAY_NAME in rows[0]:
        column = rows[0].index(DISPLAY_NAME)
        if short := next((number for number, row in enumerate(rows, 1) if len(row) <= column), None):
            raise ConfigError(f"{file}: line {short} has no column {DISPLAY_NAME}")
        found = [row[column] for row in rows[1:]]
    else:
        found = [line.strip() for line in lines if line.strip()]
    classes = [canonical_label(recipe, spelling) for spelling in found]
    if not classes:
        raise ConfigError(f"{file}: lists no classes")
    if twice := [one for one, count in Counter(classes).items() if count > 1]:
        raise ConfigError(f"{file}: lists {twice[0]!r} twice")
    return tuple(classes)
