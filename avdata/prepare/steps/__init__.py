"""Steps of prepare: what they are (`step`), and those that avkit ships, each in a file of its own."""

from typing import Final

SHIPPED: Final = {
    "black": "avdata.prepare.steps.plain:Black",
    "cuts": "avdata.prepare.steps.cuts:Cuts",
    "levels": "avdata.prepare.steps.levels:Levels",
    "picture_hash": "avdata.prepare.steps.fingerprints:PictureHash",
    "sound_fingerprint": "avdata.prepare.steps.fingerprints:SoundFingerprint",
    "speech": "avdata.prepare.steps.speech:Speech",
    "sync": "avdata.prepare.steps.sync:Sync",
}
"""The shipped steps by name, as module and class: none is imported before it is asked for."""
