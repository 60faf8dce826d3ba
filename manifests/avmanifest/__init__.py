"""The format of a prepared dataset: columns, statuses, paths, recipes and errors."""
