"""Copy the mask images that a recipe's list names into the sample."""

import json
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from avdata.prepare.sources.media import MediaRef
from avmanifest.errors import DecodeError

_PNG: Final = b"\x89PNG\r\n\x1a\n"


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
    content = json.loads(annotations)
    root = _root(ref)
    if "masks" not in content or root is None:
        return {}, annotations
    members, missing = {}, []
    for name, frame in zip(content["masks"], content["mask_frames"], strict=True):
        path = (root / name).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            missing.append(name)
            continue
        picture = path.read_bytes()
        if not picture.startswith(_PNG) or cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED) is None:
            raise DecodeError("media_corrupt", f"{path}: the clip's mask is no PNG picture. Fetch it again.")
        members[f"mask{frame:02d}.png"] = picture  # unchanged: the palette's indices are the classes
    return members, json.dumps(content | {"masks_missing": missing})


def _root(ref: MediaRef) -> Path | None:
    """The folder of a folder source; None for media in an archive."""
    if ref.size is not None or not ref.path.endswith(f"/{ref.name}"):
        return None
    return Path(ref.path.removesuffix(ref.name)).resolve()
