"""The follower of pages notices what a page says wrongly."""

from pathlib import Path

import pytest

from tests.pages import follow


def page(folder: Path, *blocks: tuple[str, str]) -> str:
    path = folder / "page.md"
    path.write_text("# Page\n\n" + "\n\n".join(f"```{kind}\n{text}\n```" for kind, text in blocks) + "\n")
    return str(path)


def test_commands_and_python_are_carried_out_in_order(tmp_path: Path) -> None:
    shown = page(
        tmp_path,
        ("python", "name = 'a'\nprint(name, 1)"),
        ("text", "not run"),
        ("bash", "avkit --version\navkit inspect \\\n    nothing-there  # exit code 2"),
        ("python", "print(name, 2)"),
        ("output", "a  1\na 2"),
    )
    said = list(follow(shown))
    assert len(said) == 4
    assert said[0] == "a 1\n"
    assert "avkit" in said[1]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([("python", "print('a')"), ("output", "b")], "not printed: b"),
        ([("bash", "rm -rf data")], "not avkit's"),
        ([("bash", "avkit inspect nothing-there")], "ConfigError|ManifestError|no such"),
        ([("bash", "avkit --version  # exit code 4")], "avkit --version"),
        ([("shell", "avkit --version")], "a block of the kind shell"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, blocks: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        list(follow(page(tmp_path, *blocks)))
