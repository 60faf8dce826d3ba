"""Secrets in URLs that cannot be opened, redirects to this machine, and secrets that an earlier version stored."""

import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.repair import clean_secrets
from avdata.audit.verify import verify
from avdata.load import CacheConfig, open_dataset
from avdata.prepare.bucket import open_place
from avdata.prepare.config import HttpOptions, PrepareConfig
from avdata.prepare.export import export
from avdata.prepare.job import prepare
from avdata.prepare.pipeline import failed_row
from avdata.prepare.sources import open_source
from avdata.prepare.sources.http import HttpFetcher
from avdata.retrying import RetryPolicy
from avdata.store import open_store, open_writable
from avmanifest.errors import AvkitError, ManifestError
from avmanifest.layout import Layout
from avmanifest.settings import explain, override, to_toml
from avmodel.presets import run_config
from avmodel.rundir import as_json
from tests.faults.fault import Fault
from tests.planting import OLD_REASON, OLD_SOURCE, SECRET_URLS, leaks, plant
from tests.redirecting import redirecting
from tests.videos import draw_folder, folder_config

LOCAL = ("127.0.0.1", "localhost", "169.254.169.254", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0")
# The others are paths, which no password belongs into.
_URLS = [url for url, _ in SECRET_URLS if "://" in url and not url.startswith(("file:", "pipe:"))]
_COMMANDS = ("wds:pipe:", " PIPE:")  # mistyped: they are no commands, and must not be shown as a path or a protocol
_SECRETS = ("PW", "TOKEN", "anna")


def secret_faults(folder: Path) -> Iterator[Fault]:
    """All rows."""
    for name, take in _openers(folder).items():
        shown = [secret for url in _URLS for secret in _SECRETS if secret in _said(take, url)]
        seen = f"{len(shown)} secrets shown"
        yield Fault(f"secret in a URL: {name}", f"{len(_URLS)} URLs", "0 secrets shown", seen)
    yield from _redirects(folder)
    yield from _stored(folder)


def _openers(folder: Path) -> dict[str, Callable[[str], object]]:
    """Everything that takes a URL, with addresses at which nothing answers. What each returns is shown or stored."""
    cache = CacheConfig(root=folder / "cache", retry=RetryPolicy(attempts=1))
    run = run_config("demo")
    traceback_of = "Traceback (most recent call last):\n  File 'x.py', line 1\nValueError: {}\n"
    row = {"labels": []}
    return {
        "loader": lambda url: open_dataset(_closed(url), cache=cache),
        "loader, pattern": lambda url: open_dataset([f"{_closed(url)}{{2..1}}"], cache=cache),
        "store": lambda url: open_store(_closed(url)).content("x"),
        "inspect": lambda url: open_audit_dataset(_closed(url)),
        "output": open_writable,
        "export": lambda url: open_place(url).read("dataset.json"),
        "wds source": lambda url: open_source(f"wds:{_closed(url)}"),
        "source": lambda url: open_source(url).name,
        "run's settings": lambda url: override(run, [f"steps={url}"]),
        "run's config.json": lambda url: as_json(override(run, [f"image_weights={url}"])),
        "--explain": lambda url: explain(override(run, [f"image_weights={url}"])),
        "--explain --toml": lambda url: to_toml(override(run, [f"image_weights={url}"])),
        "traceback of a row": lambda url: failed_row(
            row, "internal", "" if url.startswith(_COMMANDS) else traceback_of.format(url.replace(" ", ""))
        ),
    }


def _closed(url: str) -> str:
    """The URL with a port at which nobody listens, so that no host is looked up."""
    for host in ("@h/", "@host/", "//h/", "@h:8080/", "@host:80/"):
        url = url.replace(host, f"{host.partition('h')[0]}127.0.0.1:9/")
    return url


def _said(take: Callable[[str], object], url: str) -> str:
    """What came of it: the error's message, or what was returned."""
    try:
        return str(take(url))
    except AvkitError as error:
        return f"{error}{error!r}"
    except Exception:
        return f"a bug, TOKEN: {traceback.format_exc()}"


def _redirects(folder: Path) -> Iterator[Fault]:
    with redirecting() as server:
        for host in LOCAL:
            server.redirects = {"http://public.example/x": f"http://{host}:{server.server_port}/y"}
            before = len(server.requests)
            try:
                HttpFetcher(HttpOptions(proxy=server.url))("http://anna:PW@public.example/x", (), folder)
                seen = "followed"
            except AvkitError as error:
                seen = f"{type(error).__name__}, {len(server.requests) - before} request"
            yield Fault(f"a public host redirects to {host}", "http source", "DownloadError, 1 request", seen)


def _stored(folder: Path) -> Iterator[Fault]:
    config: PrepareConfig = folder_config(draw_folder(folder / "videos", ["a/v0.mp4", "b/v1.mp4"]), folder / "out")
    prepare(config)
    layout = Layout(folder / "out")
    plant(layout, {"source": OLD_SOURCE, "reason": OLD_REASON})
    report = verify(open_audit_dataset(str(layout.root)))
    seen = f"{len(report.faults)} faults, {len(report.secrets)} files with secrets"
    yield Fault("secrets of an earlier version", "verify", "0 faults, 2 files with secrets", seen)
    try:
        export(open_place(layout.root), open_place(folder / "exported"))
        seen = "exported"
    except ManifestError:
        seen = "ManifestError"
    yield Fault("secrets of an earlier version", "export", "ManifestError", seen)
    clean_secrets(open_audit_dataset(str(layout.root)))
    faults = verify(open_audit_dataset(str(layout.root))).faults
    shutil.rmtree(folder / "exported", ignore_errors=True)
    export(open_place(layout.root), open_place(folder / "exported"))
    seen = f"{len(leaks(layout.root)) + len(leaks(folder / 'exported'))} left, {len(faults)} faults"
    yield Fault("secrets of an earlier version", "repair, verify, export", "0 left, 0 faults", seen)
