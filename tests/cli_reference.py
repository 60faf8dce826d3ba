"""docs/cli.md: the help of every command, as it is printed at 80 columns.

`python -m tests.cli_reference` writes it anew; a test compares it with the commands.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from avcli.main import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# Commands

The help of every command, written by `python -m tests.cli_reference` from the commands themselves.
`avkit COMMAND --help` prints the same. `avkit prepare RECIPE --explain`,
`avkit pretrain RUN --explain`, `avkit evaluate TASK --explain` and
`avkit apply --task TASK --explain` list all settings, also those without an option of their own.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and group with its name, `avkit dataset merge`, in the order of the help."""

    def walk(command: Any, context: Any) -> Iterator[tuple[str, Any]]:
        yield context.command_path, context
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, inner.context_class(inner, info_name=name, parent=context))

    whole: Any = typer.main.get_command(app)
    yield from walk(whole, whole.context_class(whole, info_name="avkit", **whole.context_settings))


def help_of(context: Any) -> str:
    """The help of a command at 80 columns, without styles."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
    try:
        return str(context.command.get_help(context))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def page() -> str:
    """The page."""
    parts = [HEAD]
    for name, context in commands():
        parts.append(f"## {name}\n\n```text\n{help_of(context).rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
