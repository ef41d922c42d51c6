"""A day's operations in half an hour: promotions, reloads of settings and scrapes under load, and what is lost.

    python benchmarks/operations.py --minutes 30

Clients ask without a pause (at most ``--rate`` requests a second each) and hold
every answer against the release that gave it. Meanwhile the alias moves every
``--move-every-s``, the settings file changes every ``--reload-every-s`` (every
second time it is broken), and both metrics pages are scraped every second. Ends
with 1 where a request was lost, answered wrongly or by a release that no alias
named, where a whole file was not taken over or a broken one was, or where a
scrape failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.services import running
from policyctl.services.control import Control
from policyctl.services.promote import promote
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_load import BackgroundLoad
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.load import LoadOptions, read_expected
from policyctl_benchmarks.load_records import AliasSpan, answers_outside_aliases
from promotions import RELEASES, move_once, published, spread

WHOLE = "schema: 2\nscrub:\n  pause_s: {number}\n"
BROKEN = ("schema: 2\nscrub: [\n", "schema: 2\nscrub:\n  pause_s: soon\n", "schema: 2\nscrubb: {}\n")
SETTLE_S = 5.0
"""A changed file is taken over once it has been left alone for a look, and looks are a second apart."""


def main() -> int:
    """Run it; 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second of each client, at most")
    parser.add_argument("--move-every-s", type=float, default=60.0)
    parser.add_argument("--reload-every-s", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-operations-") as name:
        folder = Path(name)
        file = folder / "policyctl.yaml"
        file.write_text(WHOLE.format(number=600))
        control = Control.of(load_settings(repository=folder / "model_repository"))
        published(control, folder)
        environment = {**os.environ, "POLICYCTL_CONFIG": str(file)}
        with BackgroundServer(control.repository.root, folder / "serve.log", environment=environment) as server:
            found, lost = measure(control, server, folder, given)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        for key, value in found.items():
            print(f"{key:<28} {value}")
    for words in lost:
        print(f"LOST: {words}", file=sys.stderr)
    return 1 if lost else 0


@dataclass(slots=True)
class Scraper:
    """Reads metrics pages once a second."""

    urls: tuple[str, ...]
    times_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Scrape in a thread of its own while the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="scrapes")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            for url in self.urls:
                begun = time.monotonic()
                try:
                    with urllib.request.urlopen(url, timeout=5.0) as page:
                        page.read()
                except (OSError, urllib.error.URLError) as error:
                    self.failures.append(f"{url}: {error}")
                self.times_ms.append(1000 * (time.monotonic() - begun))


def measure(
    control: Control, server: BackgroundServer, folder: Path, given: argparse.Namespace
) -> tuple[dict[str, object], list[str]]:
    """Operate for the given time.

    Returns:
        What was seen, and what must not have been.
    """
    promote(control, model="cartpole", release=RELEASES[0], alias="production")
    seconds = 60.0 * given.minutes
    endpoint = server.endpoint
    options = LoadOptions(
        model="cartpole",
        url=endpoint["grpc"],
        clients=given.clients,
        rate_per_client=given.rate,
        deadline_s=10.0,
        duration_s=10.0 * seconds + 60.0,
    )
    scraper = Scraper((f"http://{endpoint['metrics']}/metrics", f"http://{endpoint['control_metrics']}/metrics"))
    timeline, moves, files = [AliasSpan(RELEASES[0], 0)], 0, 0
    with BackgroundLoad(options, {r: read_expected(folder / r) for r in RELEASES}) as load, scraper.running():
        begun = time.monotonic()
        move_at, reload_at = begun + given.move_every_s, begun + given.reload_every_s
        while (now := time.monotonic()) < begun + seconds:
            if now >= reload_at:
                reload_at += given.reload_every_s
                _replace(folder / "policyctl.yaml", _settings(files))
                files += 1
            if now >= move_at:
                move_at += given.move_every_s
                timeline += move_once(control, timeline.pop(), forward=moves % 2 == 0)[1]
                moves += 1
            time.sleep(0.1)
            print(f"\r{now - begun:.0f} of {seconds:.0f} s, {moves} moves, {files} files", end="", file=sys.stderr)
        time.sleep(SETTLE_S)
    print(file=sys.stderr)
    told = running.read(control.repository)
    applied, refused = (told.applied, told.refused) if told else (0, 0)
    report = load.report
    outside = answers_outside_aliases(load.requests, timeline)
    found: dict[str, object] = {
        "minutes": given.minutes,
        "requests": report.requests,
        "failed": report.failed,
        "wrong": report.wrong,
        "answers outside aliases": outside,
        "moves": moves,
        "settings applied / refused": f"{applied} / {refused} of {files}",
        "scrapes": len(scraper.times_ms),
        "scrapes failed": len(scraper.failures),
        "scrape ms": spread(scraper.times_ms),
        "p50 / p99 / max us": f"{report.p50_us:.0f} / {report.p99_us:.0f} / {report.max_us:.0f}",
    }
    lost = [f"{report.failed} requests failed"] * bool(report.failed)
    lost += [f"{report.wrong} answers were wrong"] * bool(report.wrong)
    lost += [f"{outside} answers by a release that no alias named"] * bool(outside)
    lost += [f"{applied} files applied and {refused} refused of {files}"] * (
        (applied, refused) != (files - files // 2, files // 2)
    )
    return found, lost + scraper.failures[:3]


def _settings(number: int) -> str:
    """The `number`-th file: a whole one, a broken one, and so on."""
    return BROKEN[number // 2 % len(BROKEN)] if number % 2 else WHOLE.format(number=number + 1)


def _replace(path: Path, text: str) -> None:
    """As an editor does it: the old file or the new one, never half of one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
