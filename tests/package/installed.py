"""The wheel in a fresh environment, with what it requires and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
OURS = "policyctl"


@dataclass(frozen=True)
class Installed:
    """An environment, and the folder in which its commands run.

    Attributes:
        prefix: The environment.
        folder: Of a person who has no checkout.
    """

    prefix: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell in which it is active, with neither settings nor a path to this checkout."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("POLICYCTL_", "PYTHON", "VIRTUAL_ENV"))}
        path = f"{self.prefix / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        return own | {"PATH": path, "HOME": str(self.folder), "POLICYCTL_INTEGRITY__PASSPHRASE": "correct horse"}

    def run(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; it may refuse."""
        command = [str(self.prefix / "bin" / program), *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def policyctl(self, *arguments: str | Path) -> str:
        """Run a command that must work; what it printed."""
        done = self.run(OURS, *arguments)
        assert done.returncode == 0, f"policyctl {arguments}: {done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command in the background; it is ended at the end of the block in any case."""
        command = [str(self.prefix / "bin" / OURS), *arguments]
        with subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def install(wheel: Path, prefix: Path, folder: Path, extras: Sequence[str] = ()) -> Installed:
    """Install `wheel` and link what it requires with `extras` from this Python's packages, which need no network."""
    venv.create(prefix, with_pip=False, symlinks=True)
    python = prefix / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = (prefix / "lib").glob("python3.*/site-packages")
    (own,) = site.glob(f"{OURS}-*.dist-info")
    for found in _required(Distribution.at(own), extras):
        _link(found, site, prefix / "bin")
    folder.mkdir(exist_ok=True)
    return Installed(prefix, folder)


def _required(own: Distribution, extras: Sequence[str]) -> list[Distribution]:
    """What `own` requires with `extras`, and what that requires."""
    found: dict[str, Distribution] = {}
    done: set[tuple[str, str]] = set()
    waiting = [(own, extra) for extra in ("", *extras)]
    while waiting:
        from_, extra = waiting.pop()
        if (from_.name, extra) in done:
            continue
        done.add((from_.name, extra))
        for text in from_.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = own if requirement.name == OURS else distribution(requirement.name)
                if needed is not own:
                    found[requirement.name.lower()] = needed
                waiting += [(needed, more) for more in ("", *requirement.extras)]
    return list(found.values())


def _link(found: Distribution, site: Path, programs: Path) -> None:
    """Link every file or folder at the top of a distribution, and its programs."""
    home = Path(str(found.locate_file("")))
    for file in found.files or ():
        if file.parts[0] == "..":
            source = Path(os.path.normpath(home / file))
            target = programs / source.name if source.parent.name == "bin" else None
        else:
            source, target = home / file.parts[0], site / file.parts[0]
        if target is not None and source.exists() and file.parts[0] != "__pycache__" and not target.exists():
            target.symlink_to(source)
