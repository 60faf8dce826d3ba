"""Segmentation: which pixels sound."""
