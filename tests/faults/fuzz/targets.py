"""What is fuzzed: for each kind of file from outside, how it is made and who reads it.

A target's `make` fills a folder once. For every mutant the folder is copied, one of its files changed, and `read`
called. `read` returns something that can be compared; a typed error is an answer, any other error a finding.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.fuzz.mutators import Mutated, mutate


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of file and its reader."""

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: str = "*"  # glob of the files that are changed
    mutate: Callable[[str, bytes, Any], Mutated] = mutate  # of name, content and random generator
    notices: bool = False  # every change must be refused or make no difference
    contained: bool = False  # prepare reads these in a child process: what kills or stops it costs one clip


def digest(*values: object) -> str:
    """A hash of arrays, bytes and plain data."""
    found = hashlib.sha256()
    for value in values:
        found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()[:16]


# Lists, recipes and settings.

VGGSOUND = "---g-f_I2yQ,1,people marching,test\n--0PQM4-hqg,30,waterfall burbling,train\n" * 3
BOXED = {"file": "zpWuikVorYg_000032", "class": "elk bugling", "bbox": [[0.1, 0.1, 0.5, 0.5]]}
TABLE = "id,start,end,label,split,path\na,0,2.5,dog,train,a/b.mp4\nb,1,3,cat,val,\nc,2,4,dog,train,c.mp4\n"


def _read_list(recipe: str, name: str, split: str | None = None) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from avmanifest.lists import read_requests
        from avmanifest.recipe import load_recipe

        return read_requests(load_recipe(recipe), folder / name, None if split is None else [split]).to_pylist()

    return read


def _list(recipe: str, name: str, content: str, split: str | None = None) -> Target:
    return Target(make=lambda folder: (folder / name).write_text(content), read=_read_list(recipe, name, split))


def _make_parquet_list(folder: Path) -> None:
    import pyarrow as pa

    from avmanifest.table import write_table

    rows = [{"id": f"v{n}", "start": float(n), "end": n + 2.0, "label": ["dog"], "split": "train"} for n in range(5)]
    write_table(pa.Table.from_pylist(rows), folder / "t.parquet")


def _read_recipe(folder: Path) -> object:
    from avmanifest.recipe import load_recipe

    return load_recipe(folder / "r.toml")


def _make_recipe(folder: Path) -> None:
    from avmanifest.recipe import RECIPES

    (folder / "r.toml").write_text((RECIPES / "vgg-ss.toml").read_text())


def _make_models(folder: Path) -> None:
    from avmodel.registry.entries import LIST

    (folder / "m.toml").write_text("\n\n".join(LIST.read_text().split("\n\n")[:4]))


def _read_models(folder: Path) -> object:
    from avmodel.registry.entries import read_list

    return dict(read_list.__wrapped__(folder / "m.toml"))  # not what was read at this path before


def _make_settings(folder: Path) -> None:
    lines = ("steps = 5", "batch_size = 4", "[optim]", "lr = 0.001", "betas = [0.9, 0.95]", "[data]", "window_s = 1.0")
    (folder / "s.toml").write_text("\n".join(lines))


def _read_settings(folder: Path) -> object:
    from avmanifest.settings import read_toml, with_values
    from tests.runs import tiny_run

    run = tiny_run()
    return with_values(run, read_toml(run, folder / "s.toml"))


def _read_clip_names(folder: Path) -> object:
    from avmanifest.lists import read_clip_names

    return [read_clip_names(path).to_pylist() for path in sorted(folder.iterdir())]


def _make_clip_names(folder: Path) -> None:
    (folder / "clips.txt").write_text("---g-f_I2yQ_000001\n--0PQM4-hqg_30000_40000,x\n")
    (folder / "gallery.json").write_text(
        json.dumps({"data": [{"video_id": "---g-f_I2yQ"}, {"video_id": "--0PQM4-hqg"}]})
    )


# Prepared datasets.


def _make_dataset(folder: Path) -> None:
    from tests.shards import draw_dataset

    draw_dataset(
        folder / "set", 4, 2, seconds=1.5, num_frames=2, mask=lambda sample, frame: np.full((48, 64), frame, np.uint8)
    )


def _batches(dataset: Any, **view: Any) -> object:
    from avdata.load import EvalView, Loader, LoaderConfig, evaluation_config

    config = evaluation_config(LoaderConfig(batch_size=2, num_workers=0))
    loader = Loader(dataset, EvalView(image_size=8, window_s=1.0, **view), config)
    return [
        digest(batch.images, batch.log_mel, batch.frame_time_s, batch.keys, batch.labels) for batch in loader.arrays()
    ]


def _load_dataset(folder: Path) -> object:
    from avdata.load import open_dataset

    return _batches(open_dataset(folder / "set"))


def _load_shards(folder: Path) -> object:
    from avdata.load import CacheConfig, open_dataset

    return _batches(open_dataset(folder / "set/train/{00000..00001}.tar", cache=CacheConfig(root=folder / "cache")))


def _verify(folder: Path) -> object:
    from avdata.audit.dataset import open_audit_dataset
    from avdata.audit.verify import verify
    from avmanifest.errors import ShardError

    found = verify(open_audit_dataset(str(folder / "set")), deep=True)
    if found.faults:
        raise ShardError("; ".join(map(str, found.faults[:3]))[:1000])
    return "whole"


def _inspect(folder: Path) -> object:
    from avdata.audit.choice import all_rows, choose
    from avdata.audit.dataset import open_audit_dataset
    from avdata.audit.sample import read_samples, sample_json
    from avdata.audit.summary import summarize
    from avdata.draw.images import decode_rgb, mask_overlay

    dataset = open_audit_dataset(str(folder / "set"))
    table = all_rows(dataset)
    chosen = choose(table, dataset, num_samples=3, num_whole=3, most_failures=0, seed=0).samples
    rows = table.take(chosen).select(["split", "key"]).to_pylist()
    samples = list(read_samples(dataset, [(row["split"], row["key"]) for row in rows]))
    for sample in samples:
        for frame in sample.frames:
            decode_rgb(frame.content)
            mask_overlay(frame.mask or b"")
    return json.dumps([summarize(dataset), [sample_json(sample) for sample in samples]], default=str)


def _resume(folder: Path) -> object:
    from avdata.prepare.commit import marker_problem
    from avmanifest.layout import Layout

    layout = Layout(folder / "set")
    return [marker_problem(layout, shard, hashes=True) for split in layout.splits() for shard in layout.shards(split)]


def _make_index(folder: Path) -> None:
    import shutil

    from avdata.prepare.catalog import write_index
    from avmanifest.layout import Layout
    from avmanifest.records import parse_description

    _make_dataset(folder)
    layout = Layout(folder / "set")
    write_index(layout, "train", parse_description(layout.dataset_json.read_bytes(), "drawn"))
    layout.sample_index("train").rename(folder / "i.avidx")
    shutil.rmtree(layout.root)


def _read_index(folder: Path) -> object:
    from avdata.index import Index, StaleIndex
    from avmanifest.errors import ManifestError
    from avmanifest.files import open_descriptor

    try:
        descriptor = open_descriptor(folder / "i.avidx")
    except OSError as error:
        raise ManifestError(f"i.avidx: {error.strerror}") from error  # readers make another index
    try:
        index = Index(descriptor, "i.avidx")
    except StaleIndex as error:
        raise ManifestError(str(error)) from error
    finally:
        os.close(descriptor)
    found = index.dataset("")
    ranges = [found.frames, found.masks, found.waveform, *found.log_mel.values()]
    arrays = [found.shard_of, found.frame_start, found.frame_time_s, found.frame_member, found.label_ids]
    places = [part for each in ranges for part in (each.offset, each.size, each.xxh3)]
    names = [found.keys.to_pylist(), found.classes, found.frame_names, list(found.shards), found.fingerprint()]
    return digest(*arrays, *places, names)


# Shards of other tools.


def _members(sample: int) -> dict[str, bytes]:
    from tests.shards import sample_members

    members, _ = sample_members(
        sample, seconds=1.5, num_frames=2, mask=lambda sample, frame: np.full((48, 64), frame, np.uint8)
    )
    fields = {"key": f"clip-{sample:05d}", "label": ["dog", "bark"], "caption": "a dog", "start": 1.5, "video_id": "x"}
    return members | {"json": json.dumps(fields).encode()}


def _pack(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _make_foreign(folder: Path) -> None:
    _pack(folder / "a.tar", {f"clip-{n:05d}.{name}": c for n in range(3) for name, c in _members(n).items()})


def _mutate_member(name: str, content: bytes, chance: Any) -> Mutated:
    """Change one member, and pack it into a good tar."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {info.name: (tar.extractfile(info) or io.BytesIO()).read() for info in tar.getmembers()}
    chosen = chance.choice(list(members))
    words, members[chosen] = mutate(chosen, members[chosen], chance)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return words, out.getvalue()


def _load_foreign(folder: Path) -> object:
    from avdata.load import CacheConfig, MemberMap, open_dataset

    members = MemberMap(label="json:label")
    dataset = open_dataset(folder / "a.tar", members=members, cache=CacheConfig(root=folder / "cache"))
    found: list[object] = []
    for view in ({}, {"waveform": True}, {"masks": True}):
        with contextlib.suppress(TypeError) if view else contextlib.nullcontext():
            found.append(_batches(dataset, **view))
    return [found, dataset.classes]


def _inspect_foreign(folder: Path) -> object:
    (folder / "set").mkdir()
    (folder / "a.tar").rename(folder / "set/a.tar")
    return [_inspect(folder), _quiet(_verify, folder)]


def _quiet(read: Callable[[Path], object], folder: Path) -> str:
    from avmanifest.errors import AvkitError

    try:
        return str(read(folder))
    except AvkitError as error:
        return str(error).replace(str(folder), "")


# Sources of videos.


def _make_archive(folder: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(3):
        members |= {f"d/---g-f_I2yQ_{number:06d}.mp4": bytes([number]) * 3000, f"d/v{number}.mp4": b"v" * 700}
        members[f"d/v{number}.json"] = json.dumps({"youtube_id": f"v{number}-f_I2yQa", "start": 1, "end": 2}).encode()
    _pack(folder / "a.tar", members)


def _read_archive(folder: Path) -> object:
    from avdata.prepare.sources.archives import ArchiveSource, list_archive
    from avdata.prepare.sources.media import MediaRef, hash_media
    from avmanifest.errors import MediaError

    path = next(path for path in folder.iterdir() if path.name.startswith("a."))
    source = ArchiveSource([str(path)], cache_dir=folder / "cache")
    listing = list_archive(str(path), folder / "cache")
    if listing.descriptor is not None:
        os.close(listing.descriptor)
    found: list[object] = [listing.problem, dict(source.refused)]
    for member in listing.members:
        ref = MediaRef(
            path=listing.copy or str(path), offset=member.offset, size=member.size, gzip_index=listing.gzip_index,
            deflated=member.deflated, source="", name="m",
        )  # fmt: skip
        try:
            found.append([member.name, member.identity, hash_media(ref)])
        except MediaError as error:
            found.append([member.name, error.status])
    return found


def _make_gzip(folder: Path) -> None:
    import gzip

    _make_archive(folder)
    (folder / "a.tar.gz").write_bytes(gzip.compress((folder / "a.tar").read_bytes(), mtime=0))
    (folder / "a.tar").unlink()


def _make_zstd(folder: Path) -> None:
    import zstandard

    _make_archive(folder)
    packed = zstandard.ZstdCompressor(write_checksum=True).compress((folder / "a.tar").read_bytes())
    (folder / "a.tar.zst").write_bytes(packed)
    (folder / "a.tar").unlink()


def _make_zip(folder: Path) -> None:
    import tarfile
    import zipfile

    _make_archive(folder)
    with tarfile.open(folder / "a.tar") as tar, zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for info in tar:
            file = tar.extractfile(info)
            assert file is not None
            packed.writestr(zipfile.ZipInfo(info.name), file.read(), zipfile.ZIP_DEFLATED)
    (folder / "a.tar").unlink()


def _make_media(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tests.drawn import draw_media
        from tests.kinds import KINDS

        draw_media(folder / name, **KINDS[name].drawn)

    return make


def _read_media(folder: Path) -> object:
    from avdata.prepare.decode import open_media

    path = next(folder.glob("*.m*"))
    with open_media(path) as media:
        info = media.info
        start_s, end_s = media.clip_span(0.0, 1.0, 0.1)
        frames = media.frames([start_s, (start_s + end_s) / 2], short_side=32)
        sound = media.waveform(start_s, end_s)
    return digest(info.duration_s, *(np.asarray(image) for image in frames.images), np.asarray(sound.samples))


# What training leaves.


def _make_run(folder: Path) -> None:
    import torch

    from avmodel.checkpoint import save_checkpoint
    from avmodel.models import build_model
    from avmodel.rundir import as_json, write_config
    from tests.runs import TINY, tiny_run

    torch.manual_seed(0)
    model = build_model(TINY)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # as trained: fusion weights that are as initialized are refused
    write_config(folder, as_json(tiny_run()))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, "loss": 1 / n, "lr": 1e-3}) + "\n" for n in (1, 2, 3))
    )
    state = {"step": 3, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "loader": {"epoch": 0}}
    notes = {"profile": "paper", "window_s": "1.0"}
    save_checkpoint(folder / "checkpoints", 3, model, TINY, state, notes=notes)


def _read_run(folder: Path) -> object:
    import torch

    from avmodel.checkpoint import load_model, load_trainer_state
    from avmodel.evaluate.loading import load_pretrained
    from avmodel.inspect_run import read_run

    run = read_run(folder)
    model, _ = load_model(folder / "checkpoints")
    state = load_trainer_state(folder / "checkpoints")
    load_pretrained(folder, torch.device("cpu"))
    weights = [tensor.detach().numpy() for tensor in model.state_dict().values()]
    return digest(run.summary, run.curves, *weights, sorted(map(str, state)))


def _make_published(folder: Path) -> None:
    import torch

    from avmodel.evaluate.loading import load_pretrained
    from avmodel.hub import write_published

    _make_run(folder / "run")
    write_published(folder, load_pretrained(folder / "run", torch.device("cpu")), license="MIT")
    shutil.rmtree(folder / "run")


def _read_published(folder: Path) -> object:
    from avmodel.hub import load_published

    loaded = load_published(folder)
    weights = [tensor.detach().numpy() for tensor in loaded.model.state_dict().values()]
    noted = (loaded.profile, loaded.window_s, loaded.fit, loaded.around_frame)
    return digest(*weights, *noted, loaded.origin["license"], loaded.origin["data"])


def _make_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    weights = {f"blocks.{n}.weight": torch.full((4, 3), float(n)) for n in range(4)}
    torch.save({"model": weights, "epoch": 3}, folder / "w.pth")
    save_file(weights, folder / "w.safetensors")


def _read_weights(folder: Path) -> object:
    from avmodel.weights.files import read_weights

    return [
        digest(*(tensor.numpy() for tensor in read_weights(folder / name).values()))
        for name in ("w.pth", "w.safetensors")
    ]


def _make_features(folder: Path) -> None:
    import torch

    from avmodel.evaluate.store import FeatureStore

    store = FeatureStore(folder / "parts", {"model": "x"})
    for part in range(2):
        store.append([f"k{part}"], [["dog"]], {"image": torch.ones(1, 4), "audio": torch.ones(1, 4)}, part + 1)


def _read_features(folder: Path) -> object:
    from avmodel.evaluate.store import FeatureStore, read_parts

    keys, values = read_parts(FeatureStore(folder / "parts", {"model": "x"}).parts)
    return [keys, {name: digest(value.numpy()) for name, value in values.items()}]


def _make_boxes(folder: Path) -> None:
    box = "<bbox><who>a</who><x>1</x><y>2</y><w>3</w><h>4</h></bbox>"
    (folder / "v.xml").write_text(f"<annotation>{box}{box}</annotation>")


def _read_boxes(folder: Path) -> object:
    from avmodel.evaluate.truth import flickr_boxes

    return flickr_boxes(folder, "v")


TARGETS: dict[str, Target] = {
    "list: table.csv": Target(
        make=lambda folder: (folder / "t.csv").write_text(TABLE), read=_read_list("table", "t.csv")
    ),
    "list: table.jsonl": _list(
        "table", "t.jsonl", "".join(json.dumps({"id": f"v{n}", "start": n, "label": ["dog"]}) + "\n" for n in range(4))
    ),
    "list: table.parquet": Target(make=_make_parquet_list, read=_read_list("table", "t.parquet")),
    "list: vggsound.csv": _list("vggsound", "vggsound.csv", VGGSOUND),
    "list: vgg-ss.json": _list("vgg-ss", "v.json", json.dumps([BOXED] * 3), "test"),
    "list: music.json": _list(
        "music", "MUSIC_solo_videos.json", json.dumps({"videos": {"flute": ["---g-f_I2yQ"]}}), "solo",
    ),
    "index of a dataset": Target(make=_make_index, read=_read_index, notices=True),
    "list: clip names": Target(make=_make_clip_names, read=_read_clip_names),
    "recipe.toml": Target(make=_make_recipe, read=_read_recipe),
    "models.toml": Target(make=_make_models, read=_read_models),
    "settings.toml": Target(make=_make_settings, read=_read_settings),
    "dataset: loaded": Target(make=_make_dataset, read=_load_dataset, files="set/**/*"),
    "dataset: its shards loaded": Target(make=_make_dataset, read=_load_shards, files="set/**/*"),
    "dataset: verified": Target(make=_make_dataset, read=_verify, files="set/train/*", notices=True),
    "dataset: manifest and plan verified": Target(make=_make_dataset, read=_verify, files="set/*"),
    "dataset: inspected": Target(make=_make_dataset, read=_inspect, files="set/**/*"),
    "dataset: resumed": Target(make=_make_dataset, read=_resume, files="set/train/*"),
    "tar of others: loaded": Target(make=_make_foreign, read=_load_foreign),
    "tar of others: members loaded": Target(make=_make_foreign, read=_load_foreign, mutate=_mutate_member),
    "tar of others: inspected": Target(make=_make_foreign, read=_inspect_foreign),
    "tar of others: members inspected": Target(make=_make_foreign, read=_inspect_foreign, mutate=_mutate_member),
    "archive.tar": Target(make=_make_archive, read=_read_archive),
    "archive.tar.gz": Target(make=_make_gzip, read=_read_archive),
    "archive.tar.zst": Target(make=_make_zstd, read=_read_archive),
    "archive.zip": Target(make=_make_zip, read=_read_archive),
    "media: mp4": Target(make=_make_media("late_sound.mp4"), read=_read_media, contained=True),
    "media: fragmented mp4": Target(make=_make_media("fragmented.mp4"), read=_read_media, contained=True),
    "media: mov": Target(make=_make_media("pcm_50fps.mov"), read=_read_media, contained=True),
    "run and checkpoint": Target(make=_make_run, read=_read_run, files="**/*"),
    "published model": Target(make=_make_published, read=_read_published, notices=True),
    "weights of others": Target(make=_make_weights, read=_read_weights),
    "features": Target(make=_make_features, read=_read_features, files="parts/*"),
    "boxes.xml": Target(make=_make_boxes, read=_read_boxes),
}  # fmt: skip
