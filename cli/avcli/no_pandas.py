"""pyarrow imports pandas, where it is installed, for its first table: a second that no command has a use for."""

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Refusal(importlib.abc.MetaPathFinder):
    """To this process pandas is not installed. It saves a second of every command's start."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("avkit's commands do without pandas", name=fullname)
        return None


def do_without_pandas() -> None:
    """From now on `import pandas` fails in this process, unless it is imported already."""
    sys.meta_path.insert(0, _Refusal())
