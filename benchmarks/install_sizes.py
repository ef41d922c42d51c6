"""What an install costs: size, packages, and processor time to begin, in fresh environments without a checkout.

    .venv/bin/python backend_openvino/wheel.py dist
    .venv/bin/python benchmarks/install_sizes.py dist/policyctl-*.whl

pip gets what the wheel requires from where it is configured to.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

EXTRAS = ("", "http", "triton", "api", "serve", "serve,sb3")
CLIENT_ALONE = "tritonclient[grpc]==2.51.0"
ROUNDS = 7


def environment(folder: Path, requirement: str) -> Path:
    """A fresh environment with `requirement`; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, requirement], check=True, stderr=subprocess.DEVNULL)
    return python


def size_mb(python: Path) -> float:
    """Of all installed files, in millions of bytes, as `du` counts them: what several names share, once."""
    (site,) = (python.parents[1] / "lib").glob("python3.*/site-packages")
    files = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in (path.lstat() for path in site.rglob("*"))}
    return sum(files.values()) / 1e6


def packages(python: Path) -> int:
    """How many distributions are installed."""
    (site,) = (python.parents[1] / "lib").glob("python3.*/site-packages")
    return len(list(site.glob("*.dist-info")))


def cpu_ms(*command: str | Path) -> float:
    """Processor time of the quickest of several runs, in milliseconds; one run before them compiles."""
    took = []
    for _ in range(ROUNDS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append((after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3)
    return min(took[1:])


def row(name: str, python: Path, *, client: str) -> str:
    """One line of the table."""
    program = python.with_name("policyctl")
    started = f"{cpu_ms(program, '--version'):.0f}" if program.exists() else ""
    imported = f"{cpu_ms(python, '-c', client):.0f}"
    return f"| {name} | {size_mb(python):.0f} | {packages(python)} | {started} | {imported} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--extras", nargs="*", default=EXTRAS, help='for example "" api serve,sb3')
    arguments = parser.parse_args()
    print("| installed | MB | packages | `policyctl --version`, CPU ms | import of the client, CPU ms |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder) / "client", CLIENT_ALONE)
        print(row(f"`{CLIENT_ALONE}` alone", python, client="import tritonclient.grpc"), flush=True)
    for extra in arguments.extras:
        name = f"policyctl[{extra}]" if extra else "policyctl"
        with tempfile.TemporaryDirectory() as folder:
            python = environment(
                Path(folder) / "whole",
                f"policyctl[{extra}] @ {arguments.wheel.resolve().as_uri()}" if extra else str(arguments.wheel),
            )
            print(row(f"`{name}`", python, client="from policyctl.client import PolicyClient"), flush=True)


if __name__ == "__main__":
    main()
