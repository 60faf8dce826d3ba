"""The official lists of a recipe, fetched from where its authors keep them."""

from pathlib import Path

import fsspec

from avmanifest.errors import ConfigError, DownloadError
from avmanifest.files import replace_bytes, sha256_of, sha256_of_file
from avmanifest.recipe import ListSpec, Recipe

MAX_LIST_BYTES = 512 * 2**20


def fetch_lists(recipe: Recipe, splits: tuple[str, ...] | None, folder: Path) -> Path:
    """Fetch the lists that the splits need into the folder, each under its official name; the folder.

    A file that is there with the right hash is not fetched again. Raises ConfigError for a list that has no
    address, DownloadError for one that cannot be had or is not the file the recipe names.
    """
    wanted = splits or recipe.default_splits
    specs = [spec for spec in recipe.lists if not wanted or not spec.splits or set(wanted) & set(spec.splits)]
    for spec in specs:
        target = folder / spec.file
        if not spec.url:
            raise ConfigError(f"recipe {recipe.name}: {spec.file or 'its list'} has no address; give it with --list")
        if not target.exists() or (spec.sha256 and sha256_of_file(target) != spec.sha256):
            replace_bytes(target, _download(recipe, spec), shared=True)
    return folder


def _download(recipe: Recipe, spec: ListSpec) -> bytes:
    remedy = "Download it yourself and give it with --list."
    try:
        with fsspec.open(spec.url, "rb") as file:
            content = bytes(file.read(MAX_LIST_BYTES + 1))
    except Exception as error:
        raise DownloadError(
            "net_http", f"recipe {recipe.name}: {spec.url}: cannot be fetched ({error!r}). {remedy}"
        ) from error
    if len(content) > MAX_LIST_BYTES:
        raise DownloadError("net_http", f"recipe {recipe.name}: {spec.url}: more than {MAX_LIST_BYTES} bytes. {remedy}")
    if spec.sha256 and sha256_of(content) != spec.sha256:
        raise DownloadError(
            "net_http",
            f"recipe {recipe.name}: {spec.url}: its sha256 is {sha256_of(content)}, not {spec.sha256}. {remedy}",
        )
    return content
