"""How fast releases are hashed: policyctl, `sha256sum`, OpenSSL, and OpenSSF model signing.

    python benchmarks/hashing.py --files 8 --mib 256

Writes files of random bytes to a temporary folder (give one on the file system
that matters with --folder), reads each once so that all start from the same
memory, and times every way in turn, several rounds. Prints the median and the
most memory that policyctl took. What is not installed is left out, and said.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from policyctl.integrity import build_manifest, check_releases

_MEMORY = """
import resource, sys
from pathlib import Path
from policyctl.integrity import check_releases
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert check_releases([(Path(sys.argv[1]), None)])[0].intact
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--mib", type=int, default=256, help="size of each file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write [default: the system's temporary folder]")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-hashing-", dir=given.folder) as name:
        release = make(Path(name) / "release", given.files, given.mib)
        found = measure(release, rounds=given.rounds)
        memory = float(subprocess.check_output([sys.executable, "-c", _MEMORY, release], text=True))
    total = given.files * given.mib
    rows = {way: {"s": s, "mib_per_s": total / s} for way, s in found.items()}
    document = {
        "files": given.files,
        "mib_each": given.mib,
        "cores": os.cpu_count(),
        "ways": rows,
        "memory_mib": memory,
    }
    if given.json:
        print(json.dumps(document, indent=1))
        return 0
    print(f"{given.files} files of {given.mib} MiB, {os.cpu_count()} cores, median of {given.rounds} rounds")
    for way, row in rows.items():
        print(f"{way:<44} {row['s']:7.3f} s {row['mib_per_s']:8.0f} MiB/s")
    print(f"most memory that policyctl took while hashing: {memory:.0f} MiB")
    return 0


def make(folder: Path, files: int, mib: int) -> Path:
    """A release of large files."""
    folder.mkdir()
    for number in range(files):
        with (folder / f"part{number}.bin").open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(1 << 20))
    (folder / "manifest.json").write_bytes(build_manifest(folder, model="m", release="1.0.0").to_bytes())
    return folder


def measure(release: Path, *, rounds: int) -> dict[str, float]:
    """Median seconds of each way, in interleaved rounds."""
    ways = _ways(release, sorted(release.glob("*.bin")))
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, run in ways.items():
            started = time.monotonic()
            run()
            seconds[way].append(time.monotonic() - started)
    # The first round fetched the files.
    return {way: statistics.median(taken[1:]) for way, taken in seconds.items()}


def _ways(release: Path, paths: list[Path]) -> dict[str, Callable[[], object]]:
    def policyctl() -> None:
        if not check_releases([(release, None)])[0].intact:
            raise RuntimeError("the release is not intact")

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def together(*command: str) -> None:
        processes = [subprocess.Popen([*command, path], stdout=subprocess.DEVNULL) for path in paths]
        if any(process.wait() for process in processes):
            raise RuntimeError(f"{command[0]} failed")

    ways: dict[str, Callable[[], object]] = {"policyctl (all cores)": policyctl}
    if shutil.which("sha256sum"):
        ways["sha256sum, one process"] = lambda: run("sha256sum", *paths)
        ways["sha256sum, a process a file"] = lambda: together("sha256sum")
    if shutil.which("openssl"):
        ways["openssl dgst -sha256, one process"] = lambda: run("openssl", "dgst", "-sha256", *paths)
        ways["openssl dgst -sha256, a process a file"] = lambda: together("openssl", "dgst", "-sha256")
    if importlib.util.find_spec("model_signing") is not None:
        from model_signing import hashing

        ways["OpenSSF model signing, hashing"] = lambda: hashing.Config().hash(release)
    else:
        print("model-signing is not installed: left out", file=sys.stderr)
    return ways


if __name__ == "__main__":
    sys.exit(main())
