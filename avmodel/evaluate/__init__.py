"""Checkpoints to numbers: each task takes a subject (a pretrained model) and data, and gives a `Result`.

`subject` loads what is evaluated, `data` opens and checks what it is evaluated on, `features` turns one into vectors
of the other; `linear_probe`, `finetune`, `knn`, `retrieval` and `embed` are the tasks, `tasks` names them; `tuning`
trains a classifier; `scores` has the metrics, `result` the numbers with all that is needed to trust them, `pictures`
what to look at.
"""
