"""A video's labels: of each window, and of all of it."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from avdata.windows import Window, WindowConfig
from avmanifest.errors import DecodeError
from avmodel.apply.inputs import WindowInputs, span_windows, window_inputs, window_mode
from avmodel.apply.output import whole, write_json
from avmodel.configs.apply import CLASSIFY_FILES, LABELS_FILE, LABELS_TABLE, ClassifyConfig
from avmodel.distributed import choose_device
from avmodel.evaluate.finetune.classifier import Classifier, blank, load_classifier
from avmodel.evaluate.heads import ALL
from avmodel.evaluate.loading import load_pretrained, load_trained

COLUMNS = ("start_s", "end_s", "rank", "label", "probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoClassifier:
    """Writes labels.csv (of each window the likeliest) and labels.json (of the whole video, all)."""

    classifier: Classifier
    classes: tuple[str, ...]
    top: int
    inputs: WindowInputs
    window_config: WindowConfig
    files: tuple[str, ...] = CLASSIFY_FILES

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Float[Tensor, " c"]]]:
        """Each window's logits, averaged over its frames, on the CPU.

        Raises DecodeError for a video without the modality that the classifier or its heads need.
        """
        empty, lacking = blank(self.classifier.model), dict[str, bool]()
        for window in windows:
            mode = window_mode(window, self.classifier.mode)
            if mode not in lacking:
                lacking[mode] = self.classifier.lacks_heads_for(mode)
            if lacking[mode]:
                heads = " and ".join(self.classifier.heads.heads)
                status = "media_no_video" if mode == "audio" else "media_no_audio"
                raise DecodeError(
                    status, f"the video has {mode} alone, for which this classifier ({heads}) has no head"
                )
            images, log_mel = self.inputs.images(window), self.inputs.log_mel(window)
            with torch.no_grad():
                logits = self.classifier(
                    empty.image if images is None else images, empty.log_mel if log_mel is None else log_mel, mode
                )
            yield window, logits[ALL].float().mean(dim=0).cpu()

    def write(self, windows: Iterable[Window], out: Path) -> dict[str, Any]:
        """Write both files. Returns a summary as plain data. The whole video's logits are its windows' mean."""
        count, total = 0, torch.zeros(len(self.classes))
        with whole(out / LABELS_TABLE) as path, path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for window, logits in self(windows):
                count, total = count + 1, total + logits
                for rank, (label, probability) in enumerate(self.likeliest(logits)[: self.top], 1):
                    span = f"{window.start_s:.3f}", f"{window.end_s:.3f}"
                    table.writerow((*span, rank, label, f"{probability:.6f}"))
        ranked = self.likeliest(total / count)
        labels = [{"label": label, "probability": round(probability, 6)} for label, probability in ranked]
        write_json(out / LABELS_FILE, {"windows": count, "labels": labels})
        return {"windows": count, "label": labels[0]["label"], "probability": labels[0]["probability"]}

    def likeliest(self, logits: Float[Tensor, " c"]) -> list[tuple[str, float]]:
        """All classes with their probabilities, the likeliest first."""
        ranked = self.classifier.probabilities(logits[None])[0].sort(descending=True, stable=True)
        pairs = zip(ranked.indices.tolist(), ranked.values.tolist(), strict=True)
        return [(self.classes[place], probability) for place, probability in pairs]


def load(checkpoint: Path, config: ClassifyConfig) -> VideoClassifier:
    """Raises ConfigError, with the command that makes one, for a checkpoint that is no fine-tuned classifier."""
    device = choose_device(config.device)
    folder, (classifier, classes) = load_trained(checkpoint, "finetune", lambda path: load_classifier(path, device))
    inputs = window_inputs(load_pretrained(folder, device), config.window_s, fit=config.fit)
    return VideoClassifier(
        classifier=classifier,
        classes=classes,
        top=config.top,
        inputs=inputs,
        window_config=span_windows(inputs, config),
    )
