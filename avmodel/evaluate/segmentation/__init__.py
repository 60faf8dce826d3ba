"""Segmentation: the pixels of what makes the sound."""
