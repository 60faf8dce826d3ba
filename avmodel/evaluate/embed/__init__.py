"""A dataset's features as Parquet."""
