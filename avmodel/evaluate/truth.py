"""Ground truth of a frame: the pixels that sound, from boxes or masks, and their classes."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from avdata.boxes import boxes_in
from avdata.load import Batch, Dataset
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.files import read_file
from avmanifest.parsing import metadata_of
from avmanifest.wording import counted
from avmodel.evaluate.config import EvalDataConfig
from avmodel.evaluate.data import Split, chosen, manifests_of
from avmodel.evaluate.localization.scores import SIDE, boxes_map, consensus_map

UNKNOWN = 255  # for a mask value that is no class of the dataset
_MOST_XML_BYTES = 1 << 20


class Clip(NamedTuple):
    """The manifest fields of a sample that give its ground truth."""

    video_id: str
    annotations: str  # JSON of the recipe's list, or of a synthetic clip

    @property
    def content(self) -> dict[str, object]:
        """The annotations; empty for what is no JSON object."""
        return metadata_of(self.annotations)


def clips_of(data: EvalDataConfig, split: Split) -> dict[str, Clip]:
    """The manifest fields of each sample of a split, by key. Raises ConfigError for data without a manifest."""
    tables = manifests_of(data, split, ("key", "video_id", "annotations"))
    rows = [row for table in tables for row in table.to_pylist()]
    if not rows:
        raise ConfigError(f"{split.name}: no manifest, so no ground truth. Give the folder of a prepared dataset.")
    return {row["key"]: Clip(row["video_id"] or "", row["annotations"] or "{}") for row in rows}


def mask_tables(
    dataset: Dataset, clips: Mapping[str, Clip], *, classes: bool, only_labeled: bool = False
) -> UInt8[Tensor, "n 256"]:
    """The meaning of each mask value of each sample: 0 background, 1 foreground; with `classes`, 1 + the class index.

    In synthetic datasets a mask value is an object, which is foreground if it sounds. In others it is a class or, in
    binary masks, any value but 0. UNKNOWN stands for a class that the dataset doesn't have.

    Args:
        dataset: The samples.
        clips: Their manifest fields, by key.
        classes: Whether to tell classes apart.
        only_labeled: Make classes that the clip isn't labeled with background, as DeepAVFusion's released code does.
    """
    count = len(dataset.classes)
    if count >= UNKNOWN:
        raise ConfigError(f"{count} classes: 8-bit masks hold at most {UNKNOWN - 1}")
    row_of = {name: number for number, name in enumerate(dataset.classes)}
    values = torch.arange(256)
    plain = torch.where(values <= count, values, UNKNOWN) if classes else (values > 0).long()
    tables = plain.to(torch.uint8).repeat(len(dataset), 1)
    for row, key in enumerate(dataset.keys.to_pylist()):
        objects = _objects(clips.get(key))
        if objects is not None:
            tables[row] = 0
            for place, (label, sounding) in enumerate(objects[: UNKNOWN - 1], start=1):
                if sounding:
                    tables[row, place] = (1 + row_of[label] if label in row_of else UNKNOWN) if classes else 1
        elif only_labeled:
            own = dataset.label_ids[dataset.label_start[row] : dataset.label_start[row + 1]].astype(np.int64) + 1
            strange = torch.ones(256, dtype=torch.bool)
            strange[own] = False
            strange[count + 1 :] = False  # the one value of a binary mask
            tables[row, strange] = 0
    return tables


def _objects(clip: Clip | None) -> list[tuple[str, bool]] | None:
    """Label of each object of a synthetic clip, and whether it sounds; None for other clips."""
    content = {} if clip is None else clip.content
    objects = content.get("objects")
    if not isinstance(objects, list):
        return None
    entries = [one if isinstance(one, dict) else {} for one in objects]
    return [(str(one.get("label", "")), bool(one.get("sounding"))) for one in entries]


def masks_of(batch: Batch, tables: UInt8[Tensor, "n 256"]) -> UInt8[Tensor, "b h w"]:
    """The masks of a batch, translated by `tables`. Raises ShardError, with the key, for a value that is no class."""
    assert batch.masks is not None
    device = batch.masks.device
    rows = tables[batch.sample_ids.cpu()].to(device)
    found = rows.gather(1, batch.masks.flatten(1).long()).reshape(batch.masks.shape)
    if bool((found == UNKNOWN).any()):
        wrong = int((found == UNKNOWN).flatten(1).any(dim=1).long().argmax())
        value = int(batch.masks[wrong][found[wrong] == UNKNOWN][0])
        raise ShardError(
            f"{batch.keys[wrong]}: mask value {value}, but the dataset has "
            f"{counted(len(batch.classes), 'class', 'classes')}. For binary "
            "masks set target=sounding."
        )
    return found


class Sounding(NamedTuple):
    """The source of the sounding pixels of a split's frames."""

    split: Split  # of the samples with ground truth
    clips: Mapping[str, Clip]
    tables: UInt8[Tensor, "n 256"] | None  # of mask values; None: ground truth is boxes
    consensus: Mapping[str, Sequence[Sequence[int]]] | None  # boxes of several annotators, by key
    notes: tuple[str, ...]

    def only(self, keys: Sequence[str]) -> "Sounding":
        """The ground truth of the samples with these keys."""
        split, wanted = chosen(self.split, keys), set(keys)
        kept = [row for row, key in enumerate(self.split.dataset.keys.to_pylist()) if key in wanted]
        return self._replace(split=split, tables=None if self.tables is None else self.tables[kept])

    def maps(self, batch: Batch) -> tuple[Float[Tensor, "b side side"], Bool[Tensor, " b"]]:
        """The weight of each pixel of the whole frame, in SIDE x SIDE, and which samples have ground truth."""
        if self.tables is not None:
            assert batch.masked is not None
            found = masks_of(batch, self.tables).float()
            large = F.interpolate(found.unsqueeze(1), (SIDE, SIDE), mode="nearest-exact").squeeze(1)
            return large, batch.masked & (large > 0).flatten(1).any(dim=1)
        assert batch.frames is not None
        maps, known = [], []
        starts = self.split.dataset.frame_start
        for key, frame, row in zip(batch.keys, batch.frames.tolist(), batch.sample_ids.tolist(), strict=True):
            if self.consensus is not None:
                maps.append(consensus_map(self.consensus[key]))
                known.append(True)
                continue
            clip = self.clips[key]
            count = int(starts[row + 1] - starts[row])
            boxes = [box for box in boxes_in(clip.annotations, frame, count) if box.sounding]
            maps.append(boxes_map([(box.x0, box.y0, box.x1, box.y1) for box in boxes]))
            # Without any box of a list a sample is a miss; a synthetic frame may have nothing that sounds.
            known.append(bool(boxes) or ("boxes" in clip.content and frame == 0))
        return torch.stack(maps), torch.tensor(known)


def sounding_in(data: EvalDataConfig, split: Split, *, truth: str, boxes: str | None) -> Sounding:
    """The source of a split's sounding pixels; samples without ground truth are left out and counted.

    `truth`: masks, boxes, or auto, masks if there are any. `boxes`: Flickr-SoundNet's folder of annotations. Raises
    ConfigError if no sample has ground truth.
    """
    clips = clips_of(data, split)
    has_mask = _samples_with_masks(split.dataset)
    keys: list[str] = split.dataset.keys.to_pylist()
    consensus = None
    by_masks = truth == "masks" or (truth == "auto" and boxes is None and bool(has_mask.any()))
    if by_masks:
        known = [key for key, has in zip(keys, has_mask.tolist(), strict=True) if has]
    elif boxes is not None:
        consensus = {
            key: found for key in keys if (found := flickr_boxes(Path(boxes), clips[key].video_id)) is not None
        }
        known = list(consensus)
    else:
        known = [key for key in keys if {"boxes", "objects"} & clips[key].content.keys()]
    if not known:
        raise ConfigError(
            f"{split.name}: none of its {counted(len(keys), 'sample')} has ground truth ({truth}). Prepare from a "
            "recipe with boxes or masks, such as vgg-ss or synth; for flickr-soundnet set boxes to its folder "
            "Annotations."
        )
    kept = chosen(split, known) if len(known) < len(keys) else split
    left_out = len(keys) - len(known)
    return Sounding(
        split=kept,
        clips=clips,
        tables=mask_tables(kept.dataset, clips, classes=False) if by_masks else None,
        consensus=consensus,
        notes=(f"left out: {counted(left_out, 'sample')} without ground truth",) if left_out else (),
    )


def _samples_with_masks(dataset: Dataset) -> Bool[Tensor, " n"]:
    """Which samples have a frame with a mask."""
    sample_of = torch.repeat_interleave(torch.from_numpy(np.diff(dataset.frame_start).astype(np.int64)))
    masked = torch.from_numpy(dataset.masks.size > 0)
    return torch.bincount(sample_of[masked], minlength=len(dataset)) > 0


def flickr_boxes(folder: Path, video_id: str) -> list[list[int]] | None:
    """The boxes of Flickr-SoundNet's annotation ID.xml, in pixels of 256 x 256; None without such a file.

    Raises ManifestError for a file that is not an annotation, or an id that is not a file name.
    """
    path = folder / f"{video_id}.xml"
    if Path(video_id).name != video_id:
        raise ManifestError(f"{video_id!r} is not the name of an annotation in {folder}")
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _MOST_XML_BYTES:
            raise ValueError(f"more than {_MOST_XML_BYTES} bytes")
        root = ET.fromstring(read_file(path))  # noqa: S314  # expat limits what entities grow to
        # A box is its annotator, then left, top, right, bottom.
        found = [[int(part.text or "") for part in list(box)[1:]] for box in root.iter("bbox")]
        if any(len(box) != 4 for box in found):
            raise ValueError("a box without four numbers")
    except (ET.ParseError, OSError, ValueError) as error:
        raise ManifestError(f"{path}: not an annotation of boxes ({error}). Fetch it again.") from error
    return found
