"""Names of splits in settings such as `balanced,unbalanced`, and the aliases that a recipe has for some of its splits.

An alias stands for one or several splits: of AudioSet, `as_20k` is `balanced`, `train` is `balanced` and `unbalanced`.
It is read in any case, with - for _: `AS-20K`. A split of the dataset comes before an alias of the same name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from avmanifest.errors import ConfigError, MissingSplit
from avmanifest.names import did_you_mean
from avmanifest.recipe import Recipe, load_recipe, recipe_names
from avmanifest.secrets import excerpt

_TEST_WORDS: Final = ("test", "val")  # eval has one, too


def split_names(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """The names of a text, which commas separate, or of several texts, in their order.

    Raises:
        ConfigError: There is none.
    """
    texts = [wanted] if isinstance(wanted, str) else wanted
    names = tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
    if not names:
        raise ConfigError(f"split {wanted!r} names none. Name one, or several, such as train,val.")
    return names


def folded_split(name: str) -> str:
    """An alias as recipes write it."""
    return name.lower().replace("-", "_")


def resolve_splits(
    wanted: str | Sequence[str],
    has: Callable[[str], bool],
    *,
    known: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    where: str,
) -> tuple[str, ...]:
    """The splits that names and aliases stand for, in the order in which they are named.

    Args:
        wanted: See `split_names`.
        has: Whether there is a split of this name.
        known: All splits, for messages; empty if they cannot be listed.
        aliases: The splits of each alias.
        where: The dataset or recipe, for messages.

    Raises:
        MissingSplit: A name is neither a split nor an alias, or a split of an alias is not there.
        ConfigError: A split is named twice, or none is named.
    """
    found: list[str] = []
    for name in split_names(wanted):
        members = (name,) if has(name) else tuple(aliases.get(folded_split(name), ()))
        here = tuple(member for member in members if has(member))
        if not members or len(here) < len(members):
            raise _missing(name, members, here, known=known, aliases=aliases, where=where)
        found += members
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ConfigError(f"{where}: {excerpt(str(wanted), 200)} names split {twice[0]} twice. Name it once.")
    return tuple(found)


def recipe_splits(recipe: Recipe, wanted: Sequence[str]) -> tuple[str, ...]:
    """The splits of a recipe that names and aliases stand for; the names as they are if its lists may have any splits.

    Raises as `resolve_splits`.
    """
    wanted = tuple(dict.fromkeys(wanted))
    if not recipe.splits:
        return wanted
    return resolve_splits(
        wanted,
        recipe.splits.__contains__,
        known=recipe.splits,
        aliases=recipe.split_aliases,
        where=f"recipe {recipe.name}",
    )


def aliases_of(description: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """The aliases that dataset.json has of its recipe; if it is older than aliases, those of avkit's own recipe."""
    recipe = description.get("recipe", {})
    if "split_aliases" in recipe:
        found: Mapping[str, Sequence[str]] = recipe["split_aliases"]
        return found
    return load_recipe(recipe["name"]).split_aliases if recipe.get("name") in recipe_names() else {}


def _missing(
    name: str,
    members: Sequence[str],
    here: Sequence[str],
    *,
    known: Sequence[str],
    aliases: Mapping[str, Sequence[str]],
    where: str,
) -> MissingSplit:
    """The error for a split that is not there: what is, and what to name in its place."""
    asks_for_test = any(word in folded_split(name) for word in _TEST_WORDS)
    alike = [split for split in known if any(word in split for word in _TEST_WORDS) == asks_for_test]
    instead = tuple(here or alike or known)
    whole = {alias: splits for alias, splits in aliases.items() if set(splits) <= set(known)}
    listed = [*known, *(f"{alias} ({' + '.join(splits)})" for alias, splits in whole.items())]
    quoted = repr(excerpt(name, 80))
    if members:
        absent = [member for member in members if member not in here]
        said = f"split {quoted} is {' + '.join(members)}, and there is no {', '.join(absent)}"
    else:
        said = f"no split {quoted}"
    if not listed:
        return MissingSplit(f"{where}: {said}, or no manifest of it. Name another, or finish avkit prepare.", ())
    hint = did_you_mean(name, (*known, *whole)) or ";"
    return MissingSplit(
        f"{where}: {said}{hint} known: {', '.join(listed)}. Name one, or several with commas between them, such as "
        f"{','.join(instead)}.",
        instead,
    )
