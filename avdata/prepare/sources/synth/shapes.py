"""Shapes and patterns of objects, and the sprites drawn from them.

A shape or pattern is a function from coordinates x and y (in radii of the object, y down) to whether the point belongs
to it. Shapes lie in the unit disk.
"""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from avdata.prepare.sources.synth.classes import Color, Look

Plane = Callable[[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]], Bool[np.ndarray, "s s"]]

SPRITE_HALF = 1.1  # half of a sprite's side, in radii
_OVERSAMPLING = 4  # sprites are drawn larger by this factor and then averaged
_OUTLINE = 0.07  # width in radii


def _polygon(sides: int, turn: float = 0.0) -> Plane:
    def inside(x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
        sector = 2 * np.pi / sides
        theta = np.mod(np.arctan2(y, x) + turn + sector / 2, sector) - sector / 2
        return np.asarray(np.hypot(x, y) * np.cos(theta) <= np.cos(sector / 2))

    return inside


def _petals(count: int, depth: float) -> Plane:
    return lambda x, y: np.hypot(x, y) <= 1 - depth + depth * np.cos(count * np.arctan2(y, x))


def _star(x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    sector = 2 * np.pi / 5
    theta = np.abs(np.mod(np.arctan2(x, -y) + sector / 2, sector) - sector / 2)
    tip, notch = np.array([1.0, 0.0]), 0.5 * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    u, v = np.hypot(x, y) * np.cos(theta), np.hypot(x, y) * np.sin(theta)
    edge = notch - tip
    return np.asarray(edge[0] * (v - tip[1]) - edge[1] * (u - tip[0]) >= 0)


def _gear(x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    radius = np.hypot(x, y)
    teeth = np.cos(9 * np.arctan2(y, x)) > 0
    return np.asarray((radius <= np.where(teeth, 1.0, 0.78)) & (radius >= 0.22))


def _drop(x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    bulb = np.hypot(x, y - 0.35) <= 0.64
    cone = (y > -1) & (y < 0.1) & (np.abs(x) <= 0.55 * (y + 1))
    return np.asarray(bulb | cone)


def _cloud(x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    puffs = ((-0.55, 0.15, 0.42), (0.55, 0.15, 0.42), (0.0, -0.2, 0.55), (0.0, 0.25, 0.45))
    hits = [np.hypot(x - cx, y - cy) <= r for cx, cy, r in puffs]
    return np.asarray(np.logical_or.reduce(hits))


def _heart(x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"]) -> Bool[np.ndarray, "s s"]:
    u, v = 1.25 * x, -1.2 * y + 0.1
    return np.asarray((u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0)


SHAPES: dict[str, Plane] = {
    "arrow": lambda x, y: (
        ((x >= 0) & (x <= 0.95) & (np.abs(y) <= 0.9 * (0.95 - x)) & (np.abs(y) < 0.8))
        | ((x < 0.1) & (x >= -0.9) & (np.abs(y) <= 0.36))
    ),
    "ball": lambda x, y: np.hypot(x, y) <= 1,
    "bow": lambda x, y: (np.abs(x) <= 0.85) & (np.abs(y) <= 0.15 + 0.5 * np.abs(x)),
    "cloud": _cloud,
    "cube": _polygon(4, np.pi / 4),
    "drop": _drop,
    "flower": _petals(6, 0.2),
    "gear": _gear,
    "heart": _heart,
    "hexagon": _polygon(6),
    "kite": lambda x, y: np.abs(y) / 0.6 + np.where(x > 0, x, -x) <= 1,
    "moon": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x - 0.5, y + 0.1) > 0.72),
    "octagon": _polygon(8, np.pi / 8),
    "plus": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) <= 0.34) & (np.maximum(np.abs(x), np.abs(y)) <= 0.92),
    "ring": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.48),
    "star": _star,
    "triangle": _polygon(3, np.pi / 6),
}

PATTERNS: dict[str, Plane] = {
    "checkered": lambda x, y: (np.floor(x / 0.42) + np.floor(y / 0.42)) % 2 == 0,
    "plain": lambda x, y: np.zeros(np.broadcast(x, y).shape, dtype=bool),
    "quartered": lambda x, y: x * y > 0,
    "ringed": lambda x, y: np.mod(np.hypot(x, y) + 0.1, 0.44) < 0.2,
    "spotted": lambda x, y: np.hypot(np.mod(x, 0.56) - 0.28, np.mod(y, 0.56) - 0.28) < 0.16,
    "striped": lambda x, y: np.mod(x + 0 * y + 0.14, 0.56) < 0.28,
    "wavy": lambda x, y: np.mod(y + 0.12 * np.sin(6 * x), 0.5) < 0.25,
}


@lru_cache(maxsize=64)
def draw_sprite(look: Look, tint: Color, side: int) -> UInt8[np.ndarray, "{side} {side} 4"]:
    """The look as an RGBA image with premultiplied alpha; the object is centered and not rotated."""
    fine = side * _OVERSAMPLING
    axis = ((np.arange(fine) + 0.5) / fine * 2 - 1) * SPRITE_HALF
    x, y = np.meshgrid(axis, axis)
    inside = SHAPES[look.shape](x, y)
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5) * (2 * SPRITE_HALF / fine)
    body, paint = (np.clip(np.add(color, tint), 0, 255) for color in look.colors)
    color = np.where(PATTERNS[look.pattern](x, y)[..., None], paint, body)
    color = np.where((depth < _OUTLINE)[..., None], 0.35 * body, color)
    rgba = np.dstack([color * inside[..., None], 255.0 * inside]).astype(np.float32)
    sprite = np.rint(cv2.resize(rgba, (side, side), interpolation=cv2.INTER_AREA)).astype(np.uint8)
    sprite.flags.writeable = False
    return sprite
