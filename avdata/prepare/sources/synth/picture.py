"""Rendering of frames, masks and boxes.

Frames, masks and boxes use the same poses and the same order of objects, so they agree on occlusion. A pixel belongs to
the frontmost object that covers at least half of it. Shadows belong to the background.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from avdata.prepare.config import SynthConfig
from avdata.prepare.sources.synth.motion import trace
from avdata.prepare.sources.synth.scene import SynthClip, SynthObject
from avdata.prepare.sources.synth.shapes import SPRITE_HALF, draw_sprite

_LARGEST_RADIUS = 0.16
_NOISE_STD = 3.0  # gray levels; different in every frame
_NOISE_SLACK = 64  # pixels by which the noise image is larger than the frame
_CAMERA_SWAY = 0.03  # amplitude of the camera's motion over the background, as a share of the frame
_SHADOW_OFFSET = (0.014, 0.024)
_SHADOW_LIGHT = 0.62
_BACKGROUND_DRAW, _NOISE_DRAW = 4, 5

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patch:
    """The pixels of an object (RGBA, premultiplied alpha) and their position in the frame."""

    pixels: UInt8[np.ndarray, "p q 4"]
    rows: slice
    columns: slice
    y: Float[np.ndarray, " p"]  # of the rows, in radii from the object's center
    x: Float[np.ndarray, " q"]  # of the columns


def render_frame(config: SynthConfig, clip: SynthClip, time_s: float) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB frame at a time in seconds, 0 or more."""
    frame = _background(config, clip.index, time_s)
    patches = [_place_sprite(config, item, time_s, config.height, config.width) for item in clip.objects]
    for patch in patches:
        _cast_shadow(frame, patch)
    for patch in patches:
        _paint(frame, patch)
    return _add_noise(config, clip.index, frame, time_s)


def render_masks(
    config: SynthConfig, clip: SynthClip, time_s: float, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width}"]:
    """The visible object at each pixel of a height x width image: 0 background, k the k-th object of the clip."""
    mask = np.zeros((height, width), np.uint8)
    for number, item in enumerate(clip.objects, start=1):
        patch = _place_sprite(config, item, time_s, height, width)
        mask[patch.rows, patch.columns][patch.pixels[..., 3] >= 128] = number
    return mask


def boxes_at(config: SynthConfig, clip: SynthClip, time_s: float) -> list[Box]:
    """The box (x0, y0, x1, y1) of each object's visible part, relative to the frame; (0, 0, 0, 0) if hidden."""
    mask = render_masks(config, clip, time_s, config.height, config.width)
    return [_box(mask == number) for number in range(1, len(clip.objects) + 1)]


def _box(seen: Bool[np.ndarray, "h w"]) -> Box:
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not rows.size:
        return 0.0, 0.0, 0.0, 0.0
    height, width = seen.shape
    x0, x1 = float(columns[0] / width), float((columns[-1] + 1) / width)
    y0, y1 = float(rows[0] / height), float((rows[-1] + 1) / height)
    return x0, y0, x1, y1


def _place_sprite(config: SynthConfig, item: SynthObject, time_s: float, height: int, width: int) -> _Patch:
    path = trace(item, np.array([time_s], dtype=np.float64))
    angle, squash, radius = path.angle[0], path.squash[0], item.radius * path.scale[0]
    per_length = np.array([width * config.height / config.width, height])  # pixels per frame height, each way
    on_floor = path.y[0] + radius * (1 - squash)
    middle = np.array([path.x[0], on_floor]) * per_length - 0.5
    margin = radius * SPRITE_HALF * np.sqrt(2) / squash * per_length + 1
    left, top = np.floor(np.maximum(middle - margin, 0)).astype(int).tolist()
    right, bottom = np.ceil(np.minimum(middle + margin, (width, height))).astype(int).tolist()

    side = int(2 * SPRITE_HALF * _LARGEST_RADIUS * config.height)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag([1 / squash, squash])
    linear = np.diag(per_length * radius) @ stretch @ turn * (2 * SPRITE_HALF / side)
    offset = middle - (left, top) - linear @ np.full(2, (side - 1) / 2)
    sprite = draw_sprite(item.kind.look, item.tint, side)
    size = (right - left, bottom - top)
    pixels = cv2.warpAffine(sprite, np.column_stack([linear, offset]), size, flags=cv2.INTER_LINEAR)
    return _Patch(
        pixels=pixels,
        rows=slice(top, bottom),
        columns=slice(left, right),
        y=(np.arange(top, bottom) - middle[1]) / (radius * per_length[1]),
        x=(np.arange(left, right) - middle[0]) / (radius * per_length[0]),
    )


def _cast_shadow(frame: UInt8[np.ndarray, "h w 3"], patch: _Patch) -> None:
    height = frame.shape[0]
    right, down = (round(offset * height) for offset in _SHADOW_OFFSET)
    top, left = patch.rows.start + down, patch.columns.start + right
    spot = frame[top : patch.rows.stop + down, left : patch.columns.stop + right]
    alpha = cv2.blur(patch.pixels[: spot.shape[0], : spot.shape[1], 3], (7, 7))
    light = 1 - alpha[..., None] * np.float32((1 - _SHADOW_LIGHT) / 255)
    spot[...] = spot * light


def _paint(frame: UInt8[np.ndarray, "h w 3"], patch: _Patch) -> None:
    spot = frame[patch.rows, patch.columns]
    pixels = patch.pixels.astype(np.float32)
    light = (_light(patch.y)[:, None] + _light(patch.x)).astype(np.float32)
    through = 1 - pixels[..., 3:] * np.float32(1 / 255)
    spot[...] = np.clip(pixels[..., :3] * light[..., None] + spot * through, 0, 255)


def _light(radii: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """One axis' part of the brightness of a ball lit from the upper left; the parts of both axes add up to about 1."""
    return np.asarray(0.54 - 0.16 * radii - 0.16 * radii**2)


def _background(config: SynthConfig, index: int, time_s: float) -> UInt8[np.ndarray, "h w 3"]:
    """The background at a time: the camera moves slowly over a larger image."""
    scenery, turn = _draw_scenery(config, index)
    x = config.width * _CAMERA_SWAY * (1 + np.sin(0.7 * time_s + turn))
    y = config.height * _CAMERA_SWAY * (1 + np.cos(0.5 * time_s + turn))
    shift = np.array([[1, 0, -x], [0, 1, -y]])
    return np.asarray(cv2.warpAffine(scenery, shift, (config.width, config.height), flags=cv2.INTER_LINEAR))


@lru_cache(maxsize=2)
def _draw_scenery(config: SynthConfig, index: int) -> tuple[UInt8[np.ndarray, "a b 3"], float]:
    """The background image, larger than the frame (muted colors, texture, static shapes), and the camera's phase."""
    rng = np.random.default_rng([config.seed, _BACKGROUND_DRAW, index])
    size = (int(config.width * (1 + 2 * _CAMERA_SWAY)) + 2, int(config.height * (1 + 2 * _CAMERA_SWAY)) + 2)
    tones = rng.uniform(85, 170, (2, 2, 1)) + rng.normal(0, 22, (2, 2, 3))
    picture = cv2.resize(tones.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    for cells, strength in ((5, 16), (14, 9), (60, 6)):
        grid = rng.normal(0, strength, (cells, cells * size[0] // size[1] + 1, 1)).astype(np.float32)
        picture = picture + cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[..., None]
    shapes = picture.copy()
    for _ in range(rng.integers(4, 9)):
        middle, radius = rng.uniform(0, size), rng.uniform(0.06, 0.2) * config.height
        turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 8)))
        corners = middle + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        cv2.fillPoly(shapes, [corners.astype(np.int32)], rng.uniform(50, 210, 3).tolist())
    picture = cv2.GaussianBlur(0.65 * picture + 0.35 * shapes, (3, 3), 0)
    return np.clip(picture, 0, 255).astype(np.uint8), float(rng.uniform(0, 2 * np.pi))


def _add_noise(
    config: SynthConfig, index: int, frame: UInt8[np.ndarray, "h w 3"], time_s: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame with sensor noise: one noise image per dataset, at another random offset in every frame."""
    noise_image = _draw_noise(config)
    rng = np.random.default_rng([config.seed, _NOISE_DRAW, index, round(time_s * 1000)])
    top, left = rng.integers(0, _NOISE_SLACK, 2)
    noise = noise_image[top : top + config.height, left : left + config.width]
    return np.asarray(cv2.addWeighted(frame, 1, noise, 1, -128))


@lru_cache(maxsize=2)
def _draw_noise(config: SynthConfig) -> UInt8[np.ndarray, "a b 3"]:
    rng = np.random.default_rng([config.seed, _NOISE_DRAW])
    shape = (config.height + _NOISE_SLACK, config.width + _NOISE_SLACK, 3)
    return np.rint(128 + _NOISE_STD * rng.standard_normal(shape)).clip(0, 255).astype(np.uint8)
