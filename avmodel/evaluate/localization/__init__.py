"""Localization: which part of a frame makes the sound."""
