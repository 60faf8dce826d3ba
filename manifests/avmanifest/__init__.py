"""The contract of a prepared dataset: columns, statuses, paths, recipes, errors."""
