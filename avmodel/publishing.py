"""A run's model published: as a folder, or as a repository of the Hugging Face hub, with a model card.

The files are those of `avmodel.hub`, and README.md, which has the licence that the user gave, the scores of the same
checkpoint, the data by subset id and the settings. The weights come first, the card last. Files that are there and
equal are left, so an interrupted call is repeated; others are replaced only if asked.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from fsspec.implementations.local import LocalFileSystem

from avdata.store import Store
from avdata.urls import hub_repository, protocol
from avmanifest.errors import ConfigError, StorageError
from avmanifest.extras import naming_extras
from avmanifest.files import replace_text, sha256_of_file
from avmanifest.licences import hub_license
from avmanifest.parsing import metadata_of, read_json
from avmanifest.secrets import shown_content, without_secrets
from avmodel.checkpoint import CONTENT_SHA256
from avmodel.checkpoint_folder import MODEL_FILE
from avmodel.configs.choices import MODEL_WEIGHTS
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.places import EVALUATIONS
from avmodel.evaluate.result import RESULTS_FILE
from avmodel.hub import write_published
from avmodel.models import family_of
from avmodel.registry.entries import entries
from avmodel.registry.hub import LIBRARY
from avmodel.reproduce.report import escape_markdown
from avmodel.run_scores import RunScore, clips_of, read_scores
from avmodel.rundir import CONFIG_FILE, read_config

CARD: Final = "README.md"
FILES: Final = (MODEL_FILE, CONFIG_FILE, CARD)
"""What is published, in the order in which it is written."""

_AGAIN: Final = "What was written is kept; the same command goes on."
_LONGEST_HEADER: Final = 100 << 20  # bytes, as safetensors has it
_ABSOLUTE: Final = re.compile(r"(?<![^\s('\"])[/~]\S*/")  # the folders of an absolute path in a text
_OF_THE_HUB: Final = (".gitattributes",)
_STARTS: Final = ("start", "image_weights", "audio_weights")
# Settings that are of the machine and not of the model.
_NOT_SHOWN: Final = ("data.cache_dir", "data.cache_gb", "data.num_workers", "device", "wandb_", "trackio_", "data.mix")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was published."""

    place: str
    files: tuple[str, ...]
    written: tuple[str, ...]  # those of them that were not there already
    bytes: int
    scored: tuple[str, ...]  # tasks whose scores are in the card
    left_out: tuple[str, ...]  # tasks whose results are of another checkpoint


def publish(
    checkpoint: Path | str,
    to: str,
    *,
    license: str,
    weights: str = MODEL_WEIGHTS,
    private: bool = False,
    overwrite: bool = False,
    store: Store | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Published:
    """Publish a model.

    Args:
        checkpoint: As of `load_pretrained`.
        to: A folder, or hf:USER/NAME. A repository that is not there is made.
        license: License of the weights; an identifier such as cc-by-4.0, or words.
        weights: model, or ema.
        private: Make a new repository private.
        overwrite: Replace files that differ.
        store: Where the files go, in place of the store that `to` names.
        say: Gets a message for the user.

    Raises:
        ConfigError: No license is given, `to` is no place to write, or holds other files.
        StorageError: The place can't be written. The same call goes on.
        AvkitError: As `load_pretrained`.
    """
    if not license.strip():
        raise ConfigError("--license is missing: the licence of the weights, such as cc-by-4.0")
    repository = hub_repository(to)
    if repository is None and protocol(to):
        raise ConfigError(f"--to {to}: give a folder or hf:USER/NAME")
    loaded = load_pretrained(checkpoint, torch.device("cpu"), weights=weights)
    scores, left_out = scores_of(loaded)
    with tempfile.TemporaryDirectory(prefix="avkit-publish-") as folder:
        staged = Path(folder)
        write_published(staged, loaded, license=license)
        replace_text(staged / CARD, card(loaded, scores, license=license, place=to))
        target = store or _target(to, repository, private=private, say=say)
        written = _put(staged, target, overwrite=overwrite, say=say)
        size = sum((staged / name).stat().st_size for name in FILES)
    return Published(
        place=to,
        files=FILES,
        written=written,
        bytes=size,
        scored=tuple(dict.fromkeys(score.task for score in scores)),
        left_out=left_out,
    )


def scores_of(loaded: LoadedModel) -> tuple[tuple[RunScore, ...], tuple[str, ...]]:
    """The scores of this very checkpoint among the run's results, and the tasks whose results are of another one."""
    others = []
    for path in sorted((loaded.folder / EVALUATIONS).glob(f"*/{RESULTS_FILE}")):
        result = read_json(path)
        of = result.get("checkpoint", {}) if isinstance(result, Mapping) else {}
        if not isinstance(of, Mapping) or of.get("sha256") != loaded.origin["sha256"]:
            others.append(path.parent.name)
    found = tuple(score for score in read_scores(loaded.folder) if score.task not in others)
    return found, tuple(others)


def _target(to: str, repository: Any, *, private: bool, say: Callable[[str], object]) -> Store:
    if repository is None:
        folder = Path(to)
        return Store(str(folder), LocalFileSystem(), os.path.realpath(folder), advice=_AGAIN)
    name = repository[0]
    with naming_extras():
        from huggingface_hub import HfApi, HfFileSystem, errors  # noqa: PLC0415 - seldom needed, and slow to import

    endpoint = os.environ.get("HF_ENDPOINT")
    api = HfApi(endpoint=endpoint, library_name=LIBRARY)
    with _hub_errors(to, errors):
        if not api.repo_exists(name):
            api.create_repo(name, private=private, exist_ok=True)
            say(f"{to}: made a {'private' if private else 'public'} repository")
    files = HfFileSystem(endpoint=endpoint, skip_instance_cache=True, use_listings_cache=False)
    return Store(f"hf://{name}", files, name, advice=_AGAIN)


@contextmanager
def _hub_errors(to: str, errors: Any) -> Iterator[None]:
    try:
        yield
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            raise ConfigError(
                f"{to}: the hub does not let you write there. Log in (hf auth login) or set HF_TOKEN to a token that "
                "may write, and check the name."
            ) from error
        raise StorageError(f"{to}: the hub refused ({error}). Try again.") from error
    except (errors.HFValidationError, OSError) as error:
        raise StorageError(f"{to}: the hub does not answer ({error}). Try again.") from error


def _put(staged: Path, target: Store, *, overwrite: bool, say: Callable[[str], object]) -> tuple[str, ...]:
    """Write the files that the target lacks; those that it has otherwise only with `overwrite`."""
    held = target.sizes()
    own = Store(str(staged), LocalFileSystem(), str(staged))
    equal = {name for name in FILES if name in held and _content(own, name) == _content(target, name)}
    foreign = [name for name in held if name not in (*FILES, *_OF_THE_HUB)]
    differing = [name for name in FILES if name in held and name not in equal]
    if differing and not overwrite:
        raise ConfigError(
            f"{target.root}: holds other files of these names: {', '.join(differing)}. To replace them, give "
            "--overwrite."
        )
    if foreign and not overwrite and not equal:
        raise ConfigError(
            f"{target.root}: holds {foreign[0]} and {len(foreign) - 1} more files, and no model. Give --to another "
            "place."
        )
    written = []
    for name in FILES:
        if name in equal:
            say(f"{name}: is there already")
            continue
        target.put(staged / name, name)
        if target.sha256(name) != sha256_of_file(staged / name):
            raise StorageError(f"{target.at(name)}: the copy differs from the file. Publish again.")
        written.append(name)
        say(f"{name}: written")
    return tuple(written)


def _content(store: Store, name: str) -> Any:
    """What tells whether a file is the same: of weights their header, which has a hash of all of it.

    Equal weights and configs may differ in the order of their entries, and so in their bytes.
    """
    if name != MODEL_FILE:
        content = store.content(name)
        return metadata_of(content) if name == CONFIG_FILE else content
    length = int.from_bytes(store.read_range(name, 0, 8), "little")
    header = metadata_of(store.read_range(name, 8, min(length, _LONGEST_HEADER)))
    return store.size(name), header if CONTENT_SHA256 in header.get("__metadata__", {}) else None


def card(loaded: LoadedModel, scores: tuple[RunScore, ...], *, license: str, place: str) -> str:
    """The model card: YAML for the hub, then what it is, how to load it, scores, data, settings."""
    family, origin = family_of(loaded.model.config), loaded.origin
    head = {
        **hub_license(license),
        "library_name": LIBRARY,
        "tags": ["audio", "video", "audio-visual", family],
        "pipeline_tag": "feature-extraction",
    }
    name = place.removeprefix("hf:").rstrip("/").rpartition("/")[2] or family
    count = sum(p.numel() for p in loaded.model.parameters())
    run, step = origin.get("run"), origin.get("step")
    trained = f"run {escape_markdown(str(run))}" if run else "no recorded run"
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n",
        f"# {escape_markdown(name)}\n",
        f"An audio-visual model of the family `{family}`, {count:,} parameters, {trained}"
        + (f", step {step:,}." if step else "."),
        f"\nIt hears {_heard(loaded)}.\n",
        "## Use\n",
        _usage(place),
        "## Scores\n",
        _scores(scores),
        _tests(loaded, scores),
        "## Training data\n",
        _data(origin.get("data") or []),
        "## Licence\n",
        _licence(loaded, license),
        "## Settings\n",
        _settings(loaded),
        f"Checkpoint sha256: `{origin.get('sha256')}`. Made with avkit.\n",
    ]
    return without_secrets("\n".join(parts))


def _heard(loaded: LoadedModel) -> str:
    window = "whole clips" if loaded.window_s is None else f"windows of {loaded.window_s:g} s"
    around = " around a frame" if loaded.around_frame else ""
    fit = f"; frames become square by {loaded.fit}" if loaded.fit else ""
    return f"{window}{around} as `{loaded.profile or 'unknown'}` log-mel spectrograms{fit}"


def _usage(place: str) -> str:
    where = json.dumps(place if hub_repository(place) is not None else Path(place).name)
    return (
        "```python\n# pip install 'avkit[train]'\nimport avkit\n\n"
        f'model = avkit.load_model({where})\nvectors = model.embed("clip.mp4")\n'
        "print({name: array.shape for name, array in vectors.items()})\n```\n"
    )


def _scores(scores: tuple[RunScore, ...]) -> str:
    if not scores:
        return "This checkpoint was not evaluated.\n"
    lines = ["| task | row | metric | score | 95 % interval | clips |", "|---|---|---|---:|---:|---:|"]
    for score in scores:
        number = score.number
        value = "-" if number.value != number.value else f"{number.value:.2f}"
        value += "" if number.spread is None else f" ± {number.spread:.2f}"
        interval = "-" if number.interval is None else f"{number.interval[0]:.2f} to {number.interval[1]:.2f}"
        clips = "-" if number.samples is None else f"{number.samples:,}"
        cells = [escape_markdown(text) for text in (score.task, score.row, score.metric)]
        cells = [f"**{cell}**" for cell in cells] if score.is_headline else cells
        lines.append(f"| {' | '.join([*cells, value, interval, clips])} |")
    return "\n".join([*lines, "", "Bold: the score that avkit quotes for the task. ±: deviation over seeds.", ""])


def _tests(loaded: LoadedModel, scores: tuple[RunScore, ...]) -> str:
    """For each task the clips of the test and of the training, and what the result says of itself, such as leaks."""
    lines = []
    for task in dict.fromkeys(score.task for score in scores):
        result = read_json(loaded.folder / EVALUATIONS / task / RESULTS_FILE)
        tested, trained = (clips_of(result.get("data", {}).get(name, {})) for name in ("test", "train"))
        notes = [note for note in result.get("notes") or [] if isinstance(note, str)]
        said = [f"tested on {tested}" if tested else "", f"trained on {trained}" if trained else "", *notes]
        text = "; ".join(_ABSOLUTE.sub("", one) for one in said if one)
        lines += [f"- {escape_markdown(task)}: {escape_markdown(text)}"] if text else []
    return "\n".join([*lines, ""]) if lines else ""


def _data(parts: Any) -> str:
    rows = [part for part in parts if isinstance(part, Mapping)]
    if not rows:
        return "Not recorded.\n"
    lines = ["| dataset | clips | subset id |", "|---|---:|---|"]
    for part in rows:
        samples = part.get("samples")
        count = f"{samples:,}" if isinstance(samples, int) else "-"
        name, subset = (escape_markdown(str(part.get(key, "-"))) for key in ("name", "subset_id"))
        lines.append(f"| {name} | {count} | {subset} |")
    return "\n".join([*lines, "", "The subset id is a hash of the clips' keys: equal ids are equal sets of clips.", ""])


def _licence(loaded: LoadedModel, license: str) -> str:
    lines = [f"Weights: {escape_markdown(license)}."]
    if loaded.origin.get("license") not in (None, license):
        lines.append(f"The checkpoint notes: {escape_markdown(str(loaded.origin['license']))}.")
    settings = read_config(loaded.folder) or {}
    by_file = {entry.file: entry for entry in entries().values()}
    for setting in _STARTS:
        given = str(settings.get(setting) or "")
        entry = entries().get(given) or by_file.get(Path(given).name)
        if entry is not None:
            lines.append(f"It started from {escape_markdown(entry.title)}: {escape_markdown(entry.licence)}.")
    return "\n".join([*dict.fromkeys(lines), ""])


def _settings(loaded: LoadedModel) -> str:
    settings = read_config(loaded.folder) or {
        f"model.{name}": value for name, value in loaded.origin.get("config", {}).items()
    }
    shown = {name: _plain(value) for name, value in shown_content(settings).items() if not name.startswith(_NOT_SHOWN)}
    rows = [f"| {escape_markdown(name)} | {escape_markdown(json.dumps(value))} |" for name, value in shown.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows, ""])


def _plain(value: Any) -> Any:
    """A value without the folders of this machine: of an absolute path its name alone."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value
