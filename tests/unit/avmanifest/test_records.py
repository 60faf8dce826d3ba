"""dataset.json as avkit reads it."""

import json
from typing import Any

import pytest

from avmanifest.errors import ManifestError
from avmanifest.records import parse_description, shown_operation, shown_step

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


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"operation": "reshard", "shard_size": 100, "plan_hash": "ab", "before": "cd"}, "reshard shard_size=100"),
        ({"operation": "remove", "ids": 2, "ids_sha256": "ab", "before": "cd"}, "remove ids=2"),
        (
            {"operation": "subset", "where": "not silent", "from": [{"recipe": "synth", "subset_id": "12", "x": 1}]},
            "subset where=not silent of synth (subset id 12)",
        ),
        ({"operation": "subset", "from": "nowhere"}, "subset"),
        ({}, "unknown"),
    ],
)
def test_an_operation_in_words(entry, words):
    assert shown_operation(entry) == words
