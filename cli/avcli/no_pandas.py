"""Keeps pyarrow from importing pandas, which would take a second and which no command needs."""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _RefusingLoader(importlib.abc.Loader):
    """Fails at `import pandas`, as if it were not installed."""

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError("avkit's commands do without pandas", name=module.__name__)


class _Refusal(importlib.abc.MetaPathFinder):
    """Finds pandas with a loader that fails.

    Finding it must not fail: torch's compiler calls `importlib.util.find_spec("pandas")`, which imports nothing.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _RefusingLoader()) if fullname == "pandas" else None


def do_without_pandas() -> None:
    """Make `import pandas` fail in this process, unless it is imported already."""
    sys.meta_path.insert(0, _Refusal())


def allow_pandas() -> None:
    """Make `import pandas` succeed again where it is installed: wandb imports it when it logs a picture."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Refusal)]
