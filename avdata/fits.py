"""How a frame becomes the square that a model gets. Imports nothing."""

from typing import Final

FITS: Final = ("crop", "short-side-crop", "squash")
"""crop: in training a random crop, in tests the center square of 7/8 of the short side, such as 224 of 256 pixels.
short-side-crop: the center square of the whole short side, in training and tests. squash: the whole frame, its sides
scaled by different factors, in training and tests."""
