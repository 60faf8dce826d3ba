"""Models that avkit published to the Hugging Face hub: their names, and the fetch of their files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from avdata.urls import hub_repository
from avmanifest.errors import ConfigError, StorageError
from avmanifest.extras import naming_extras
from avmodel.checkpoint_folder import MODEL_FILE

LIBRARY: Final = "avkit"
CONFIG_FILE: Final = "config.json"  # the name that the tools of the hub know
FILES: Final = (CONFIG_FILE, MODEL_FILE)


def hub_name(text: Path | str) -> str | None:
    """USER/NAME of hf:USER/NAME or hf:USER/NAME@REVISION; None for other texts. Raises ConfigError for a bad name."""
    repository = hub_repository(str(text), revisions=True)
    return None if repository is None else repository[0]


def fetch_published(place: str, *, cache_dir: Path | None = None) -> Path:
    """The folder of a model of the hub, of one commit, in the cache of huggingface_hub.

    Only config.json and model.safetensors are fetched. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE count as for
    every program.

    Args:
        place: hf:USER/NAME, or hf:USER/NAME@REVISION with a branch, a tag or a commit.
        cache_dir: Where to keep it; None: the cache of huggingface_hub.

    Raises:
        ConfigError: The name is none, or there is no such model.
        StorageError: The hub does not answer, or the disk does not take the files.
    """
    repository = hub_repository(place, revisions=True)
    if repository is None:
        raise ConfigError(f"{place!r}: not a model of the hub. Write hf:USER/NAME.")
    name, revision = repository
    with naming_extras():
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - seldom needed, and slow to import

    folder: Path | None = None
    for file in FILES:
        with _hub_errors(place, file):
            path = hf_hub_download(
                name,
                file,
                revision=revision if folder is None else folder.name,
                cache_dir=cache_dir,
                endpoint=os.environ.get("HF_ENDPOINT"),
                library_name=LIBRARY,
            )
        folder = Path(path).parent  # snapshots/COMMIT
    assert folder is not None
    return folder


@contextmanager
def _hub_errors(place: str, file: str) -> Iterator[None]:
    """Convert the errors of huggingface_hub and of the disk."""
    from huggingface_hub import errors  # noqa: PLC0415

    try:
        yield
    except errors.GatedRepoError as error:
        raise ConfigError(
            f"{place}: access is granted by its owner. Ask for it on the model's page, then set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError(f"{place}: the model has no such revision. Leave @REVISION out for its newest.") from error
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{place}: no such model on the hub, or a private one. Check the name; for a private model set HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise StorageError(
            f"{place}: {file} is not in the cache, and the hub does not answer or is not asked (HF_HUB_OFFLINE). "
            "Connect, and load it once."
        ) from error
    except errors.EntryNotFoundError as error:
        raise ConfigError(
            f"{place}: has no {file}, so it is no model that avkit published. Weights of others come in through "
            "avkit convert."
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise StorageError(f"{place}: {file} could not be fetched ({error}). Try again.") from error
