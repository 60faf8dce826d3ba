"""Ground truth of a frame: the pixels that sound, from boxes or masks, and their classes."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from avdata.boxes import boxes_in
from avdata.load import Batch, Dataset, manifest_rows
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.files import read_file
from avmanifest.parsing import metadata_of
from avmodel.evaluate.config import EvalDataConfig
from avmodel.evaluate.data import Split, cache_of, chosen, roots_of
from avmodel.evaluate.localization.scores import SIDE, boxes_map, consensus_map
from avmodel.inputs import Source

UNKNOWN = 255  # a mask's value that is no class of the dataset
_MOST_XML_BYTES = 1 << 20


class Clip(NamedTuple):
    """A sample's manifest fields that ground truth is read from."""

    video_id: str
    annotations: str  # JSON, as the recipe's list or the drawn dataset has it


def clips_of(data: EvalDataConfig, split: Split, source: Source) -> dict[str, Clip]:
    """The manifest fields of each sample of a split, by key. Raises ConfigError for data without a manifest."""
    name = split.name.rpartition("/")[2].partition(" ")[0]
    columns = ("key", "video_id", "annotations")
    tables = [manifest_rows(root, name, columns, cache_of(data)) for root in roots_of(source)]
    rows = [row for table in tables if table is not None for row in table.to_pylist()]
    if not rows:
        raise ConfigError(
            f"{split.name}: there is no manifest with ground truth of its frames. Give a prepared folder."
        )
    return {row["key"]: Clip(row["video_id"] or "", row["annotations"] or "{}") for row in rows}


def mask_tables(
    dataset: Dataset, clips: Mapping[str, Clip], *, classes: bool, only_labeled: bool = False
) -> UInt8[Tensor, "n 256"]:
    """What each value of each sample's masks means: 0 nothing, else 1; or, with `classes`, 1 + the dataset's class.

    In drawn datasets a value is an object, which counts if it sounds. Elsewhere it is a class, or, of binary masks,
    anything but 0; UNKNOWN is a class that the dataset doesn't have. `only_labeled`: classes that the clip isn't
    labeled with are background, as in DeepAVFusion's released code.
    """
    count = len(dataset.classes)
    if count >= UNKNOWN:
        raise ConfigError(f"{count} classes: masks of 8 bits have room for {UNKNOWN - 1}")
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
            own = dataset.label_ids[dataset.label_start[row] : dataset.label_start[row + 1]] + 1
            strange = torch.ones(256, dtype=torch.bool)
            strange[own] = False
            strange[count + 1 :] = False  # the one value of a binary mask
            tables[row, strange] = 0
    return tables


def _objects(clip: Clip | None) -> list[tuple[str, bool]] | None:
    """Label and whether it sounds, of the objects of a drawn clip; None for others."""
    content = {} if clip is None else _json(clip)
    objects = content.get("objects")
    if not isinstance(objects, list):
        return None
    told = [one if isinstance(one, dict) else {} for one in objects]
    return [(str(one.get("label", "")), bool(one.get("sounding"))) for one in told]


def _json(clip: Clip) -> dict[str, object]:
    return metadata_of(clip.annotations)


def masks_of(batch: Batch, tables: UInt8[Tensor, "n 256"]) -> UInt8[Tensor, "b h w"]:
    """What the masks of a batch mean. Raises ShardError, naming a sample, for a value that is no class."""
    assert batch.masks is not None
    device = batch.masks.device
    rows = tables[batch.sample_ids.cpu()].to(device)
    found = rows.gather(1, batch.masks.flatten(1).long()).reshape(batch.masks.shape)
    if bool((found == UNKNOWN).any()):
        wrong = int((found == UNKNOWN).flatten(1).any(dim=1).long().argmax())
        value = int(batch.masks[wrong][found[wrong] == UNKNOWN][0])
        raise ShardError(
            f"{batch.keys[wrong]}: its mask has the value {value}, and the dataset {len(batch.classes)} classes. Take "
            "masks of classes, or binary ones as such (target=sounding)."
        )
    return found


class Sounding(NamedTuple):
    """The source of the sounding pixels of a split's frames."""

    split: Split  # of the samples with ground truth
    clips: Mapping[str, Clip]
    tables: UInt8[Tensor, "n 256"] | None  # of masks; None: of boxes
    consensus: Mapping[str, Sequence[Sequence[int]]] | None  # boxes of several annotators, by key
    notes: tuple[str, ...]

    def only(self, keys: Sequence[str]) -> "Sounding":
        """Of the samples with these keys."""
        split, wanted = chosen(self.split, keys), set(keys)
        kept = [row for row, key in enumerate(self.split.dataset.keys.to_pylist()) if key in wanted]
        return self._replace(split=split, tables=None if self.tables is None else self.tables[kept])

    def maps(self, batch: Batch) -> tuple[Float[Tensor, "b side side"], Bool[Tensor, " b"]]:
        """How much each pixel counts, of SIDE x SIDE over the whole frame; and which samples have ground truth."""
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
            # Of a list's boxes none may be left, which then is a miss; a drawn frame may have nothing that sounds.
            known.append(bool(boxes) or ("boxes" in _json(clip) and frame == 0))
        return torch.stack(maps), torch.tensor(known)


def sounding_in(data: EvalDataConfig, split: Split, source: Source, *, truth: str, boxes: str | None) -> Sounding:
    """The source of a split's sounding pixels; samples without ground truth are left out and counted.

    `truth`: masks, boxes, or auto, masks if there are any. `boxes`: Flickr-SoundNet's folder of annotations. Raises
    ConfigError if no sample has ground truth.
    """
    clips = clips_of(data, split, source)
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
        known = [key for key in keys if {"boxes", "objects"} & _json(clips[key]).keys()]
    if not known:
        raise ConfigError(
            f"{split.name}: of none of its {len(keys)} samples is known what sounds ({truth}). Prepare from a recipe "
            "with boxes or masks, such as vgg-ss or synth; of flickr-soundnet give boxes=FOLDER, its Annotations."
        )
    kept = chosen(split, known) if len(known) < len(keys) else split
    left_out = len(keys) - len(known)
    return Sounding(
        split=kept,
        clips=clips,
        tables=mask_tables(kept.dataset, clips, classes=False) if by_masks else None,
        consensus=consensus,
        notes=(f"{left_out} samples without truth were left out",) if left_out else (),
    )


def _samples_with_masks(dataset: Dataset) -> Bool[Tensor, " n"]:
    """Which samples have a frame with a mask."""
    sample_of = torch.repeat_interleave(torch.from_numpy(dataset.frame_start).diff())
    masked = torch.from_numpy(dataset.masks.size > 0)
    return torch.bincount(sample_of[masked], minlength=len(dataset)) > 0


def flickr_boxes(folder: Path, video_id: str) -> list[list[int]] | None:
    """The boxes of Flickr-SoundNet's annotation ID.xml, in pixels of 256 x 256; None without such a file.

    Raises ManifestError for a file that is no annotation, or an id that is no name of a file.
    """
    path = folder / f"{video_id}.xml"
    if Path(video_id).name != video_id:
        raise ManifestError(f"{video_id!r} is no name of an annotation in {folder}")
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
        raise ManifestError(f"{path}: no annotation of boxes ({error}). Fetch it again.") from error
    return found
