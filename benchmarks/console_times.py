"""How long pages of the console take, by number of releases.

    python benchmarks/console_times.py --releases 10 1000 10000

`policyctl api` answers on a repository without a server, so a page asks no
alias for an action. All releases but one exist in the journal alone: a hundred
for each model, or, in the rows `one model`, all of the same one. Behind each
median stands the processor time that the API took: it says the same also where
others use the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Final

import psutil
import urllib3

from move_times import A_MODEL, MODEL, RELEASES, control_api, exported, fill, timed
from policyctl.demo.background_server import COMMAND
from policyctl.services.control import Control
from policyctl.services.releases.publish import publish
from policyctl.settings import load as load_settings

PAGES: Final = {"overview": "/ui", "model": "/ui/models/other-0", "history": "/ui/history", "at": "/ui/at"}


def main() -> None:
    """Run it and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print(f"| releases | of | {' | '.join(f'{page} ms (processor ms)' for page in PAGES)} |")
    print("|---|---|" + "---|" * len(PAGES))
    for releases in given.releases:
        for words, a_model in (("models of 100", A_MODEL), ("one model", releases)):
            cells = " | ".join(f"{ms:.0f} ({cpu_ms:.0f})" for ms, cpu_ms in measure(releases, a_model, given.rounds))
            print(f"| {releases} | {words} | {cells} |", flush=True)


def measure(releases: int, a_model: int, rounds: int) -> list[tuple[float, float]]:
    """Median milliseconds of each page, and how many of the processor it takes."""
    with tempfile.TemporaryDirectory(prefix="policyctl-console-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        publish(control, exported(folder / "export", RELEASES[0], 0), model=MODEL, release=RELEASES[0])
        fill(control, releases - 1, a_model=a_model)
        with control_api(COMMAND, control, folder / "api.log") as url:
            (server,) = psutil.Process().children()
            return [times(f"{url}{path}", rounds, server) for path in PAGES.values()]


def times(url: str, rounds: int, server: psutil.Process) -> tuple[float, float]:
    """Median milliseconds of a page, and the mean of `server`'s processor; before that it is looked at once."""
    pool = urllib3.PoolManager(retries=False)

    def look() -> None:
        answer = pool.request("GET", url)
        if answer.status != 200:
            raise RuntimeError(answer.data.decode())

    look()
    before = sum(server.cpu_times()[:2])
    taken = [timed(look) for _ in range(rounds)]
    return statistics.median(taken), 1e3 * (sum(server.cpu_times()[:2]) - before) / rounds


if __name__ == "__main__":
    main()
