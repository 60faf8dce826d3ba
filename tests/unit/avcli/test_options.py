"""Options of commands that stand for settings."""

from dataclasses import fields

from avcli.prepare import OPTIONS
from avdata.prepare.config import PrepareConfig


def test_settings_that_are_true_or_false_are_switches_of_prepare() -> None:
    switches = {field.name for field in fields(PrepareConfig) if isinstance(field.default, bool)}
    assert switches >= {"append", "overwrite", "verify"}
    assert {option.path for option in OPTIONS if option.path in switches and option.flag == "true"} == switches
