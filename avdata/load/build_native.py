"""Builds the compiled part of the loader: `python -m avdata.load.build_native`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

from avdata.load.native import SOURCE, library_path, open_library, works
from avmanifest.errors import ConfigError
from avmanifest.files import unfinished_path

_FLAGS: Final = ("-O3", "-shared", "-fPIC")
_LIBRARIES: Final = ("-ljpeg",)
_BUILD_S: Final = 120  # a compiler that takes longer is given up


def build(path: Path | None = None) -> Path:
    """Compile native.c with $CC or cc.

    Returns:
        The library.

    Raises:
        ConfigError: There is no compiler, libjpeg-turbo's headers are missing, or the result does not work.
    """
    path = path or library_path()
    part = unfinished_path(path)
    command = [*shlex.split(os.environ.get("CC", "cc")), *_FLAGS, "-o", str(part), str(SOURCE), *_LIBRARIES]
    advice = "Install a C compiler and libjpeg-turbo with its headers (Debian: gcc libjpeg62-turbo-dev)."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_BUILD_S)  # noqa: S603 - no shell
        if not works(open_library(part)):
            raise ConfigError(f"{SOURCE.name}: compiled, it makes other pictures than it should. Do without it.")
        part.replace(path)
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"{shlex.join(command)}: {error.stderr.strip()[-2000:]}\n{advice}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{shlex.join(command)}: {error}. {advice}") from error
    finally:
        part.unlink(missing_ok=True)
    return path


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build()}\n")
    except ConfigError as error:
        sys.exit(str(error))
