"""Videos to shards to batches."""
