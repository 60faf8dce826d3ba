import cv2
import numpy as np

from avmodel.evaluate.dense.pictures import heat_over, mask_over

GRAY = np.full((8, 8, 3), 128, np.uint8)


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_heat_is_where_the_map_is_high_and_the_frame_where_it_is_low() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[:4] = 3.0
    found = decoded(heat_over(GRAY, scores))
    assert (found[4:] == 128).all()
    assert (found[:4, :, 0] > 160).all()
    assert (decoded(heat_over(GRAY, np.full((8, 8), 0.3, np.float32))) == 128).all()


def test_masks_have_the_colors_of_their_values_with_an_edge() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4], mask[:, 4:] = 1, 2
    mask[0] = 0
    found = decoded(mask_over(GRAY, mask))
    assert (found[0] == 128).all()
    assert found[4, 0, 0] > found[4, 0, 2]  # orange
    assert found[4, 7, 2] > found[4, 7, 0]  # blue
    assert abs(found[4, 3] - 128).sum() > abs(found[4, 0] - 128).sum()
