"""Operations on a prepared dataset, such as another log-mel profile. None of them decodes media again.

`run.run_operation` changes a dataset in place: `build` makes new shards aside, then `swap` exchanges the files.
`derive.derive_dataset` makes another dataset of its clips.
"""
