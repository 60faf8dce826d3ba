import pytest

from avmanifest.errors import ConfigError
from avmanifest.labels import fold_label, spelling_table, unknown_label
from avmanifest.recipe import canonical_label, load_recipe


def spellings(label: str) -> set[str]:
    """The six ways in which lists and folders spell a VGGSound label."""
    whole = label
    for character in " (),":
        whole = whole.replace(character, "_")
    return {
        label,
        label.replace(",", "_"),
        label.replace(" ", "_"),
        whole,
        label.replace(",", ""),
        label.removeprefix("playing "),
    }


def test_all_spellings_of_every_vggsound_label_are_the_official_one() -> None:
    recipe = load_recipe("vggsound")
    for label in recipe.labels:
        for spelling in spellings(label):
            assert canonical_label(recipe, spelling) == label


@pytest.mark.parametrize("spelling", ["", "playing", "ambulance", "ambulance siren 2", "police car", "vgg_310"])
def test_another_label_is_refused(spelling: str) -> None:
    with pytest.raises(ConfigError, match="recipe vggsound: label"):
        canonical_label(load_recipe("vggsound"), spelling)


def test_a_folder_name_with_doubled_underscores() -> None:
    recipe = load_recipe("vggsound-music")
    assert canonical_label(recipe, "playing_violin__fiddle") == "playing violin, fiddle"
    assert canonical_label(recipe, "violin") == "playing violin, fiddle"
    assert canonical_label(recipe, "steel_guitar,_slide_guitar") == "playing steel guitar, slide guitar"
    assert canonical_label(recipe, "table_tennis") == "playing table tennis"


def test_a_recipe_without_labels_keeps_the_spelling() -> None:
    assert canonical_label(load_recipe("folder"), "My_Label (2)") == "My_Label (2)"


def test_audioset_ids_are_aliases() -> None:
    recipe = load_recipe("audioset")
    assert canonical_label(recipe, "/m/05zppz") == "Male speech, man speaking"
    assert canonical_label(recipe, "Male speech, man speaking") == "Male speech, man speaking"


def test_folding_keeps_letters_of_every_alphabet() -> None:
    assert fold_label("  Straße_(Früh), 2 ") == "strasse früh 2"


def test_two_labels_with_the_same_folded_spelling_are_refused() -> None:
    with pytest.raises(ConfigError, match="'a_b' is a spelling of both 'a b' and 'a_b'"):
        spelling_table(["a b", "a_b"], {})


def test_a_label_that_equals_another_without_its_prefix_is_refused() -> None:
    with pytest.raises(ConfigError, match="'piano' is a spelling of both 'piano' and 'playing piano'"):
        spelling_table(["piano", "playing piano"], {}, ["playing "])


def test_an_alias_of_an_unknown_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="alias 'x' is for 'z', which is not a label of this dataset; known: y"):
        spelling_table(["y"], {"x": "z"})


def test_a_label_of_punctuation_is_refused() -> None:
    with pytest.raises(ConfigError, match="no letter or digit"):
        spelling_table(["--"], {})


def test_an_unknown_label_lists_all_of_few_labels_and_the_closest_of_many() -> None:
    assert unknown_label("x", ["b", "c"]).endswith("known: b, c")
    many = load_recipe("vggsound").labels
    assert "'playing accordion'" in unknown_label("playing acordion", many)
    assert "309" in unknown_label("zzzzzz", many)
