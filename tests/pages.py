"""Pages of docs/ carried out: commands are run, Python is executed, what a page shows is compared."""

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from avcli.main import app

DOCS = Path(__file__).parents[1] / "docs"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_EXIT_CODE = re.compile(r"# exit code (\d)")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page: `bash` is run, `python` is executed, `output` has to be in what the page printed so far."""

    kind: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines, those that end with a backslash joined with the next."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page that say of what kind they are."""
    return [Block(kind, text) for kind, text in _BLOCK.findall(page.read_text())]


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def run_command(command: str) -> str:
    """What a command of avkit prints, in this process; `# exit code N` after it is compared."""
    words = shlex.split(command, comments=True)
    assert words[0] == "avkit", f"a page's block has a command that is not avkit's: {command}"
    expected = _EXIT_CODE.search(command)
    result = CliRunner().invoke(app, words[1:])
    error = result.exception
    code = int(getattr(error, "exit_code", result.exit_code))  # avcli.main.run turns an error into its exit code
    assert code == (int(expected[1]) if expected else 0), f"{command}\n{result.output}\n{error!r}"
    return result.output


def follow(page: str) -> Iterator[str]:
    """Carry out a page below docs/ in the current folder; after each command and block of Python, what was printed."""
    said = ""
    names: dict[str, object] = {"__name__": page}
    for block in blocks_of(DOCS / page):
        match block.kind:
            case "bash":
                for command in block.commands:
                    said += run_command(command)
                    yield said
            case "python":
                with redirect_stdout(io.StringIO()) as printed:
                    exec(compile(block.text, f"a block of {page}", "exec"), names)
                said += printed.getvalue()
                yield said
            case "output":
                for line in block.text.splitlines():
                    assert _squeezed(line) in _squeezed(said), f"{page}: not printed: {line}\n{said}"
            case _:
                assert block.kind in ("text", "sh", "toml", "py"), f"{page}: a block of the kind {block.kind}"
