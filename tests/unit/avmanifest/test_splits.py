"""Names of splits and aliases become the splits that are there, or an error that says which are."""

import pytest

from avmanifest.errors import ConfigError, ManifestError, MissingSplit
from avmanifest.recipe import load_recipe
from avmanifest.records import parse_description
from avmanifest.splits import aliases_of, recipe_splits, resolve_splits, split_names

AUDIOSET = load_recipe("audioset").split_aliases


def resolved(wanted: object, *known: str) -> tuple[str, ...]:
    return resolve_splits(wanted, known.__contains__, known=known, aliases=AUDIOSET, where="data/as")  # type: ignore


def test_several_names_stand_in_one_text() -> None:
    assert split_names("train") == ("train",)
    assert split_names(" b , a,") == ("b", "a")
    assert split_names(["train,val", "test"]) == ("train", "val", "test")
    for none in ("", " , ", []):
        with pytest.raises(ConfigError, match="names none"):
            split_names(none)


def test_aliases_stand_for_their_splits() -> None:
    present = ("balanced", "eval", "unbalanced")
    assert resolved("balanced,unbalanced", *present) == ("balanced", "unbalanced")
    assert resolved("unbalanced,balanced", *present) == ("unbalanced", "balanced")
    for spelling in ("AS-2M", "as_2m", "as-2M", "train"):
        assert resolved(spelling, *present) == ("balanced", "unbalanced")
    assert resolved("AS-20K", "balanced") == ("balanced",)
    assert resolved(["as_20k", "test"], *present) == ("balanced", "eval")


def test_a_split_comes_before_an_alias_of_its_name() -> None:
    assert resolved("train", "train", "balanced", "unbalanced") == ("train",)


@pytest.mark.parametrize(
    ("wanted", "known", "said", "instead"),
    [
        ("trian", ("train", "val"), r"no split 'trian'; did you mean train\? known: .* such as train\.", ("train",)),
        ("tset", ("train", "val"), "such as train", ("train",)),
        ("test_full", ("train", "val"), r"no split 'test_full'; .* such as val\.", ("val",)),
        ("train", ("duet", "solo"), r"'train' is balanced \+ unbalanced, and .* known: duet, solo", ("duet", "solo")),
        ("train", ("balanced", "eval"), r"no unbalanced; known: balanced, eval, test \(eval\), as_20k", ("balanced",)),
        ("AS-2M", ("unbalanced",), r"'AS-2M' is balanced \+ unbalanced, and there is no balanced", ("unbalanced",)),
        ("val", (), r"no split 'val', or no manifest of it\. Name another, or finish avkit prepare", ()),
        ("balanced,no", ("balanced", "eval"), "no split 'no'", ("balanced",)),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named_with_what_is(
    wanted: str, known: tuple[str, ...], said: str, instead: tuple[str, ...]
) -> None:
    with pytest.raises(MissingSplit, match=said) as caught:
        resolved(wanted, *known)
    assert caught.value.instead == instead


def test_the_setting_is_named_where_it_is_known() -> None:
    assert "Give --set data.split=a,b." in str(MissingSplit("x: no split 'c'.", ("a", "b")).for_setting("data.split"))
    assert type(MissingSplit("x", ()).for_setting("data.split")) is ConfigError


def test_a_split_named_twice_is_refused() -> None:
    for wanted in ("balanced,balanced", "as_20k,as_2m"):
        with pytest.raises(ConfigError, match="names split balanced twice"):
            resolved(wanted, "balanced", "unbalanced")


def test_a_recipes_lists_have_these_splits() -> None:
    audioset = load_recipe("audioset")
    assert recipe_splits(audioset, ["AS-20K", "eval", "eval"]) == ("balanced", "eval")
    assert recipe_splits(load_recipe("folder"), ["anything", "any"]) == ("anything", "any")
    with pytest.raises(
        MissingSplit, match=r"recipe audioset: no split 'val'; did you mean eval\? known: balanced, unbalanced, eval"
    ):
        recipe_splits(audioset, ["val"])


def test_aliases_are_those_of_dataset_json_else_of_the_recipe() -> None:
    assert aliases_of({"recipe": {"name": "audioset"}}) == AUDIOSET
    assert aliases_of({"recipe": {"name": "audioset", "split_aliases": {"a": ["b"]}}}) == {"a": ["b"]}
    assert aliases_of({"recipe": {"name": "mine"}}) == aliases_of({"recipe": {}}) == {}


@pytest.mark.parametrize(
    "aliases", ['["a"]', '{"a": "b"}', '{"a": [1]}', '{"a": {"b": "c"}}', "null", '{"a": ["b", "b"]}']
)
def test_aliases_of_other_types_are_refused(aliases: str) -> None:
    content = f'{{"recipe": {{"name": "x", "split_aliases": {aliases}}}}}'.encode()
    with pytest.raises(ManifestError, match=r"not the description of a dataset: recipe\.split_aliases"):
        parse_description(content, "dataset.json")
