"""Checkpoints to scores: each task takes a pretrained model and a dataset, and returns a `Result`.

`tasks` lists the tasks; each has a folder with its settings (`config`) and its run (`task`). What they share stands
here: `loaded` loads the model, `data` opens and checks the dataset, `features` encodes samples, `training` trains a
model with a head, `predictor` a model with a decoder, `scores` has the metrics, `result` the file of results.
"""
