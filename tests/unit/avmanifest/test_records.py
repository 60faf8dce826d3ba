"""dataset.json as avkit reads it."""

import json
from typing import Any

import pytest

from avmanifest.errors import ManifestError
from avmanifest.records import parse_description, shown_step

STEP = {"name": "black", "version": 1, "settings": {"max_share": 0.5, "names": ["a", "b"], "most": None}}


def described(steps: Any) -> dict[str, Any]:
    return parse_description(json.dumps({"config": {"steps": steps}}).encode(), "dataset.json")


def test_steps_are_read_and_shown() -> None:
    (step,) = described([STEP])["config"]["steps"]
    assert shown_step(step) == "black, version 1 (max_share=0.5, names=a,b, most=none)"
    assert shown_step(STEP | {"settings": {}}) == "black, version 1"


def test_a_url_in_a_setting_is_shown_without_its_password() -> None:
    step = STEP | {"settings": {"model": "https://me:secret@host/model"}}
    assert "secret" not in shown_step(step)


@pytest.mark.parametrize(
    "steps",
    [
        {}, "black", [1], [[]], [{}], [STEP | {"name": 1}], [STEP | {"version": "1"}], [STEP | {"version": True}],
        [STEP | {"settings": []}], [STEP, {"name": "black", "version": 1}],
    ],
)  # fmt: skip
def test_what_is_no_list_of_steps_is_refused(steps: Any) -> None:
    with pytest.raises(ManifestError, match=r"dataset\.json: not the description of a dataset: config\.steps"):
        described(steps)
