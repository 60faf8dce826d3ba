"""docs/licences.md names every package that avkit asks for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_direct_dependency_has_its_licence_on_the_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: found for name, found in project["optional-dependencies"].items() if name != "dev"}
    asked = [*project["dependencies"], *(package for found in extras.values() for package in found)]
    names = {re.split(r"[\[<>=;! ]", package, maxsplit=1)[0] for package in asked} - {"avkit"}
    page = (ROOT / "docs" / "licences.md").read_text()
    listed = dict(re.findall(r"^\| ([a-z0-9-]+) \|(?: `[a-z0-9]+` \|)? ([^|]+) \|$", page, re.MULTILINE))
    assert names <= listed.keys()
    assert listed.keys() - {"package", "wheel"} <= names
