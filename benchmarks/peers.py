"""What the comparisons with other tools share: the environments that these are installed into."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from avmanifest.files import cache_folder


def environment(name: str, packages: Sequence[str]) -> str:
    """The Python of an environment with these packages, which sees avkit's, too. It is made once; that takes a minute.

    Raises subprocess.CalledProcessError if the packages cannot be installed; see `why_not_installed`.
    """
    folder = cache_folder("benchmarks") / name
    python, installed = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join(packages)
    if not (installed.exists() and installed.read_text() == wanted):
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
        shutil.rmtree(folder, ignore_errors=True)
        run = partial(subprocess.run, check=True, capture_output=True, text=True)
        run([uv, "venv", "--quiet", "--python", sys.executable, folder])
        own = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip()
        (Path(own) / "avkit.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        run([uv, "pip", "install", "--quiet", "--python", python, "--no-deps", *packages])
        installed.write_text(wanted)
    return str(python)


def why_not_installed(error: subprocess.CalledProcessError) -> str:
    """The reason for a table: the last line that the installer said."""
    return "not installed: " + (error.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
