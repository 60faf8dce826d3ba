"""Retrieval between sound and picture."""
