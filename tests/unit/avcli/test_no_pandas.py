"""Without pandas, in a process of its own: what looks for it without importing it goes on."""

import subprocess
import sys

import pytest

from avcli.no_pandas import allow_pandas, do_without_pandas

CODE = """
import importlib.util
from avcli.no_pandas import do_without_pandas

do_without_pandas()
assert importlib.util.find_spec("pandas").origin is None
try:
    import pandas
except ModuleNotFoundError as error:
    assert error.name == "pandas"
else:
    raise AssertionError("pandas was imported")
import torch._dynamo
"""


@pytest.mark.slow
def test_pandas_is_refused_and_torchs_compiler_still_imports() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=300)


def test_pandas_is_allowed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [*sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", [*before])
    do_without_pandas()
    assert len(sys.meta_path) == len(before) + 1
    allow_pandas()
    assert sys.meta_path == before
