"""Data of an evaluation: splits with the same classes, checks of their labels and of leaks, and views."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from avdata.load import (
    AllFramesView,
    Dataset,
    EvalView,
    Loader,
    LoaderConfig,
    OrderConfig,
    TrainView,
    View,
    describe_dataset,
    is_folder,
    manifest_rows,
    open_dataset,
    relabel,
    select,
    splits_of,
)
from avdata.profiles import PROFILES
from avmanifest.duplicates import shared_footage
from avmanifest.errors import ConfigError, ManifestError, MissingSplit
from avmanifest.keys import clip_keys, subset_id
from avmanifest.lists import read_requests
from avmanifest.recipe import load_recipe, recipe_names
from avmanifest.secrets import shown_url
from avmanifest.splits import split_names
from avmanifest.wording import counted
from avmodel.distributed import World
from avmodel.evaluate.config import EvalDataConfig
from avmodel.evaluate.loaded import LoadedModel
from avmodel.inputs import Source, cache_of, image_side

_FOOTAGE = ("key", "status", "video_id", "source_sha256", "source", "start_s", "end_s")
_SHOWN = 3
_LOG: Final = logging.getLogger(__name__)


class Split(NamedTuple):
    """Samples to train a head on, or to test."""

    dataset: Dataset
    name: str  # such as vggsound/test
    notes: tuple[str, ...] = ()  # caveats that results.json keeps
    where: str | None = None  # the condition that its samples meet
    manifests: tuple[tuple[str, str], ...] = ()  # folder and split of each manifest that they are of; none of shards

    @property
    def subset_id(self) -> str:
        """The same for the same samples, wherever they lie."""
        return subset_id(self.dataset.keys)

    @property
    def multi_label(self) -> bool:
        """Whether some sample has several classes."""
        return bool((np.diff(self.dataset.label_start) > 1).any())

    def described(self) -> dict[str, Any]:
        """The description of the split that results.json keeps."""
        described = {"split": self.name, "subset_id": self.subset_id, "samples": len(self.dataset)}
        return described if self.where is None else described | {"where": self.where}


def open_splits(
    data: EvalDataConfig, test: Source, train: Source | None, *, labeled: bool = True
) -> tuple[Split, Split]:
    """The training and the test split. `train` None: of the same folder as the test. Not `labeled`: classes may be any.

    Raises ConfigError if a split is missing, has no labels, if their classes or their recipe's differ
    (unless data.other_labels), or if training clips have footage of test clips (as data.leaks says).
    """
    trained = open_split(data, test if train is None else train, data.train_split, labeled=labeled)
    tested = open_split(data, test, data.test_split, labeled=labeled)
    if labeled and trained.dataset.classes != tested.dataset.classes:
        ours, theirs = set(trained.dataset.classes), set(tested.dataset.classes)
        raise ConfigError(
            f"{trained.name} has {counted(len(ours), 'class', 'classes')} and {tested.name} {len(theirs)}; only in "
            f"one of them: {', '.join(map(repr, sorted(ours ^ theirs)[:_SHOWN])) or 'none, but their order differs'}. "
            "A head learned on one says nothing of the other: prepare both with one recipe."
        )
    trained, leak_note = without_leaks(data, trained, tested)
    if data.test_labels is not None:
        tested = relabeled(data, tested)
    return trained, tested._replace(notes=(*tested.notes, *leak_note))


def open_split(data: EvalDataConfig, source: Source, split: str, *, labeled: bool = True) -> Split:
    """One split, or several as one, in the dataset's own order. `labeled` asks for labels that are its recipe's.

    Only a prepared dataset's folder has splits; of shards, all are taken.
    """
    folder, cache = is_folder(source), cache_of(data)
    try:
        dataset = open_dataset(source, split if folder else None, exclude=data.exclude, where=data.where, cache=cache)
    except MissingSplit as error:
        naming = [f"data.{name}" for name in ("train_split", "test_split") if getattr(data, name) == split]
        raise (error.for_setting(naming[0]) if naming else error) from error
    _refuse_repeated(dataset, source)
    places = {root: splits_of(root, split, cache) for root in roots_of(source)}
    of_folder = Path(shown_url(str(source))).name if isinstance(source, str | Path) else "shards"
    name = f"{of_folder}/{split}" if folder else "shards"
    notes: tuple[str, ...] = ()
    for root, splits in places.items():
        recipe = (describe_dataset(root, cache) or {}).get("recipe", {}).get("name", "")
        name = f"{recipe or of_folder}/{'+'.join(splits)}"
        if labeled and recipe in recipe_names() and (known := load_recipe(recipe).labels) != dataset.classes and known:
            said = (
                f"{shown_url(root)}: its {len(dataset.classes)} classes are not the {len(known)} of recipe {recipe}, "
                "in its order"
            )
            if not data.other_labels:
                raise ConfigError(
                    f"{said}: the score could not be compared with anyone's. Prepare it with the recipe as it is, or "
                    "set data.other_labels=true (the result then says so)."
                )
            notes += (said,)
    if labeled and not len(dataset.label_ids):
        raise ConfigError(f"{name}: no sample has a label. Prepare it from a list with labels.")
    manifests = tuple((root, own) for root, splits in places.items() for own in splits)
    return Split(dataset, name, notes, data.where, manifests)


def _refuse_repeated(dataset: Dataset, source: Source) -> None:
    """Raise ConfigError if a key is of several samples, as of several folders that have the same clips or names."""
    if pc.count_distinct(dataset.keys).as_py() == len(dataset):
        return
    counts = pc.value_counts(dataset.keys)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    places = [shown_url(str(one)) for one in ([source] if isinstance(source, str | Path) else source)]
    raise ConfigError(
        f"{', '.join(places)}: {counted(len(repeated), 'key')} of several samples, such as {repeated[0].as_py()}, so "
        "clips would count twice or be taken for others. Leave the clips out of one (avkit dataset subset), or make "
        "one dataset of them (avkit dataset merge --prefix)."
    )


def only_labeled(split: Split) -> Split:
    """The split without the samples that have no class."""
    has_class = np.diff(split.dataset.label_start) > 0
    return split if has_class.all() else split._replace(dataset=select(split.dataset, has_class))


def label_notes(train: Split, test: Split) -> tuple[str, ...]:
    """What a score of classes must say: clips without one, which are left out, and classes that were not trained."""
    notes = []
    for kind, split in [("test clip", test), *([] if train is test else [("training clip", train)])]:
        if without := len(split.dataset) - len(only_labeled(split).dataset):
            notes.append(f"left out: {counted(without, kind)} without a label")
    unseen = np.setdiff1d(test.dataset.label_ids, train.dataset.label_ids)
    if len(unseen):
        few = ", ".join(repr(test.dataset.classes[label]) for label in unseen[:_SHOWN].tolist())
        notes.append(f"{counted(len(unseen), 'class', 'classes')} of the test without a training clip, such as {few}")
    return tuple(notes)


def roots_of(source: Source) -> list[str]:
    """The prepared folders of a source; none of shards."""
    if not is_folder(source):
        return []
    return [str(root).rstrip("/") for root in ([source] if isinstance(source, str | Path) else source)]


def without_leaks(data: EvalDataConfig, trained: Split, tested: Split) -> tuple[Split, tuple[str, ...]]:
    """The training split as data.leaks asks for, and the notes for the result.

    Raises ConfigError, naming clips, if there are leaks to be refused.
    """
    train_rows, test_rows = footage(data, trained), footage(data, tested)
    keys = shared_footage(train_rows, test_rows)
    if not len(keys):
        return trained, ()
    said = f"{len(keys)} of {len(trained.dataset)} training clips show what test clips show"
    if data.leaks == "refuse":
        raise ConfigError(
            f"{trained.name}, {tested.name}: {said}: {', '.join(keys.slice(0, _SHOWN).to_pylist())}, ... The score "
            "would measure memorization. Set data.leaks=drop to leave them out of training, or allow (the result then "
            "says so)."
        )
    if data.leaks == "allow":
        return trained, (f"leak: {said}",)
    leaking = pc.is_in(trained.dataset.keys, value_set=keys.cast(pa.large_string())).to_numpy(False)
    return trained._replace(dataset=select(trained.dataset, ~leaking)), (f"{said}; they were left out of training",)


def manifests_of(data: EvalDataConfig, split: Split, columns: Sequence[str]) -> list[pa.Table]:
    """These columns of the split's manifests, failed clips included; none of shards."""
    tables = (manifest_rows(root, name, columns, cache_of(data)) for root, name in split.manifests)
    return [table for table in tables if table is not None]


def footage(data: EvalDataConfig, split: Split) -> pa.Table:
    """What the samples of a split show: their manifest rows; of shards, only their keys."""
    rows = manifests_of(data, split, _FOOTAGE)
    if not rows:
        count = len(split.dataset)
        empty = {name: pa.nulls(count, pa.string()) for name in ("video_id", "source_sha256", "source")}
        spans = {"start_s": pa.nulls(count, pa.float64()), "end_s": pa.nulls(count, pa.float64())}
        keys = {"key": split.dataset.keys.cast(pa.string()), "status": pa.repeat(pa.scalar("ok"), count)}
        return pa.table(keys | empty | spans).select(_FOOTAGE)
    table = pa.concat_tables(rows)
    return table.filter(pc.is_in(table.column("key"), value_set=split.dataset.keys.cast(pa.string())))


def relabeled(data: EvalDataConfig, split: Split) -> Split:
    """The samples that data.test_labels lists, by video and start, with its labels."""
    assert data.test_labels is not None
    name, equals, path = data.test_labels.partition("=")
    if not equals:
        raise ConfigError(f"data.test_labels={data.test_labels!r}: expected RECIPE=LIST, such as vggsounder=FILE.csv")
    listed = read_requests(load_recipe(name), Path(path), split_names(data.test_split))
    wanted = listed.column("labels").to_pylist()
    keys = keys_of_clips(data, split, listed)
    found = {key: wanted[row] for row, key in enumerate(keys) if key is not None}
    if not found:
        raise ConfigError(f"{path}: lists no clip of {split.name}. Its labels belong to another dataset.")
    note = f"labels of {name}: {len(found):,} of its {counted(len(wanted), 'clip')} are here"
    return split._replace(
        dataset=relabel(split.dataset, found), name=f"{split.name} ({name})", notes=(*split.notes, note)
    )


def keys_of_clips(data: EvalDataConfig, split: Split, listed: pa.Table) -> list[str | None]:
    """The split's key of each listed clip (columns video_id and start_s, null: any); None: it is not in the split.

    A clip is found by its video and start. Where only a part of each clip was kept (clip_seconds), a part begins later,
    and is found by the key that the split's recipe gives to the clip.
    """
    rows = footage(data, split).select(["key", "video_id", "start_s"]).to_pylist()
    by_video = {row["video_id"]: row["key"] for row in rows}
    by_start = {(row["video_id"], row["start_s"]): row["key"] for row in rows}
    there = {row["key"] for row in rows}
    clips = listed.select(["video_id", "start_s"]).to_pylist()
    found = [
        by_video.get(clip["video_id"]) if clip["start_s"] is None else by_start.get((clip["video_id"], clip["start_s"]))
        for clip in clips
    ]
    if all(key is not None for key in found):
        return found
    described = [describe_dataset(root, cache_of(data)) or {} for root in sorted({root for root, _ in split.manifests})]
    recipes = {str(one.get("recipe", {}).get("name")) for one in described}
    started = [row for row, clip in enumerate(clips) if found[row] is None and clip["start_s"] is not None]
    for recipe in sorted(recipes.intersection(recipe_names())):
        with contextlib.suppress(ManifestError):  # the recipe's keys are of other clips
            keys = clip_keys(load_recipe(recipe), listed.take(pa.array(started, pa.int64()))).to_pylist()
            for row, key in zip(started, keys, strict=True):
                found[row] = found[row] or (key if key in there else None)
    return found


def one_view(data: EvalDataConfig, loaded: LoadedModel) -> EvalView:
    """A clip's centre window and the frame nearest its middle."""
    return EvalView(**_view_settings(data, loaded))


def scoring_view(data: EvalDataConfig, loaded: LoadedModel) -> EvalView | AllFramesView:
    """The view of test clips: data.windows windows, or all frames, each with its own if the model's are around frames.

    Raises ConfigError for several windows of spectrograms that are of whole clips, or of windows around frames.
    """
    settings = _view_settings(data, loaded)
    around = settings["around_frame"]
    if (settings["window_s"] is None or around) and data.windows > 1:
        why = (
            "the model hears windows around frames"
            if around
            else f"{settings['profile']!r} spectrograms are of whole clips"
        )
        raise ConfigError(
            f"data.windows={data.windows}: {why}. Set data.windows=1, or data.frames=10 to test with all frames."
        )
    if data.frames is not None:
        return AllFramesView(**settings, num_frames=data.frames)
    return EvalView(**settings, windows=None if around else data.windows)


def train_view(
    data: EvalDataConfig,
    loaded: LoadedModel,
    *,
    max_gain_db: float,
    min_area: float = 0.5,
    flip_probability: float = 0.5,
) -> TrainView:
    """The view of training clips: a random window, frame, crop, flip and gain (no gain with Kaldi spectrograms)."""
    settings = _view_settings(data, loaded)
    if settings["fit"] != "crop" and min_area not in (0.5, 1.0):  # the default, and what another fit takes
        _LOG.warning("min_area=%g has no effect with data.fit=%s: it is of random crops", min_area, settings["fit"])
    gain_db = 0.0 if PROFILES[settings["profile"]].kaldi else max_gain_db
    return TrainView(**settings, max_gain_db=gain_db, min_area=min_area, flip_probability=flip_probability)


@runtime_checkable
class Varied(Protocol):
    """The settings of tasks whose training clips vary in loudness, crop and side."""

    @property
    def data(self) -> EvalDataConfig: ...
    @property
    def max_gain_db(self) -> float: ...
    @property
    def min_area(self) -> float: ...
    @property
    def flip_probability(self) -> float: ...


def varied_view(config: Varied, loaded: LoadedModel) -> TrainView:
    """The view of training clips, varied as the task's settings say."""
    return train_view(
        config.data,
        loaded,
        max_gain_db=config.max_gain_db,
        min_area=config.min_area,
        flip_probability=config.flip_probability,
    )


def _view_settings(data: EvalDataConfig, loaded: LoadedModel) -> dict[str, Any]:
    config = loaded.model.config
    profile = data.profile or loaded.profile or "paper"
    whole = bool(PROFILES[profile].pad_columns) and not loaded.around_frame
    return {
        "profile": profile,
        "window_s": None if whole else data.window_s or loaded.window_s or 3.0,
        "columns": config.audio_size[1],
        "image_size": image_side(config),
        "around_frame": loaded.around_frame,
        "fit": data.fit or loaded.fit or "crop",
    }


def ordered_loader(
    data: EvalDataConfig, split: Split, view: View, world: World, *, batch_size: int, seed: int
) -> Loader:
    """One process's share of a split, in the dataset's order, each sample once; epochs draw other training views."""
    config = LoaderConfig(batch_size=batch_size, seed=seed, order=OrderConfig(shuffle=False), tail="pad")
    return make_loader(config, data, split, view, world)


def example_batches(data: EvalDataConfig, split: Split, view: EvalView, device: torch.device) -> Loader:
    """One process's batches of a few samples to show, with their sound if all have it."""
    sound = bool((split.dataset.waveform.size > 0).all())
    return ordered_loader(data, split, replace(view, waveform=sound), World(0, 1, device), batch_size=8, seed=0)


def make_loader(config: LoaderConfig, data: EvalDataConfig, split: Split, view: View, world: World) -> Loader:
    """One process's share of a split, loaded as `config` says, with the workers, cache and checks of `data`."""
    config = replace(
        config,
        num_workers=data.num_workers,
        skip_bad=data.skip_bad,
        max_bad_share=data.max_bad_share,
        pin_memory=world.device.type == "cuda",
        cache=cache_of(data),
    )
    return Loader(split.dataset, view, config, rank=world.rank, world_size=world.size)


def chosen(split: Split, keys: Sequence[str]) -> Split:
    """Only the samples with these keys."""
    keep = pc.is_in(split.dataset.keys, value_set=pa.array(list(keys), pa.large_string())).to_numpy(False)
    return split._replace(dataset=select(split.dataset, keep))
