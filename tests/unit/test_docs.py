"""The pages of docs/: every link, heading and picture is there, and the site's menu has every page once."""

import re
from pathlib import Path

from avmanifest import errors
from avmanifest.errors import AvkitError
from avmanifest.schema import STATUSES
from tests.site_pages import DOCS, ROOT, broken_links, menu_problems, problems


def test_nothing_is_wrong() -> None:
    assert problems() == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# There\n\n## By `name`, and more\n\n## Twice\n\n## Twice\n")
    good = "[a](there.md) [b](there.md#by-name-and-more) [c](there.md#twice_1) [d](https://host/x) [e](#here)"
    code = "`[f](in/code.md)`\n\n```\n# no heading\n[g](in/code.md)\n```\n"
    bad = "[h](gone.md) ![i](gone.svg) [j](there.md#gone) [k](#no-heading)"
    (tmp_path / "page.md").write_text(f"# Here\n\n{good}\n\n{code}\n{bad}\n")
    assert broken_links(tmp_path / "page.md") == ["gone.md", "gone.svg", "there.md#gone", "#no-heading"]


def test_what_the_menu_lacks_or_has_wrongly_is_found() -> None:
    assert menu_problems(["a.md", "b.md"], ["a.md", "b.md"]) == []
    assert menu_problems(["a.md", "c.md", "a.md"], ["a.md", "b.md"]) == [
        "mkdocs.yml: nav lacks b.md",
        "mkdocs.yml: nav has c.md, which is not there",
        "mkdocs.yml: nav has a.md twice",
    ]


def module_of(name: str) -> tuple[Path, str]:
    """The file of the module that a dotted name begins with, and the rest of the name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        for top in (ROOT, ROOT / "manifests", ROOT / "cli"):
            path = top.joinpath(*parts[:length])
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.exists():
                    return file, ".".join(parts[length:])
    raise AssertionError(f"{name}: no such module")


def test_every_name_of_the_reference_is_there() -> None:
    names = re.findall(r"^::: (\S+)$", (DOCS / "reference" / "python.md").read_text(), re.MULTILINE)
    assert len(names) > 5
    for name in names:
        file, inside = module_of(name)
        assert re.search(rf"\b{inside}\b", file.read_text()), name


def test_the_readme_fits_on_two_screens() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 110
    assert any(line.startswith("![") for line in lines), "it has one picture"
    assert [line for line in lines if line.startswith("## ")][-1] == "## Licence"


def rows_of(page: Path, columns: int) -> dict[str, tuple[str, ...]]:
    """The rows of a page's tables with so many columns, by the `name` in the first."""
    lines = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    return {name.strip("`"): tuple(rest) for name, *rest in lines if len(rest) == columns - 1}


def test_the_page_of_errors_has_every_kind_with_its_exit_code() -> None:
    kinds = {
        name: str(kind.exit_code.value)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, AvkitError)
    }
    rows = rows_of(DOCS / "errors.md", 4)
    assert {name: row[-1] for name, row in rows.items() if name in kinds} == kinds
    assert all(len(cause) > 10 and len(remedy) > 10 for name, (cause, remedy, _) in rows.items() if name in kinds)


def test_the_page_of_errors_has_every_status_as_the_table_of_statuses_has_it() -> None:
    nothing = "nothing: it was asked for"
    expected = {
        name: (status.meaning, status.remedy or nothing, status.status_class.value)
        for name, status in STATUSES.items()
        if name != "ok"
    }
    found = {name: row for name, row in rows_of(DOCS / "errors.md", 4).items() if name in STATUSES}
    assert found == expected
