"""Operations on a prepared dataset, such as another log-mel profile. None of them decodes media again.

`run.run_operation` carries out an operation: its new shards are built aside, then `swap` exchanges the files.
"""
