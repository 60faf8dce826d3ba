"""Files are opened, and texts parsed, in the two places that refuse what is hostile: no module does it by itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("manifests/avmanifest", "avdata", "avmodel", "cli/avcli", "avkit")
PARSERS = (
    "json.load", "json.loads", "tomllib.load", "tomllib.loads", "yaml.load", "yaml.safe_load", "np.load", "pickle.load",
    "pickle.loads", "np.lib.format.read_array", "os.open",
)  # fmt: skip
ALLOWED = {
    "manifests/avmanifest/files.py": "opens files for all others",
    "manifests/avmanifest/parsing.py": "parses for all others",
    "avdata/cache.py": "its own locks",
    "avdata/draw/page.py": "its own style and script",
    "avdata/load/bench_open.py": "/proc, which is Linux's",
    "avdata/prepare/commit.py": "blocks and locks of the run's workspace",
    "avdata/prepare/decode/media.py": "media, after it has checked the path",
    "avdata/prepare/description.py": "settings as JSON gives them back",
    "avdata/prepare/export.py": "YAML, in one function with a typed error",
    "avdata/prepare/mirror.py": "a file that the run has built",
    "avdata/prepare/ray_cluster.py": "its own driver's objects",
    "avdata/prepare/sources/synth/source.py": "a video that it has drawn",
    "avdata/prepare/sources/youtube/errors.py": "its own table of messages",
    "avdata/prepare/steps/registry.py": "settings as JSON gives them back; a step that it has pickled",
    "avdata/remote_file.py": "a remote file",
    "avdata/where.py": "a tree that DuckDB writes, with tens of levels",
    "avdata/store.py": "after it has checked the path",
    "avmodel/costs.py": "/proc, which is Linux's",
    "avmodel/evaluate/store.py": "a description as JSON gives it back",
    "avmodel/rundir.py": "settings as JSON gives them back",
}


def reads(path: Path) -> Iterator[str]:
    """The calls of a module that read a path or parse a text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, called = node.func.attr, ast.unparse(node.func)
            modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
            is_read = name == "open" and any(mode in ("r", "rb", "r+b") for mode in modes)
            if name in ("read_text", "read_bytes") or is_read or called in PARSERS:
                yield f"line {node.lineno}: {called}"


def test_no_module_reads_files_or_parses_texts_by_itself() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): list(reads(path))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    unexpected = {name: calls for name, calls in found.items() if calls and name not in ALLOWED}
    assert not unexpected, "use avmanifest/files.py (open_file, read_file, ...) and avmanifest/parsing.py"
    assert not [name for name in ALLOWED if not found[name]], "no longer needed in ALLOWED"
