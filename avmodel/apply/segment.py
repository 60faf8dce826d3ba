"""Which pixels of a video sound: masks of its frames, and an overlay video."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from avdata.draw.images import draw_mask
from avdata.windows import Window, WindowConfig
from avmodel.apply.inputs import WindowInputs, overlay_windows, require_both, window_inputs
from avmodel.apply.output import whole, write_json
from avmodel.apply.overlay_video import overlay_video
from avmodel.configs.apply import MASKS_FILE, MASKS_FOLDER, SEGMENT_FILES, OverlayConfig
from avmodel.distributed import choose_device
from avmodel.evaluate.loading import load_trained, of_notes
from avmodel.evaluate.segmentation.segmenter import Segmenter, load_segmenter, segment

SOUNDING = "sounding"  # the one class of a segmenter without classes


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSegmenter:
    """Writes overlay.mp4; masks/000000.png, ... of each frame shown, in its size: 0 nothing, else the class; and
    masks.json with their times and the classes' names."""

    segmenter: Segmenter
    inputs: WindowInputs
    batch_size: int
    window_config: WindowConfig
    files: tuple[str, ...] = SEGMENT_FILES

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, UInt8[np.ndarray, "f h w"]]]:
        """Each window and a mask of each of its frames, in the model's image size: 0 nothing, else the class, from 1.

        Raises DecodeError for a video without sound.
        """
        for window in windows:
            require_both(window)
            images, log_mel = self.inputs.squares(window), self.inputs.log_mel(window)
            assert log_mel is not None
            parts = [self._masks(part, log_mel) for part in torch.split(images, self.batch_size)]
            yield window, torch.cat(parts).numpy()

    def _masks(self, images: UInt8[Tensor, "b 3 h w"], log_mel: Float[Tensor, "1 1 mel t"]) -> UInt8[Tensor, "b h w"]:
        probabilities = segment(self.segmenter, images, rearrange(log_mel, "1 1 mel t -> 1 mel t"))
        found = probabilities.argmax(dim=1) if self.segmenter.classes else probabilities[:, 0] > 0.5
        return found.to(torch.uint8).cpu()

    def write(self, windows: Iterable[Window], out: Path) -> dict[str, Any]:
        """Write the files. Returns a summary as plain data."""
        times: list[float] = []
        with whole(out / MASKS_FOLDER) as folder, overlay_video(out, self.window_config) as video:
            folder.mkdir()
            for window, masks in self(windows):
                assert window.frames is not None
                height, width = window.frames.shape[1:3]
                for place, time_s in video.missing_frames(window):
                    mask = cv2.resize(masks[place], (width, height), interpolation=cv2.INTER_NEAREST)
                    (folder / f"{len(times):06d}.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
                    times.append(round(time_s, 6))
                    video.write_frame(draw_mask(window.frames[place], np.asarray(mask, np.uint8)))
                video.write_audio(window)
        classes = list(self.segmenter.classes) or [SOUNDING]
        write_json(out / MASKS_FILE, {"classes": classes, "times_s": times})
        return {"frames": len(times), "fps": self.window_config.fps, "classes": len(classes)}


def load(checkpoint: Path, config: OverlayConfig) -> VideoSegmenter:
    """Raises ConfigError, with the command that trains one, for a checkpoint that is no segmenter."""
    device = choose_device(config.device)
    folder, (segmenter, notes) = load_trained(checkpoint, "segmentation", lambda path: load_segmenter(path, device))
    loaded = of_notes(segmenter.predictor.model, folder, notes)
    inputs = window_inputs(loaded, config.window_s, fit="squash")
    return VideoSegmenter(
        segmenter=segmenter, inputs=inputs, batch_size=config.batch_size, window_config=overlay_windows(inputs, config)
    )
