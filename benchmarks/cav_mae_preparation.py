"""CAV-MAE's preparation, re-created: a wav of 16 kHz and ten JPEGs of 224 x 224 pixels for each video of a list.

    python benchmarks/cav_mae_preparation.py LIST OUT

As in the released scripts: ffmpeg writes the sound at 16 kHz and sox takes its first channel, each a process of its own
for every video; OpenCV seeks each frame by its number, the one before i tenths of the video's first 10 s; torchvision
scales, crops and saves it; a video that fails is printed and passed over. Unlike there, no shell is involved, and where
there is no sox, ffmpeg takes the first channel as well, which is less work.

Source: https://github.com/YuanGongND/cav-mae, src/preprocess/extract_audio.py and extract_video_frame.py.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import torchvision.transforms as T
from PIL import Image
from torchvision.utils import save_image

NUM_FRAMES = 10
MAX_SECONDS = 10
ONE_IMAGE = T.Compose([T.Resize(224), T.CenterCrop(224), T.ToTensor()])


def extract_sound(video: Path, out: Path) -> None:
    """Write OUT/audio/NAME.wav. Raises subprocess.CalledProcessError."""
    ffmpeg = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(video.absolute()), "-vn", "-ar", "16000"]
    wav = out / "audio" / f"{video.stem}.wav"
    if (sox := shutil.which("sox")) is None:
        subprocess.run([*ffmpeg, "-af", "pan=mono|c0=c0", str(wav)], check=True)  # noqa: S603 - no shell
        return
    between = wav.with_suffix(".all.wav")
    subprocess.run([*ffmpeg, str(between)], check=True)  # noqa: S603 - no shell
    subprocess.run([sox, str(between), str(wav), "remix", "1"], check=True)  # noqa: S603 - no shell
    between.unlink()


def extract_frames(video: Path, out: Path) -> None:
    """Write OUT/frame_0/NAME.jpg to OUT/frame_9/NAME.jpg. Raises ValueError if a frame cannot be read."""
    capture = cv2.VideoCapture(str(video))
    total = min(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), int(MAX_SECONDS * capture.get(cv2.CAP_PROP_FPS)))
    for number in range(NUM_FRAMES):
        capture.set(cv2.CAP_PROP_POS_FRAMES, int(number * total / NUM_FRAMES) - 1)
        is_read, bgr = capture.read()
        if not is_read:
            raise ValueError(f"frame {number} of {NUM_FRAMES} cannot be read")
        image = ONE_IMAGE(Image.fromarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))
        save_image(image, out / f"frame_{number}" / f"{video.stem}.jpg")


def main(videos: list[Path], out: Path) -> None:
    """Prepare the videos: the sound of all, then the frames of all."""
    for folder in ("audio", *(f"frame_{number}" for number in range(NUM_FRAMES))):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for extract in (extract_sound, extract_frames):
        for video in videos:
            try:
                extract(video, out)
            except (subprocess.CalledProcessError, ValueError) as error:
                print(f"{video}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main([Path(line) for line in Path(sys.argv[1]).read_text().splitlines()], Path(sys.argv[2]))
