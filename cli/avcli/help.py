"""The help of commands: headings over the options, nothing cut, no line wider than the terminal or 80 columns.

Plain text without frames, so that screen readers and copies have words alone. On a terminal the headings are bold,
except with NO_COLOR or TERM=dumb.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from avcli.typed import TYPED, Words
from avmanifest.errors import ConfigError

# Headings that several commands have; options without one stand under OPTIONS.
OPTIONS: Final = "Options"
SETTINGS: Final = "Settings"
OUTPUT: Final = "Output"
HELP: Final = "Help"

_WIDEST: Final = 80
_TERM_COLUMN: Final = 26  # widest first column; a longer term has a line of its own
_INDENT: Final = "  "
_HELP_NAMES: Final = ("help", "version", "install_completion", "show_completion")
_BREAK: Final = " \\"
_HOME: Final = re.compile(r"\A(--[\w-]+=)?~(?=/|\Z)")


def defaulted(metavar: str, text: str, default: str, panel: str | None = None, **more: Any) -> Any:
    """An option that is None unless it is given. Its default is a config's, or depends; the help says it in words."""
    return typer.Option(metavar=metavar, help=text, show_default=default, rich_help_panel=panel, **more)


def listed(text: str) -> Any:
    """The argument of a command that lists names: one of them; without it, all."""
    return typer.Argument(metavar="NAME", help=text, show_default="all")


def width(most: int = _WIDEST) -> int:
    """Columns to write in: those of the terminal, from 40 to `most`."""
    return max(min(shutil.get_terminal_size().columns, most), 40)


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of that width. A default that is shown in brackets stays on one line, if it is short."""
    import textwrap

    held = re.sub(r"\[default: [^\]]{1,30}\]", lambda found: found[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(held, width, break_long_words=False, break_on_hyphens=False) or [""]
    return [line.replace("\0", " ") for line in lines]


def filled(text: str) -> str:
    """A paragraph in lines as wide as the terminal, up to 100 columns."""
    return "\n".join(wrapped(text, width(100)))


def command_lines(command: str, width: int) -> list[str]:
    """A command line in lines of that width, broken at spaces outside of quotes; all but the last end with a backslash.

    A word that is wider than a line stays whole.
    """
    lines: list[str] = []
    line = ""
    for word in _shell_words(command):
        if line and len(line) + 1 + len(word) + len(_BREAK) > width:
            lines.append(line + _BREAK)
            line = _INDENT * 2 + word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _shell_words(command: str) -> Iterator[str]:
    """The words with their quotes. An option and its value are one, so that they stay on one line."""
    words: list[str] = []
    quote = ""
    for part in command.split():
        if quote:
            words[-1] += f" {part}"
        else:
            words.append(part)
        for letter in part:
            quote = "" if letter == quote else quote or (letter if letter in "'\"" else "")
    at = 0
    while at < len(words):
        is_pair = words[at].startswith("-") and at + 1 < len(words) and not words[at + 1].startswith("-")
        yield " ".join(words[at : at + 1 + is_pair])
        at += 1 + is_pair


def examples(*commands: str) -> str:
    """The end of a command's help: commands that can be copied."""
    return "\n  ".join(("\b\nExample:" if len(commands) == 1 else "\b\nExamples:", *commands))


def _heading(text: str) -> str:
    plain = f"{text}:"
    is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return plain if is_plain else typer.style(plain, bold=True)


def _epilog(text: str, width: int) -> Iterator[str]:
    """The lines of an epilog. In a block that begins with \\b only commands are broken; the rest is wrapped."""
    for number, block in enumerate(filter(None, cleandoc(text).split("\n\n"))):
        if number:
            yield ""
        lines = block.strip("\n").split("\n")
        if lines[0].strip() != "\b":
            yield from wrapped(" ".join(block.split()), width)
            continue
        for line in lines[1:]:
            if line.endswith(":") and not line.startswith(" "):
                yield _heading(line.removesuffix(":"))
                continue
            words = line.lstrip()
            indent = line[: len(line) - len(words)]
            is_command = words.startswith(("avkit ", "torchrun ", "sbatch "))
            yield from (
                (indent + part for part in command_lines(words, width - len(indent)))
                if is_command
                else (line.rstrip(),)
            )


def two_columns(rows: Sequence[tuple[str, str]], width: int, widest: int = _TERM_COLUMN) -> Iterator[str]:
    """Terms and their texts in two columns; a term of more than `widest` characters has a line of its own."""
    column = min(max((len(term) for term, _ in rows), default=0), widest) + len(_INDENT)
    for term, text in rows:
        lines = wrapped(text, width - column - len(_INDENT))
        if len(term) + len(_INDENT) > column:
            yield _INDENT + term
        else:
            yield (_INDENT + term.ljust(column) + lines.pop(0)).rstrip()
        for line in lines:
            yield _INDENT + " " * column + line


def _term(parameter: Any) -> str:
    """What is written on the command line: `--frames FRAMES`, or the name of an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper().replace("_", "-"))
    names = ", ".join(sorted(parameter.opts, key=len))
    return names if parameter.is_flag else f"{names} {parameter.metavar or 'TEXT'}"


def _text(parameter: Any) -> str:
    """What stands beside it: its help, and whether it is required, or its default."""
    notes = []
    if parameter.required:
        notes.append("Required.")
    elif isinstance(parameter.show_default, str):
        notes.append(f"[default: {parameter.show_default}]")
    elif parameter.default not in (None, False, (), []) and parameter.show_default and not callable(parameter.default):
        notes.append(f"[default: {parameter.default}]")
    return " ".join([parameter.help or "", *notes]).strip()


def _panels(context: Any, order: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """The rows of each heading: the given headings first, then others, then settings, output and help."""
    found: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{name: [] for name in order}}
    last = (SETTINGS, OUTPUT, HELP)
    for parameter in context.command.get_params(context):
        if not getattr(parameter, "hidden", False):
            usual = "Arguments" if parameter.param_type_name == "argument" else OPTIONS
            panel = getattr(parameter, "rich_help_panel", None) or (HELP if parameter.name in _HELP_NAMES else usual)
            found.setdefault(panel, []).append((_term(parameter), _text(parameter)))
    names = [name for name in found if name not in last]
    return {name: found[name] for name in (*names, *last) if found.get(name)}


class _Help:
    """What commands and groups have in common: their help, written line by line."""

    panels: Sequence[str] = ()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write usage, description, options by heading, commands and examples."""
        formatter.write("\n".join(self._lines(ctx, width())) + "\n")

    def _lines(self, ctx: Any, width: int) -> Iterator[str]:
        usage = f"Usage: {ctx.command_path} {' '.join(self.collect_usage_pieces(ctx))}"
        first, *more = wrapped(usage, width - 2)
        yield first
        yield from (f"{_INDENT * 2}{line}" for line in more)
        yield ""
        for paragraph in cleandoc(self.help or "").split("\n\n"):
            yield from (_INDENT + line for line in wrapped(" ".join(paragraph.split()), width - 2))
            yield ""
        yield from self._commands(ctx, width)
        for name, rows in _panels(ctx, self.panels).items():
            yield _heading(name)
            yield from two_columns(rows, width)
            yield ""
        yield from _epilog(self.epilog or "", width)

    def _commands(self, ctx: Any, width: int) -> Iterator[str]:
        return iter(())

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] RECIPE`: an argument that may be left out is in brackets."""
        pieces = ["[OPTIONS]"]
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                pieces.append(_term(parameter) if parameter.required else f"[{_term(parameter)}]")
        return pieces

    epilog: str | None
    help: str | None

    if TYPE_CHECKING:

        def get_params(self, ctx: Any) -> Any: ...


def _with_home(word: str) -> str:
    """The word with the home in the place of `~`, which shells leave as it is in `--out=~/data` and in quotes."""
    return _HOME.sub(lambda found: (found[1] or "") + str(Path.home()), word, count=1)


class HelpCommand(_Help, TyperCommand):
    """A command with this help."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.panels = getattr(self.callback, "panels", ())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words as they were typed: messages name the command that goes on."""
        args = [_with_home(word) for word in args]
        flags = (option for one in self.params if getattr(one, "is_flag", False) for option in one.opts)
        TYPED.set(Words(("avkit", self.name or "", *args), frozenset(flags)))
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if error.message or error.param is None:
                raise
            raise ConfigError(self._missing(error.param, str(ctx.command_path))) from error

    def _missing(self, parameter: Any, command: str) -> str:
        """That an argument or option which has to be given is missing: what it is, and an example."""
        name = _term(parameter).partition(" ")[0]
        example = re.search(rf"^ *(avkit (?:\S+ )?{re.escape(self.name or '')} .+)", self.epilog or "", re.MULTILINE)
        said = f"{name} is missing: {(parameter.help or '').rstrip('.')}."
        return said + (f" For example: {example[1]}" if example else f" {command} --help shows more.")


class HelpGroup(_Help, TyperGroup):
    """A group of commands with this help."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """As for a command, with the command's name."""
        return [*super().collect_usage_pieces(ctx), "COMMAND ..."]

    def _commands(self, ctx: Any, width: int) -> Iterator[str]:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                first = " ".join(cleandoc(command.help or "").partition("\n\n")[0].split())
                panels.setdefault(panel, []).append((name, first))
        for panel, rows in panels.items():
            yield _heading(panel)
            yield from two_columns(rows, width)
            yield ""


class App(typer.Typer):
    """A group whose commands have this help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=HelpGroup, rich_markup_mode=None, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As of typer, with this help."""
        return super().command(name, **{"cls": HelpCommand, **options})
