"""Any video through a trained model: vectors, labels, neighbors, maps over the picture, separated sound.

    model = load("localize", Path("runs/first"))
    apply(model, iter_windows("clip.mp4", model.window_config), Path("out"))

Nothing here opens media: `avdata.video_windows.iter_windows` does, and hands over windows.
"""

from avmodel.apply.tasks import Applied, apply, load, require_possible
from avmodel.configs.apply import TASKS, parse_region, task_config

__all__ = ["TASKS", "Applied", "apply", "load", "parse_region", "require_possible", "task_config"]
