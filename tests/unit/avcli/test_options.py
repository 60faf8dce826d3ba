"""Options of commands that stand for settings."""

from dataclasses import fields

from avdata.prepare.config import PrepareConfig
from avmanifest.settings import declared


def test_settings_that_are_true_or_false_are_switches_of_prepare() -> None:
    switches = {field.name for field in fields(PrepareConfig) if isinstance(field.default, bool)}
    assert switches >= {"append", "overwrite", "verify"}
    assert {one.path for one in declared(PrepareConfig) if one.option is not None and one.path in switches} == switches
