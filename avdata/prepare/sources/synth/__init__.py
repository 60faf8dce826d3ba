"""synth: a dataset of generated videos with exact labels.

Each clip shows moving objects before a textured background: one to three that sound and up to two silent ones.
Loudness follows motion. Some objects sound at each impact, louder after a faster fall. The others sound continuously,
louder with their speed or size. `SynthConfig` sets the number and size of the clips; everything else is a function of
(seed, index). The files are H.264 and AAC. The ground truth is known at any time: classes, boxes, masks, and the audio
of each sounding object.

One modality alone is not sufficient. Classes form groups of four (`CLASSES`). In each group, the first and second look
the same and differ only in sound; the second and third sound the same and differ only in look; the fourth shares
neither:

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
