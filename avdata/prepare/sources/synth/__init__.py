"""synth: a dataset that is drawn instead of found.

Short films of moving, sounding things: one to three that sound, up to two silent ones that move as well, before
a textured scene. Loudness follows motion: some things are struck at each impact, by the speed of the fall; the
others sound all the while, by their speed or size. `SynthConfig` says how many clips and how large; everything else
follows from (seed, index). The files are real H.264 and AAC, and the truth about them is known at any time: classes,
boxes, masks, and the track of each sounding object.

Neither sense is enough. Classes come in fours (`CLASSES`). In each, the first and second share one look and differ
in sound only; the second and third share one sound and differ in look only; the fourth stands apart:

| same look, other sound | same sound, other look |
|---|---|
| chiming / booming striped ball | booming striped ball / spotted cube |
| humming / buzzing ringed moon | buzzing ringed moon / quartered star |
| hissing / droning striped ring | droning striped ring / spotted triangle |
| beeping / twanging checkered hexagon | twanging checkered hexagon / wavy heart |
| wailing / rattling striped arrow | rattling striped arrow / ringed flower |
| squeaking / purring spotted gear | purring spotted gear / ringed octagon |
"""

from avdata.prepare.config import SynthConfig
from avdata.prepare.sources.synth.classes import (
    CLASSES,
    Look,
    SynthClass,
    Timbre,
    class_table,
    same_look_pairs,
    same_sound_pairs,
)
from avdata.prepare.sources.synth.encode import write_clip
from avdata.prepare.sources.synth.picture import boxes_at, render_frame, render_masks
from avdata.prepare.sources.synth.scene import SynthClip, SynthObject, synth_clip
from avdata.prepare.sources.synth.sound import render_mix, render_stems

__all__ = [
    "CLASSES",
    "Look",
    "SynthClass",
    "SynthClip",
    "SynthConfig",
    "SynthObject",
    "Timbre",
    "boxes_at",
    "class_table",
    "render_frame",
    "render_masks",
    "render_mix",
    "render_stems",
    "same_look_pairs",
    "same_sound_pairs",
    "synth_clip",
    "write_clip",
]
