"""Prepares videos as shards and loads shards as batches."""
