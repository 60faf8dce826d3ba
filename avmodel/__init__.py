"""Batches to loss, checkpoint and metrics."""
