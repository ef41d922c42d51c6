"""How long a rollback takes, by the command line here, by the command line by URL, and by one call of the API.

    python benchmarks/rollback_by_api.py --rounds 10

On one server, in turn, each after a promotion that made something to go back
from. What is timed is what whoever types waits: the whole process of a command,
or the whole call.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import urllib3

from policyctl.domain.tokens import Scope
from policyctl.services.control import Control
from policyctl.services.promote import promote
from policyctl.services.tokens import create
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_server import COMMAND, BackgroundServer
from promotions import published


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-rollback-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        published(control, folder)
        with BackgroundServer(control.repository.root, folder / "serve.log"):
            promote(control, model="cartpole", release="1.0.0", alias="production")
            report(control, folder, given.rounds)


def report(control: Control, folder: Path, rounds: int) -> None:
    """Roll back in each way in turn."""
    token = create(control, name="bench", scope=Scope.PROMOTE).secret
    repository = str(control.repository.root)
    log = (folder / "api.log").open("w+")
    api = subprocess.Popen([*COMMAND, "api", "--port", "0", "-r", repository], stderr=log)
    try:
        url = address(folder / "api.log")
        pool = urllib3.PoolManager(retries=False)

        def call() -> None:
            answer = pool.request(
                "POST",
                f"{url}/v1/models/cartpole/rollbacks?wait=60",
                json={},
                headers={"Authorization": f"Bearer {token}"},
            )
            if answer.status != 200:
                raise RuntimeError(answer.data.decode())

        ways: dict[str, Callable[[], None]] = {
            "policyctl rollback": lambda: command(["rollback", "cartpole", "-r", repository], {}),
            "policyctl --api URL rollback": lambda: command(
                ["--api", url, "rollback", "cartpole"], {"POLICYCTL_API__TOKEN": token}
            ),
            "POST .../rollbacks?wait=60": call,
        }
        seen: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, roll_back in ways.items():
                promote(control, model="cartpole", release="1.1.0", alias="production")
                before = time.perf_counter()
                roll_back()
                seen[way].append((time.perf_counter() - before) * 1e3)
        print("| way | median ms | least | most |\n|---|---|---|---|")
        for way, times in seen.items():
            print(f"| `{way}` | {statistics.median(times):.0f} | {min(times):.0f} | {max(times):.0f} |")
    finally:
        api.terminate()
        api.wait(20)
        log.close()


def address(log: Path) -> str:
    """Where the API answers, as it says itself."""
    until = time.monotonic() + 30
    while (found := re.search(r"at (http://\S+), for", log.read_text())) is None:
        if time.monotonic() > until:
            raise RuntimeError(log.read_text())
        time.sleep(0.05)
    return found[1]


def command(arguments: list[str], environment: dict[str, str]) -> None:
    """Run one command as a person does."""
    subprocess.run([*COMMAND, *arguments], check=True, capture_output=True, env={**os.environ, **environment})


if __name__ == "__main__":
    sys.exit(main())
