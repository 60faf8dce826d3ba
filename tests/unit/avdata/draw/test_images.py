import cv2
import numpy as np

from avdata.draw.images import COLORS, draw_heat_map, draw_mask, mask_overlay, to_png

GRAY = np.full((8, 8, 3), 128, np.uint8)


def heat_png(frame: np.ndarray, scores: np.ndarray) -> bytes:
    return to_png(draw_heat_map(frame, scores))


def mask_png(frame: np.ndarray, classes: np.ndarray) -> bytes:
    return to_png(draw_mask(frame, classes))


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_heat_is_where_the_map_is_high_and_the_frame_where_it_is_low() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[:4] = 3.0
    found = decoded(heat_png(GRAY, scores))
    assert (found[4:] == 128).all()
    assert (found[:4, :, 0] > 160).all()
    assert (decoded(heat_png(GRAY, np.full((8, 8), 0.3, np.float32))) == 128).all()


def test_masks_have_the_colors_of_their_values_with_an_edge() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4], mask[:, 4:] = 1, 2
    mask[0] = 0
    found = decoded(mask_png(GRAY, mask))
    assert (found[0] == 128).all()
    assert found[4, 0, 0] > found[4, 0, 2]  # orange
    assert found[4, 7, 2] > found[4, 7, 0]  # blue
    assert abs(found[4, 3] - 128).sum() > abs(found[4, 0] - 128).sum()


def png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def test_objects_of_a_mask_have_the_colors_of_their_boxes_and_an_edge():
    mask = np.zeros((20, 30), np.uint8)
    mask[2:10, 2:10], mask[12:18, 12:28] = 1, 2
    overlay = mask_overlay(png(mask))
    assert overlay.shape == (20, 30, 4)
    assert tuple(overlay[6, 6, :3]) == COLORS[0]
    assert tuple(overlay[15, 20, :3]) == COLORS[1]
    assert overlay[0, 0, 3] == 0
    assert 0 < overlay[6, 6, 3] < overlay[2, 6, 3] == 255


def test_white_masks_and_colored_masks_are_masks_too():
    white = np.zeros((8, 8), np.uint8)
    white[2:6, 2:6] = 255
    assert tuple(mask_overlay(png(white))[3, 3, :3]) == COLORS[0]
    colored = np.zeros((8, 8, 3), np.uint8)
    colored[2:6, 2:6] = (10, 20, 200)  # BGR
    overlay = mask_overlay(png(colored))
    assert tuple(overlay[3, 3, :3]) == (200, 20, 10)
    assert overlay[0, 0, 3] == 0
    assert mask_overlay(b"no picture") is None
