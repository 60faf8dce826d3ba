"""Inspects datasets: summaries, verification, differences, single samples and the HTML report.

- `dataset`: opens a dataset, a manifest or tars, and reads the rows. `store` and `tars` read the files.
- `summary`, `overlaps`, `diff`: compute statistics of the rows.
- `verify`, `deep`: check the bytes of shards. `repair` moves damaged shards to the quarantine.
- `sample`: reads one sample; `picture` draws it.
- `report`: writes the HTML report.
"""
