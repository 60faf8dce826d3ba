"""Names of published models, and hf:USER/NAME, where a path is expected. A local path of the same name comes first."""

from pathlib import Path

from avmanifest.errors import ConfigError
from avmanifest.names import either
from avmanifest.secrets import shown_url
from avmodel.registry.entries import Entry, entries, nearest
from avmodel.registry.fetch import here
from avmodel.registry.hub import fetch_published, hub_name

RUNS = Path("runs")  # what is made of a model that has no folder of its own goes to runs/NAME


def named_entry(text: Path | str) -> Entry | None:
    """The published model that a text names; None for a local path and for other texts."""
    entry = entries().get(str(text))
    return None if entry is None or Path(text).exists() else entry


def located(text: Path | str, setting: str = "") -> Path:
    """The file of a named model that was downloaded, or the fetched folder of one of the hub; else the text as a path.

    Args:
        text: A name or a path.
        setting: The setting that has it, for messages: image_weights.

    Raises:
        ConfigError: The model was not downloaded, or the text is nearly the name of one, or the hub has no such model.
        CheckpointError: The file has another size than it was downloaded with.
        StorageError: The hub does not answer.
    """
    if hub_name(text) is not None:
        return fetch_published(str(text))
    said = f"{setting}={shown_url(str(text))}" if setting else shown_url(str(text))
    entry = named_entry(text)
    if entry is None:
        path = Path(text)
        if "/" not in str(text) and not path.suffix and not path.exists() and (near := nearest(str(text))):
            raise ConfigError(
                f"{said}: no such path, and no published model of that name; did you mean {either(near)}? "
                "avkit models lists all."
            )
        return path
    file = here(entry)
    if file is None:
        size = entry.size or "of unknown size"
        raise ConfigError(
            f"{said}: this published model ({size}, licence {entry.licence}) is not here yet. Download it: avkit "
            f"download {entry.name}"
        )
    return file


def hub_folder(text: Path | str) -> Path | None:
    """Where what is made of a model of the hub goes: runs/USER--NAME. None for other texts."""
    name = hub_name(text)
    return None if name is None else RUNS / name.replace("/", "--")


def require_branch(text: Path | str, setting: str) -> None:
    """Raise ConfigError for a named model that does not start the branch of this setting."""
    entry = named_entry(text)
    if entry is None or setting in entry.starts:
        return
    instead = f"It starts {' and '.join(entry.starts)}." if entry.starts else f"It is a whole model: set start={text}."
    raise ConfigError(f"{setting}={text}: {entry.title} does not start this branch. {instead}")


def how_to_get(path: Path) -> str:
    """The command that downloads a file of this name to this place; empty for a name that no published file has."""
    entry = next((entry for entry in entries().values() if entry.file == path.name), None)
    return "" if entry is None else f"Download it: avkit download {entry.name} --to {path.parent}"


def results_place(checkpoint: Path, task: str | None) -> Path:
    """Where the model is looked for that `avkit evaluate TASK` trained from this checkpoint.

    Of a name it is the folder runs/NAME, except for a fine-tuned model, which is such a model itself. `task`: None for
    what takes any model.
    """
    entry = named_entry(checkpoint)
    if task is not None and (folder := hub_folder(checkpoint)) is not None:
        return folder
    if entry is None or task is None or (entry.classes and task == "finetune"):
        return checkpoint
    return RUNS / entry.name
