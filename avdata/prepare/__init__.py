"""Videos to verified shards: plan, sources, decoding, commits."""
