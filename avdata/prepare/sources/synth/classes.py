"""The classes of the generated dataset: the look, motion and sound of each.

They form groups of four:

- the first two have the same look and motion and differ only in sound;
- the second and the third have the same sound and rhythm and differ only in look;
- the fourth shares neither.

So a perfect classifier of images alone names three objects of four, and so does one of audio alone. With both
modalities all are distinguishable.
"""

from dataclasses import dataclass

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The look of a class: names in `shapes.SHAPES`, `shapes.PATTERNS` and `motion.MOTIONS`."""

    shape: str
    pattern: str
    colors: tuple[Color, Color]  # RGB: body, pattern
    motion: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timbre:
    """The sound of a class. Its motion decides whether the sound is struck or sustained."""

    pitch_hz: tuple[float, float]  # range from which the pitch of each object is drawn
    partials: tuple[tuple[float, float], ...]  # (frequency ratio, amplitude)
    noise: float = 0.0  # amplitude of the noise; the partials have amplitudes of their own
    noise_band_hz: tuple[float, float] = (100.0, 6000.0)
    decay_s: float = 0.25  # of a struck sound: time in which the fundamental falls to 1/e
    glide: float = 0.0  # relative increase of the pitch at full loudness
    vibrato: tuple[float, float] = (0.0, 0.0)  # Hz, relative depth
    tremolo_hz: float = 0.0  # 0: none
    tremolo_power: float = 1.0  # above 1, pulses are shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthClass:
    """A class and its label."""

    name: str
    look: Look
    timbre: Timbre


def _harmonics(count: int, slope: float, step: int = 1) -> tuple[tuple[float, float], ...]:
    return tuple((float(k), k**-slope) for k in range(1, 1 + count * step, step))


RED, ORANGE, YELLOW, GREEN = (222, 60, 56), (243, 132, 44), (250, 204, 62), (70, 170, 88)
TEAL, BLUE, NAVY, PURPLE = (38, 178, 176), (58, 120, 220), (36, 52, 110), (136, 84, 200)
PINK, CREAM, WHITE, BROWN = (240, 118, 168), (255, 240, 206), (250, 250, 250), (132, 84, 52)
INK, MINT, LIME, SKY = (44, 44, 56), (160, 232, 200), (176, 220, 60), (140, 205, 245)

_BALL = Look(shape="ball", pattern="striped", colors=(RED, CREAM), motion="bounce")
_CUBE = Look(shape="cube", pattern="spotted", colors=(BLUE, YELLOW), motion="bounce")
_PLUS = Look(shape="plus", pattern="checkered", colors=(GREEN, CREAM), motion="hop")
_MOON = Look(shape="moon", pattern="ringed", colors=(YELLOW, ORANGE), motion="swing")
_STAR = Look(shape="star", pattern="quartered", colors=(PURPLE, PINK), motion="swing")
_DROP = Look(shape="drop", pattern="plain", colors=(SKY, SKY), motion="orbit")
_RING = Look(shape="ring", pattern="striped", colors=(ORANGE, NAVY), motion="orbit")
_TRIANGLE = Look(shape="triangle", pattern="spotted", colors=(TEAL, WHITE), motion="orbit")
_KITE = Look(shape="kite", pattern="quartered", colors=(LIME, INK), motion="dart")
_HEXAGON = Look(shape="hexagon", pattern="checkered", colors=(PINK, WHITE), motion="hop")
_HEART = Look(shape="heart", pattern="wavy", colors=(RED, PINK), motion="hop")
_WHEEL = Look(shape="ball", pattern="quartered", colors=(NAVY, SKY), motion="roll")
_ARROW = Look(shape="arrow", pattern="striped", colors=(YELLOW, INK), motion="dart")
_FLOWER = Look(shape="flower", pattern="ringed", colors=(PURPLE, YELLOW), motion="dart")
_CLOUD = Look(shape="cloud", pattern="plain", colors=(WHITE, WHITE), motion="pulse")
_GEAR = Look(shape="gear", pattern="spotted", colors=(BROWN, CREAM), motion="roll")
_OCTAGON = Look(shape="octagon", pattern="ringed", colors=(GREEN, MINT), motion="roll")
_BOW = Look(shape="bow", pattern="wavy", colors=(ORANGE, BLUE), motion="flutter")

_CHIME = Timbre(
    pitch_hz=(520.0, 700.0), partials=((1.0, 1.0), (2.0, 0.6), (2.76, 0.5), (5.4, 0.25)), noise=0.05, decay_s=0.45
)
_BOOM = Timbre(
    pitch_hz=(75.0, 105.0),
    partials=((1.0, 1.0), (1.59, 0.5), (2.14, 0.3)),
    noise=0.3,
    noise_band_hz=(60.0, 500.0),
    decay_s=0.2,
    glide=0.3,
)
_CLACK = Timbre(
    pitch_hz=(1000.0, 1350.0),
    partials=((1.0, 1.0), (2.42, 0.5)),
    noise=0.4,
    noise_band_hz=(1500.0, 5000.0),
    decay_s=0.035,
)
_HUM = Timbre(pitch_hz=(120.0, 160.0), partials=_harmonics(4, 1.6), noise=0.04, vibrato=(4.0, 0.01))
_BUZZ = Timbre(pitch_hz=(190.0, 250.0), partials=_harmonics(18, 0.6), noise=0.05, tremolo_hz=27.0)
_WHISTLE = Timbre(
    pitch_hz=(1300.0, 1750.0),
    partials=((1.0, 1.0), (2.0, 0.06)),
    noise=0.08,
    noise_band_hz=(1000.0, 3500.0),
    vibrato=(5.5, 0.02),
)
_HISS = Timbre(pitch_hz=(300.0, 400.0), partials=(), noise=1.0, noise_band_hz=(4200.0, 7200.0))
_DRONE = Timbre(pitch_hz=(95.0, 125.0), partials=_harmonics(8, 0.8, step=2), noise=0.03)
_CHIRP = Timbre(
    pitch_hz=(1900.0, 2400.0), partials=((1.0, 1.0), (2.0, 0.2)), glide=0.5, tremolo_hz=12.0, tremolo_power=3.0
)
_BEEP = Timbre(pitch_hz=(820.0, 1050.0), partials=_harmonics(4, 1.0, step=2), decay_s=0.16)
_TWANG = Timbre(pitch_hz=(190.0, 270.0), partials=_harmonics(14, 0.9), noise=0.05, decay_s=0.4)
_RUMBLE = Timbre(
    pitch_hz=(45.0, 60.0), partials=((1.0, 0.6), (2.0, 0.5)), noise=1.0, noise_band_hz=(50.0, 260.0), tremolo_hz=7.0
)
_WAIL = Timbre(pitch_hz=(480.0, 620.0), partials=_harmonics(4, 1.0), glide=0.6, vibrato=(6.0, 0.06))
_RATTLE = Timbre(
    pitch_hz=(300.0, 400.0), partials=(), noise=1.0, noise_band_hz=(900.0, 2800.0), tremolo_hz=18.0, tremolo_power=4.0
)
_TOOT = Timbre(
    pitch_hz=(290.0, 380.0), partials=((1.0, 0.7), (2.0, 1.0), (3.0, 0.9), (4.0, 0.5), (5.0, 0.25)), noise=0.03
)
_SQUEAK = Timbre(
    pitch_hz=(2600.0, 3200.0), partials=((1.0, 1.0), (1.51, 0.4)), noise=0.05, glide=0.15, vibrato=(11.0, 0.03)
)
_PURR = Timbre(
    pitch_hz=(60.0, 80.0),
    partials=_harmonics(8, 0.5),
    noise=0.3,
    noise_band_hz=(100.0, 900.0),
    tremolo_hz=22.0,
    tremolo_power=2.0,
)
_CRACKLE = Timbre(
    pitch_hz=(300.0, 400.0), partials=(), noise=1.0, noise_band_hz=(1800.0, 6500.0), tremolo_hz=33.0, tremolo_power=12.0
)

CLASSES = (
    SynthClass(name="chiming striped ball", look=_BALL, timbre=_CHIME),
    SynthClass(name="booming striped ball", look=_BALL, timbre=_BOOM),
    SynthClass(name="booming spotted cube", look=_CUBE, timbre=_BOOM),
    SynthClass(name="clacking checkered plus", look=_PLUS, timbre=_CLACK),
    SynthClass(name="humming ringed moon", look=_MOON, timbre=_HUM),
    SynthClass(name="buzzing ringed moon", look=_MOON, timbre=_BUZZ),
    SynthClass(name="buzzing quartered star", look=_STAR, timbre=_BUZZ),
    SynthClass(name="whistling plain drop", look=_DROP, timbre=_WHISTLE),
    SynthClass(name="hissing striped ring", look=_RING, timbre=_HISS),
    SynthClass(name="droning striped ring", look=_RING, timbre=_DRONE),
    SynthClass(name="droning spotted triangle", look=_TRIANGLE, timbre=_DRONE),
    SynthClass(name="chirping quartered kite", look=_KITE, timbre=_CHIRP),
    SynthClass(name="beeping checkered hexagon", look=_HEXAGON, timbre=_BEEP),
    SynthClass(name="twanging checkered hexagon", look=_HEXAGON, timbre=_TWANG),
    SynthClass(name="twanging wavy heart", look=_HEART, timbre=_TWANG),
    SynthClass(name="rumbling quartered wheel", look=_WHEEL, timbre=_RUMBLE),
    SynthClass(name="wailing striped arrow", look=_ARROW, timbre=_WAIL),
    SynthClass(name="rattling striped arrow", look=_ARROW, timbre=_RATTLE),
    SynthClass(name="rattling ringed flower", look=_FLOWER, timbre=_RATTLE),
    SynthClass(name="tooting plain cloud", look=_CLOUD, timbre=_TOOT),
    SynthClass(name="squeaking spotted gear", look=_GEAR, timbre=_SQUEAK),
    SynthClass(name="purring spotted gear", look=_GEAR, timbre=_PURR),
    SynthClass(name="purring ringed octagon", look=_OCTAGON, timbre=_PURR),
    SynthClass(name="crackling wavy bow", look=_BOW, timbre=_CRACKLE),
)


def same_look_pairs(num_classes: int) -> list[tuple[int, int]]:
    """Pairs of indices among the first num_classes of CLASSES that differ only in sound."""
    return _pairs([c.look for c in CLASSES[:num_classes]])


def same_sound_pairs(num_classes: int) -> list[tuple[int, int]]:
    """Pairs of indices among the first num_classes of CLASSES with equal timbre and motion: only the look differs."""
    return _pairs([(c.timbre, c.look.motion) for c in CLASSES[:num_classes]])


def class_table(num_classes: int) -> str:
    """A Markdown table of the first num_classes of CLASSES, with the classes of the same look or sound."""
    rows = [
        "| class | shape | pattern | motion | pitch | same look as | same sound as |",
        "|---|---|---|---|---|---|---|",
    ]
    for index, entry in enumerate(CLASSES[:num_classes]):
        look, (low, high) = entry.look, entry.timbre.pitch_hz
        pitch = f"{low:g}-{high:g} Hz" if entry.timbre.partials else "noise"
        twins = [_others(pairs, index) for pairs in (same_look_pairs(num_classes), same_sound_pairs(num_classes))]
        cells = [entry.name, look.shape, look.pattern, look.motion, pitch, *twins]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _pairs(traits: list[Look] | list[tuple[Timbre, str]]) -> list[tuple[int, int]]:
    return [(i, j) for j in range(len(traits)) for i in range(j) if traits[i] == traits[j]]


def _others(pairs: list[tuple[int, int]], index: int) -> str:
    return ", ".join(CLASSES[i + j - index].name for i, j in pairs if index in (i, j))
