"""The motion of objects, and the loudness that follows from it.

A motion is a function from times to a `Trace`. Its `loudness` names the source of the sound: `hits` (impacts, louder
after a higher fall), `speed` (silent at rest, louder when faster) or `size` (louder when larger).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from avdata.prepare.sources.synth.scene import SynthObject

_SWELL = 0.32  # amplitude of the pulsing size, as a share of the radius
_LANDING = 0.55  # share of a hop's beat at which the object lands; it rests until the beat ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The pose of an object at each of n times. Lengths are in frame heights, angles in radians, clockwise."""

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    angle: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]  # factor of the object's radius
    squash: Float[np.ndarray, " n"]  # factor of its height; the width is divided by it, so that the area stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A motion and the source of its sound."""

    trace: Callable[[SynthObject, Float[np.ndarray, " n"]], Trace]
    loudness: str  # hits, speed or size
    landing: float = 0.0  # with hits: the share of a beat, 0 to 1, after which the object hits the floor


def trace(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    """The object's poses at the given times, in seconds."""
    return MOTIONS[item.kind.look.motion].trace(item, time_s)


def is_struck(item: SynthObject) -> bool:
    """Whether the object sounds at impacts (see `hits`) instead of continuously (see `level`)."""
    return MOTIONS[item.kind.look.motion].loudness == "hits"


def hits(item: SynthObject, start_s: float, stop_s: float) -> list[tuple[float, float]]:
    """(time in seconds, strength) of each impact in [start_s, stop_s); strength, 0 to 1, is the speed of the fall."""
    landing = MOTIONS[item.kind.look.motion].landing
    lengths = np.asarray(item.beats_s)
    falls = lengths if landing else np.roll(lengths, 1)  # a bounce's impact ends the fall of the previous beat
    cycle_s = lengths.sum()
    first = np.cumsum(lengths) - lengths + landing * lengths - item.phase * cycle_s
    turns = np.arange(np.floor(start_s / cycle_s) - 1, np.ceil(stop_s / cycle_s) + 2)
    times = (first + turns[:, None] * cycle_s).ravel()
    strengths = np.tile(falls / lengths.max(), len(turns))
    inside = (times >= start_s) & (times < stop_s)
    return list(zip(times[inside].tolist(), strengths[inside].tolist(), strict=True))


def level(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Loudness of a sustained sound at the given times, relative to its maximum over these times: 0 to 1."""
    if MOTIONS[item.kind.look.motion].loudness == "size":
        activity = (trace(item, time_s).scale - (1 - _SWELL)) ** 1.5
    else:
        before, after = trace(item, time_s - 0.01), trace(item, time_s + 0.01)
        activity = np.hypot(after.x - before.x, after.y - before.y)
    return np.asarray(activity / activity.max())


def _bounce(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    _, part, length = _beat(item, time_s)
    top = 2 * item.reach[1] * (length / max(item.beats_s)) ** 2
    contact_s = np.minimum(part, 1 - part) * length
    return _trace(
        x=item.anchor[0] + item.reach[0] * _zigzag(time_s / (2 * item.period_s) + item.phase),
        y=_floor(item) - top * 4 * part * (1 - part),
        angle=2 * np.pi * time_s / (2 * item.period_s),
        squash=1 - 0.2 * np.exp(-contact_s / 0.03),
    )


def _hop(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    place, part, length = _beat(item, time_s)
    flight = np.minimum(part / _LANDING, 1)
    here, there = _stops(item, place)
    top = 1.5 * item.reach[1] * (length / max(item.beats_s)) ** 2
    landed_s = np.maximum(part - _LANDING, 0) * length
    return _trace(
        x=item.anchor[0] + item.reach[0] * (here + (there - here) * flight[:, None])[:, 0],
        y=_floor(item) - top * 4 * flight * (1 - flight),
        angle=(place + flight) * np.pi / 2,
        squash=1 - 0.18 * np.where(landed_s > 0, np.exp(-landed_s / 0.06), 0),
    )


def _swing(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    turn = _turn(item, time_s)
    return _trace(
        x=item.anchor[0] + item.reach[0] * np.sin(turn),
        y=item.anchor[1] + 0.5 * item.reach[1] * np.cos(2 * turn),
        angle=-0.7 * np.sin(turn),
    )


def _orbit(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    turn = _turn(item, time_s)
    theta = turn + 0.85 * np.sin(turn)
    return _trace(
        x=item.anchor[0] + item.reach[0] * np.cos(theta),
        y=item.anchor[1] + item.reach[1] * np.sin(theta),
        angle=theta / 2,
    )


def _dart(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    place, part, _ = _beat(item, time_s)
    way = np.minimum(part / 0.7, 1)
    way = way * way * (3 - 2 * way)
    here, there = _stops(item, place)
    at = item.anchor + np.asarray(item.reach) * (here + (there - here) * way[:, None])
    ahead = np.asarray(item.reach) * (there - here)
    return _trace(x=at[:, 0], y=at[:, 1], angle=np.arctan2(ahead[:, 1], ahead[:, 0]))


def _roll(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    away = item.reach[0] * np.sin(_turn(item, time_s))
    return _trace(x=item.anchor[0] + away, y=np.full_like(away, _floor(item)), angle=away / item.radius)


def _pulse(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    turn = _turn(item, time_s)
    return _trace(
        x=item.anchor[0] + 0.5 * item.reach[0] * np.sin(turn / 2),
        y=item.anchor[1] + 0.3 * item.reach[1] * np.sin(0.4 * turn),
        angle=0.15 * np.sin(turn),
        scale=1 + _SWELL * np.sin(1.5 * turn),
    )


def _flutter(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Trace:
    _, part, _ = _beat(item, time_s)
    burst = np.sin(np.pi * np.minimum(part / 0.6, 1)) ** 2
    shake = burst * np.sin(2 * np.pi * 5 * time_s)
    return _trace(
        x=item.anchor[0] + 0.05 * shake,
        y=item.anchor[1] - 0.6 * item.reach[1] * burst,
        angle=0.5 * shake,
    )


MOTIONS = {
    "bounce": Motion(trace=_bounce, loudness="hits"),
    "hop": Motion(trace=_hop, loudness="hits", landing=_LANDING),
    "swing": Motion(trace=_swing, loudness="speed"),
    "orbit": Motion(trace=_orbit, loudness="speed"),
    "dart": Motion(trace=_dart, loudness="speed"),
    "roll": Motion(trace=_roll, loudness="speed"),
    "pulse": Motion(trace=_pulse, loudness="size"),
    "flutter": Motion(trace=_flutter, loudness="speed"),
}


def _trace(
    *,
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    angle: Float[np.ndarray, " n"],
    scale: Float[np.ndarray, " n"] | None = None,
    squash: Float[np.ndarray, " n"] | None = None,
) -> Trace:
    one = np.ones_like(x)
    return Trace(x=x, y=y, angle=angle, scale=one if scale is None else scale, squash=one if squash is None else squash)


def _turn(item: SynthObject, time_s: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The phase of the object's period at each time, in radians."""
    return np.asarray(2 * np.pi * (time_s / item.period_s + item.phase))


def _beat(
    item: SynthObject, time_s: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """For each time: the index of its beat, the elapsed share of the beat (0 to 1), and its length in seconds."""
    lengths = np.asarray(item.beats_s)
    ends = np.cumsum(lengths)
    within = np.mod(time_s + item.phase * ends[-1], ends[-1])
    place = np.minimum(np.searchsorted(ends, within, side="right"), len(lengths) - 1)
    return place, (within - ends[place]) / lengths[place] + 1, lengths[place]


def _stops(
    item: SynthObject, place: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Start and end (x, y) of the step of each beat, as a share of the reach from -1 to 1."""
    stops = np.asarray(item.stops)
    return stops[place], stops[(place + 1) % len(stops)]


def _floor(item: SynthObject) -> float:
    """The y coordinate of the object's center at its lowest position."""
    return item.anchor[1] + item.reach[1]


def _zigzag(turns: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """A triangle wave with period 1 between -1 and 1."""
    return np.asarray(4 * np.abs(np.mod(turns, 1) - 0.5) - 1)
