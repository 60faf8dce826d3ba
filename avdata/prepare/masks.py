"""Copy the mask images that a recipe's list names into the sample."""

import json
from pathlib import Path

import cv2

from avdata.images import PNG_HEAD, decode_picture
from avdata.prepare.sources.media import MediaRef
from avmanifest.errors import DecodeError, ShardError
from avmanifest.files import read_file
from avmanifest.parsing import metadata_of


def listed_masks(ref: MediaRef, annotations: str) -> tuple[dict[str, bytes], str]:
    """Read the mask images that a clip's annotations name.

    The files (`masks`) are below the folder of the source that has the video. Files that are outside of it, links out
    of it, or missing are listed in the new field `masks_missing`.

    Args:
        ref: The clip's media.
        annotations: JSON with the fields `masks` (paths) and `mask_frames` (index of each mask's stored frame).

    Returns:
        The members `maskNN.png`, NN the frame's index, and the annotations (JSON) with `masks_missing`.

    Raises:
        DecodeError: A file is not a PNG image (`media_corrupt`).
    """
    content = metadata_of(annotations)
    root = _root(ref)
    names, frames = content.get("masks"), content.get("mask_frames")
    if not isinstance(names, list) or not isinstance(frames, list) or root is None:
        return {}, annotations
    members, missing = {}, []
    for name, frame in zip(names, frames, strict=True):
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            missing.append(name)
            continue
        picture = read_file(path)
        try:
            decode_picture(picture, cv2.IMREAD_UNCHANGED, "it")
            is_png = picture.startswith(PNG_HEAD)
        except ShardError:
            is_png = False
        if not is_png:
            raise DecodeError("media_corrupt", f"{path}: the clip's mask is no PNG picture. Fetch it again.")
        members[f"mask{frame:02d}.png"] = picture  # unchanged: the palette's indices are the classes
    return members, json.dumps(content | {"masks_missing": missing})


def _root(ref: MediaRef) -> Path | None:
    """The folder of a folder source; None for media in an archive."""
    if ref.size is not None or not ref.path.endswith(f"/{ref.name}"):
        return None
    return Path(ref.path.removesuffix(ref.name)).resolve()
