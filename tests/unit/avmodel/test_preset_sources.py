"""Every named run and preset, against the table of its numbers and their sources (tests/presets.toml)."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

import pytest

from avmanifest.settings import declared, value_of
from avmodel.evaluate.tasks import TASKS, task_config
from avmodel.presets import presets, run_config

TABLE_FILE = Path(__file__).parents[2] / "presets.toml"
TABLE: Mapping[str, Any] = tomllib.loads(TABLE_FILE.read_text())
SOURCES: Mapping[str, str] = TABLE["sources"]
PRETRAIN = "pretrain"
NAMED = "name"  # a run's own name, which no source has
NOT_SETTINGS = ("source", "like")


def known_presets() -> Iterator[tuple[str, str]]:
    """Command and name of every preset that a command offers."""
    yield from ((PRETRAIN, name) for name in sorted(presets()))
    yield from ((task, name) for task, entry in TASKS.items() for name in entry.presets)


def config_of(command: str, name: str) -> Any:
    return run_config(name) if command == PRETRAIN else task_config(command, name)


def groups_of(command: str, name: str) -> list[Mapping[str, Any]]:
    groups: list[Mapping[str, Any]] = TABLE.get(command, {}).get(name, [])
    return groups


def settings_of(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each setting in a group."""
    for key, value in group.items():
        if isinstance(value, dict):
            yield from settings_of(value, f"{prefix}{key}.")
        elif prefix or key not in NOT_SETTINGS:
            yield prefix + key, value


def told(command: str, name: str) -> dict[str, Any]:
    """All settings that the table gives a preset, those of the preset that it is like included."""
    own = dict(pair for group in groups_of(command, name) for pair in settings_of(group))
    other = like(command, name)
    return own if other is None else told(command, other) | own


def like(command: str, name: str) -> str | None:
    return next((group["like"] for group in groups_of(command, name) if "like" in group), None)


def as_told(value: Any) -> Any:
    """A setting's value as the table writes it: none for None, lists for tuples."""
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def equal(value: Any, expected: Any) -> bool:
    """Whether they are the same, numbers to one part in a million."""
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(equal, value, expected))
    if isinstance(expected, float):
        return isinstance(value, int | float) and value == pytest.approx(expected, rel=1e-6)
    return bool(value == expected) and isinstance(value, bool) == isinstance(expected, bool)


def mistakes(command: str, name: str, config: Any) -> list[str]:
    """What is wrong between a preset's config and the table: other values, and settings that the table lacks."""
    expected = told(command, name)
    settings = {one.path: one for one in declared(type(config), config=config)}
    found = {path: as_told(value_of(config, path)) for path in settings}
    wrong = [f"{path}: unknown setting" for path in expected if path not in settings]
    wrong += [
        f"{path}: {found[path]!r}, the table says {value!r}"
        for path, value in expected.items()
        if path in settings and not equal(found[path], value)
    ]
    other = like(command, name)
    plain = {} if other is None else {path: as_told(value_of(config_of(command, other), path)) for path in settings}
    for path, one in settings.items():
        if path in expected or path == NAMED:
            continue
        if other is not None and found[path] != plain[path]:
            wrong.append(f"{path}: {found[path]!r}, {other} has {plain[path]!r}")
        if other is None and (one.default is MISSING or as_told(one.default) != found[path]):
            wrong.append(f"{path}: {found[path]!r} is not in the table")
    return wrong


@pytest.mark.parametrize(("command", "name"), list(known_presets()))
def test_a_preset_has_the_numbers_of_its_sources(command: str, name: str) -> None:
    assert groups_of(command, name), f"{command} {name} is not in tests/presets.toml: add its numbers and their source"
    assert mistakes(command, name, config_of(command, name)) == []


def test_the_table_has_no_preset_that_is_not_there() -> None:
    listed = {(command, name) for command, table in TABLE.items() if command != "sources" for name in table}
    assert listed - set(known_presets()) == set()


def test_every_group_names_its_source() -> None:
    for command, name in known_presets():
        given: list[str] = []
        for group in groups_of(command, name):
            kind, _, place = group["source"].partition(":")
            assert kind in SOURCES, f"{command} {name}: unknown source {kind!r}; known: {', '.join(SOURCES)}"
            assert place.strip(), f"{command} {name}: {kind} names no place"
            given += [path for path, _ in settings_of(group)]
        assert len(given) == len(set(given)), f"{command} {name}: a setting has two sources"


def test_a_preset_that_drifts_is_found() -> None:
    config = run_config("deepavfusion")
    drifted = replace(config, epochs=300, seed=3, optim=replace(config.optim, betas=(0.9, 0.999)))
    assert mistakes(PRETRAIN, "deepavfusion", drifted) == [
        "epochs: 300, the table says 200",
        "optim.betas: [0.9, 0.999], the table says [0.9, 0.95]",
        "seed: 3 is not in the table",
    ]
    late = run_config("deepavfusion-late")
    assert mistakes(PRETRAIN, "deepavfusion-late", replace(late, batch_size=256, save_every=7)) == [
        "batch_size: 256, the table says 512",
        "save_every: 7, deepavfusion has 1000",
    ]
    assert mistakes(PRETRAIN, "unsourced", config)[:1] == [
        "image_weights: 'weights/mae_pretrain_vit_base.pth' is not in the table"
    ]
