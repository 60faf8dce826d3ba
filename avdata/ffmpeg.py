"""Finds an ffmpeg binary and runs it to encode videos."""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

from avmanifest.errors import AvkitError, ConfigError, StorageError
from avmanifest.files import DISK_ERRORS

_LOG_LINES: Final = 20  # of ffmpeg's log, kept for an error message


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
def encoder(output: Any, path: Path) -> Iterator[IO[bytes]]:
    """Run ffmpeg and yield its standard input. The end of the block waits until ffmpeg has succeeded.

    An error inside the block kills ffmpeg.

    Args:
        output: The output node of ffmpeg-python.
        path: The video, for messages.

    Raises:
        StorageError: The disk is full or fails.
        AvkitError: ffmpeg failed otherwise. The message has the end of its log.
    """
    command: list[str] = output.global_args("-v", "error", "-nostdin").compile(
        cmd=ffmpeg_binary(), overwrite_output=True
    )
    # If ffmpeg dies, the pipe breaks; the exit code and the log tell why.
    with suppress(BrokenPipeError), _start(command) as process, _log_of(process) as log:
        assert process.stdin is not None
        try:
            yield process.stdin
        except BrokenPipeError:
            raise
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
    if process.returncode != 0:
        words = b"".join(log).decode(errors="replace").strip()[-2000:] or "no message"
        if process.returncode == -signal.SIGXFSZ:
            words = os.strerror(errno.EFBIG)
        is_disk = any(os.strerror(number) in words for number in DISK_ERRORS)
        raise (StorageError if is_disk else AvkitError)(
            f"{path}: {command[0]} ended with code {process.returncode} and no {path.suffix[1:]}: {words}. Check the "
            "disk's space and rights, or name another ffmpeg in IMAGEIO_FFMPEG_EXE."
        )


@contextmanager
def _log_of(process: "subprocess.Popen[bytes]") -> Iterator[deque[bytes]]:
    """The last lines that the process writes to its standard error; complete after the block.

    They are kept in memory, because a file of them could not be written on a full disk.
    """
    assert process.stderr is not None
    lines: deque[bytes] = deque(maxlen=_LOG_LINES)
    reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        yield lines
    finally:
        reader.join()


@cache
def _has_x264(binary: str) -> bool:
    command = [binary, "-v", "error", "-encoders"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    return " libx264 " in listing.stdout


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe)  # noqa: S603
    except OSError as error:
        raise ConfigError(
            f"{command[0]}: cannot be started ({error}). Name an ffmpeg in IMAGEIO_FFMPEG_EXE."
        ) from error
