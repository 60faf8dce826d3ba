"""Nearest neighbors by features."""
