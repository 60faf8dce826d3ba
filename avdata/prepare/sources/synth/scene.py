"""The scene of a generated clip: its objects, their paths, and which of them sound. No pixels are drawn here.

A scene is a function of (seed, index). Lengths are in frame heights: x goes from 0 to width / height, and y from 0
(top) to 1 (bottom).
"""

from dataclasses import dataclass

import numpy as np

from avdata.prepare.config import MAX_SILENT, SynthConfig
from avdata.prepare.sources.synth.classes import CLASSES, SynthClass
from avmanifest.errors import ConfigError

NUM_BEATS = 8

_SPLIT_DRAW, _CLASS_DRAW, _SCENE_DRAW = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthObject:
    """One moving object. Its class decides which of these values its motion and sound use."""

    class_index: int
    sounding: bool
    radius: float
    anchor: tuple[float, float]  # center of its path
    reach: tuple[float, float]  # largest distance from the anchor, in x and y
    period_s: float
    phase: float  # 0 to 1 of a period
    beats_s: tuple[float, ...]  # durations of its steps; repeated
    stops: tuple[tuple[float, float], ...]  # start of each step, as a share of the reach from -1 to 1
    tint: tuple[int, int, int]  # added to its RGB colors
    pitch: float  # position in its timbre's pitch range, 0 to 1
    gain: float  # peak amplitude of its audio; 0 if silent
    voice: int  # seed of the noise in its audio

    @property
    def kind(self) -> SynthClass:
        """The object's class."""
        return CLASSES[self.class_index]


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthClip:
    """The scene of one clip."""

    index: int
    key: str
    split: str  # train, val or test
    objects: tuple[SynthObject, ...]  # from back to front: a later object hides earlier ones
    sounding: tuple[int, ...]  # indices into objects, by decreasing peak of their audio

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the sounding classes, by decreasing peak of their audio."""
        return tuple(self.objects[place].kind.name for place in self.sounding)


def synth_clip(config: SynthConfig, index: int) -> SynthClip:
    """The scene of clip `index`: 1 to max_objects sounding and up to max_silent silent objects, of different classes.

    Of the clips 0 to 9, 10 to 19 and so on, eight are in train, one in val, one in test. Each class is the first label
    of one of the clips 0 to num_classes - 1, of one of the next num_classes clips, and so on. Raises ConfigError for an
    index outside the dataset.
    """
    if not 0 <= index < config.num_clips:
        raise ConfigError(
            f"synth: clip {index} is not in 0..{config.num_clips - 1}. Raise --num-clips, or ask for less."
        )
    rng = np.random.default_rng([config.seed, _SCENE_DRAW, index])
    num_sounding = 1 + int(rng.choice(3, p=(0.45, 0.33, 0.22))) % config.max_objects
    num_silent = min(int(rng.choice(MAX_SILENT + 1, p=(0.2, 0.5, 0.3))), config.max_silent)
    first = _place_in_block(config.seed, _CLASS_DRAW, index, config.num_classes)
    others = rng.permutation(np.delete(np.arange(config.num_classes), first))
    classes = [first, *others[: num_sounding + num_silent - 1].tolist()]

    loudest = rng.uniform(0.22, 0.36)
    gains = [loudest, *sorted(loudest * rng.uniform(0.5, 0.85, num_sounding - 1), reverse=True)] + [0.0] * num_silent
    lanes = rng.permutation(len(classes))
    drawn = [
        _draw_object(config, rng, class_index, float(gain), (lane + 0.5) / len(classes))
        for class_index, gain, lane in zip(classes, gains, lanes, strict=True)
    ]
    far_to_near = rng.permutation(len(drawn)).tolist()
    return SynthClip(
        index=index,
        key=f"synth-{config.seed}_{index:06d}",
        split=_split(config.seed, index),
        objects=tuple(drawn[place] for place in far_to_near),
        sounding=tuple(far_to_near.index(place) for place in range(num_sounding)),
    )


def _split(seed: int, index: int) -> str:
    place = _place_in_block(seed, _SPLIT_DRAW, index, 10)
    return {8: "val", 9: "test"}.get(place, "train")


def _place_in_block(seed: int, draw: int, index: int, size: int) -> int:
    """The position of an index after a shuffle of its block of `size` consecutive indices."""
    block, offset = divmod(index, size)
    return int(np.random.default_rng([seed, draw, block]).permutation(size)[offset])


def _draw_object(
    config: SynthConfig, rng: np.random.Generator, class_index: int, gain: float, lane: float
) -> SynthObject:
    aspect = config.width / config.height
    radius = rng.uniform(0.11, 0.16) * min(1.0, aspect)
    reach_x = min(rng.uniform(0.22, 0.4), 0.48 * aspect - radius)
    reach_y = rng.uniform(0.2, 0.34)
    anchor_x = np.clip(lane * aspect + rng.normal(0, 0.05), radius + reach_x, aspect - radius - reach_x)
    anchor_y = rng.uniform(radius + reach_y, 1 - radius - reach_y)
    sides = np.where(np.arange(NUM_BEATS) % 2, 1, -1) * rng.choice((-1, 1))
    stops = np.stack([sides * rng.uniform(0.3, 1, NUM_BEATS), rng.uniform(-1, 1, NUM_BEATS)], axis=1)
    return SynthObject(
        class_index=class_index,
        sounding=gain > 0,
        radius=float(radius),
        anchor=(float(anchor_x), float(anchor_y)),
        reach=(float(reach_x), float(reach_y)),
        period_s=float(rng.uniform(1.5, 2.8)),
        phase=float(rng.uniform()),
        beats_s=tuple(rng.uniform(0.42, 0.95, NUM_BEATS).tolist()),
        stops=tuple((x, y) for x, y in stops.tolist()),
        tint=(int(rng.integers(-16, 17)), int(rng.integers(-16, 17)), int(rng.integers(-16, 17))),
        pitch=float(rng.uniform()),
        gain=gain,
        voice=int(rng.integers(2**31)),
    )
