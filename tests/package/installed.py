"""The wheel in a fresh environment, with what it requires and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from release_files import required

ROOT = Path(__file__).resolve().parents[2]
OURS = "policyctl"
WAIT_S = 240.0
ANY_PORTS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--control-metrics-port", "0")


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

    def announced(self, server: subprocess.Popen[str]) -> dict[str, Any]:
        """Where `policyctl serve`, which was started in the folder, listens, as soon as it says so."""
        endpoint = self.folder / "model_repository" / ".policyctl" / "server.json"
        deadline = time.monotonic() + WAIT_S
        while not endpoint.exists():
            assert server.poll() is None, server.stderr and server.stderr.read()
            assert time.monotonic() < deadline, "policyctl serve did not get ready"
            time.sleep(0.1)
        found: dict[str, Any] = json.loads(endpoint.read_text())
        return found


def install(wheel: Path, prefix: Path, folder: Path, extras: Sequence[str] = ()) -> Installed:
    """Install `wheel` and link what it requires with `extras` from this Python's packages, which need no network."""
    venv.create(prefix, with_pip=False, symlinks=True)
    python = prefix / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = (prefix / "lib").glob("python3.*/site-packages")
    (own,) = site.glob(f"{OURS}-*.dist-info")
    for name in required(Distribution.at(own), extras).keys() - {OURS}:
        _link(distribution(name), site, prefix / "bin")
    folder.mkdir(exist_ok=True)
    return Installed(prefix, folder)


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
