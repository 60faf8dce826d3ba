"""Mask pictures that a recipe's list names, brought into the sample."""

import json
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from avdata.prepare.sources.media import MediaRef
from avmanifest.errors import DecodeError

_PNG: Final = b"\x89PNG\r\n\x1a\n"


def listed_masks(ref: MediaRef, annotations: str) -> tuple[dict[str, bytes], str]:
    """Members `maskNN.png` for the masks that the annotations name, and the annotations (JSON) with what is missing.

    NN counts the clip's stored frames (`mask_frames`). The files (`masks`) lie below the folder source that had the
    video; what lies outside, is a link out of it, or does not exist is listed in `masks_missing`. A file that is no
    PNG is a DecodeError (`media_corrupt`).
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
        members[f"mask{frame:02d}.png"] = picture  # as it is: a palette's indices are the classes
    return members, json.dumps(content | {"masks_missing": missing})


def _root(ref: MediaRef) -> Path | None:
    """The folder of a folder source; None for media in an archive."""
    if ref.size is not None or not ref.path.endswith(f"/{ref.name}"):
        return None
    return Path(ref.path.removesuffix(ref.name)).resolve()
