"""Finds an ffmpeg binary and runs it to encode videos."""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from avmanifest.errors import AvkitError, ConfigError, StorageError


def ffmpeg_binary() -> str:
    """The encoder's path: IMAGEIO_FFMPEG_EXE, else a system ffmpeg with libx264, else the one of the extra `ffmpeg`.

    Raises ConfigError, with what to install, if there is none.
    """
    system = shutil.which("ffmpeg")
    if system and "IMAGEIO_FFMPEG_EXE" not in os.environ and _has_x264(system):
        return system
    try:
        import imageio_ffmpeg  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigError(
            "drawn videos, films and YouTube need an ffmpeg with libx264, and there is none: install one, or "
            "pip install 'avkit[ffmpeg]'"
        ) from error
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, removed at the end of the block.

    Its name is absolute, so that ffmpeg does not read file names in it as options or protocols.
    """
    parent = path.parent.absolute()
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{path.name}.") as folder:
        yield Path(folder)


@contextmanager
def encoder(output: Any, path: Path, folder: Path) -> Iterator[IO[bytes]]:
    """Run ffmpeg and yield its standard input. The end of the block waits until ffmpeg has succeeded.

    An error inside the block kills ffmpeg.

    Args:
        output: The output node of ffmpeg-python.
        path: The video, for messages.
        folder: From `scratch_folder`, for ffmpeg's log.

    Raises:
        StorageError: The disk is full.
        AvkitError: ffmpeg failed otherwise. The message has the end of its log.
    """
    command: list[str] = output.global_args("-v", "error", "-nostdin").compile(
        cmd=ffmpeg_binary(), overwrite_output=True
    )
    log = folder / "ffmpeg.log"
    # If ffmpeg dies, the pipe breaks; the exit code and the log tell why.
    with suppress(BrokenPipeError), log.open("wb") as stderr, _start(command, stderr) as process:
        assert process.stdin is not None
        try:
            yield process.stdin
        except BrokenPipeError:
            raise
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        words = log.read_text(errors="replace").strip()[-2000:] or "no message"
        full = os.strerror(errno.ENOSPC) in words
        raise (StorageError if full else AvkitError)(
            f"{path}: {command[0]} ended with code {process.returncode} and no {path.suffix[1:]}: {words}. Check the "
            "disk's space and rights, or name another ffmpeg in IMAGEIO_FFMPEG_EXE."
        )


@cache
def _has_x264(binary: str) -> bool:
    command = [binary, "-v", "error", "-encoders"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    return " libx264 " in listing.stdout


def _start(command: list[str], stderr: IO[bytes]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)  # noqa: S603
    except OSError as error:
        raise AvkitError(f"{command[0]}: cannot be started ({error}). Name an ffmpeg in IMAGEIO_FFMPEG_EXE.") from error
