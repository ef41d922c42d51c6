"""How long each command takes to start, next to `python -c pass` and to another checkout.

    python benchmarks/startup.py                     # this tree
    python benchmarks/startup.py --other ../earlier  # and another checkout, after `make setup` there, in turn

Each command runs on one small repository, the first few without a server and the
rest with one. Rounds go through all commands in turn, so what else the machine
does meets each of them alike. Times are the median of the whole process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.demo.background_server import COMMAND, BackgroundServer, persons_environment
from policyctl.services.control import Control
from policyctl.services.rollout.promote import promote
from policyctl.settings import load as load_settings
from promotions import published

WITHOUT_SERVER = (
    "--help",
    "--version",
    "promote --help",
    "status",
    "config show",
    "export no-such-file.zip -o out",
    "hardware",
)
WITH_SERVER = (
    "status",
    "history",
    "verify",
    "logs",
    "metrics",
    "token list",
    "promote no-such-model 1.0.0",
    "rollback no-such-model",
)


@dataclass(slots=True)
class Times:
    """What the runs of one command took.

    Attributes:
        wall_ms: From start to end, by the clock.
        processor_ms: Of all its processors.
    """

    wall_ms: list[float] = field(default_factory=list)
    processor_ms: list[float] = field(default_factory=list)

    def add(self, command: Sequence[str], *, folder: Path, environment: dict[str, str]) -> None:
        """Run `command` once; its exit code and its words do not matter."""
        before, begun = os.times(), time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
        after = os.times()
        self.wall_ms.append((time.perf_counter() - begun) * 1e3)
        user, system = after.children_user - before.children_user, after.children_system - before.children_system
        self.processor_ms.append((user + system) * 1e3)


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--other", type=Path, help="another checkout with its .venv, measured in turn with this one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-startup-") as name:
        folder = Path(name)
        sides = {"this tree": COMMAND}
        if given.other:
            interpreter = str(given.other.resolve() / ".venv" / "bin" / "python")
            sides = {given.other.name: (interpreter, *COMMAND[1:]), **sides}
        control = Control.of(load_settings(repository=folder / "model_repository"))
        published(control, folder)
        with BackgroundServer(control.repository.root, folder / "serve.log", environment=persons_environment()):
            promote(control, model="cartpole", release="1.0.0", alias="production")
            served = _measure(sides, WITH_SERVER, folder, given.rounds)
        alone = _measure(sides, WITHOUT_SERVER, folder, given.rounds)
    _report("No server runs", alone, list(sides), WITHOUT_SERVER)
    _report("A server runs", served, list(sides), WITH_SERVER)


def _measure(
    sides: dict[str, tuple[str, ...]], commands: Sequence[str], folder: Path, rounds: int
) -> dict[tuple[str, str], Times]:
    """Times by side and command; those of ``python -c pass`` stand under the empty command."""
    environment = persons_environment()
    times_of: dict[tuple[str, str], Times] = {}
    for number in range(rounds + 1):
        for command in ("", *commands):
            for side, program in sides.items():
                arguments = [*program, *command.split()] if command else [program[0], "-c", "pass"]
                times = times_of.setdefault((side, command), Times())
                times.add(arguments, folder=folder, environment=environment)
                if number == 0:  # the first run compiles and fills the page cache
                    times_of[side, command] = Times()
    return times_of


def _report(title: str, times_of: dict[tuple[str, str], Times], sides: Sequence[str], commands: Sequence[str]) -> None:
    print(f"\n{title}:\n")
    print("| command |" + "".join(f" {s}: ms | processor ms | x `python -c pass` |" for s in sides))
    print("|---|" + "---|---|---|" * len(sides))
    for command in ("", *commands):
        cells = []
        for side in sides:
            wall = statistics.median(times_of[side, command].wall_ms)
            processor = statistics.median(times_of[side, command].processor_ms)
            ratio = wall / statistics.median(times_of[side, ""].wall_ms)
            cells.append(f" {wall:.0f} | {processor:.0f} | {ratio:.1f} |")
        print(f"| `{f'policyctl {command}' if command else 'python -c pass'}` |{''.join(cells)}")


if __name__ == "__main__":
    sys.exit(main())
