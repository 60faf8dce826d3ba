"""Masks that a list names become members; no file outside the source does."""

import json

import cv2
import numpy as np
import pytest

from avdata.prepare.masks import listed_masks
from avdata.prepare.sources.media import MediaRef
from avmanifest.errors import DecodeError


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    (root / "masks").mkdir(parents=True)
    cv2.imwrite(str(root / "masks" / "a_1.png"), np.full((4, 6), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "outside.png"), np.zeros((4, 6), np.uint8))
    return root


def ref(root):
    return MediaRef(path=f"{root}/train/a.mp4", source=f"local:{root}", name="train/a.mp4")


def annotations(*masks):
    return json.dumps({"masks": list(masks), "mask_frames": list(range(len(masks)))})


def test_a_mask_becomes_a_member_under_its_frames_number(source):
    members, text = listed_masks(ref(source), annotations("masks/a_1.png", "masks/a_2.png"))
    assert list(members) == ["mask00.png"]
    assert json.loads(text)["masks_missing"] == ["masks/a_2.png"]
    picture = cv2.imdecode(np.frombuffer(members["mask00.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(picture, np.full((4, 6), 255))


def test_a_file_outside_the_source_is_missing(source):
    (source / "masks" / "link.png").symlink_to(source.parent / "outside.png")
    names = ("../outside.png", str(source.parent / "outside.png"), "masks/link.png")
    members, text = listed_masks(ref(source), annotations(*names))
    assert members == {}
    assert json.loads(text)["masks_missing"] == list(names)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_an_invalid_mask_image_is_media_corrupt(source, content):
    (source / "masks" / "bad.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"bad\.png: the clip's mask is no PNG"):
        listed_masks(ref(source), annotations("masks/bad.png"))


def test_clips_without_masks_and_clips_in_archives_are_unchanged(source):
    assert listed_masks(ref(source), '{"boxes": []}') == ({}, '{"boxes": []}')
    archived = MediaRef(path=f"{source}/a.tar", offset=512, size=10, source="wds:a.tar", name="a.mp4")
    assert listed_masks(archived, annotations("masks/a_1.png")) == ({}, annotations("masks/a_1.png"))
