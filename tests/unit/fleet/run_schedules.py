"""Run as many schedules of a fleet as are wanted, and keep a record of them.

    python tests/unit/fleet/run_schedules.py --schedules 1000000 --record build/fleet-schedules.jsonl

Two processes run them, with a low priority. Each line of the record says which
seeds were run, by which code, and which of them broke a promise. The command
goes on where an earlier one stopped; what other code has run, it runs again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "moves"))

from fleet_world import FleetWorld
from light_fleet import LightFleet
from schedules import broken_by

from policyctl.domain.manifest import digest_of

ROOT = Path(__file__).parents[3]
BLOCK = 100
CODE = ("control/policyctl/domain/fleet*.py", "control/policyctl/services/fleet/*.py", "tests/unit/fleet/*.py")
CODE += ("control/policyctl/adapters/fleet_store.py", "control/policyctl/adapters/bucket.py")

_publisher: dict[str, bytes] = {}


def main() -> int:
    """Run what the record lacks; 0 if no schedule broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--record", type=Path, default=Path("build/fleet-schedules.jsonl"))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    code = code_digest()
    done = [each for each in lines(given.record) if each["code"] == code]
    lacking = sorted(set(range(0, given.schedules, BLOCK)) - {each["first"] for each in done})
    given.record.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, given.record.open("a") as record:
        objects = FleetWorld.published(Path(folder))
        with get_context("spawn").Pool(given.processes, prepare, (objects,)) as pool:
            for block in pool.imap_unordered(run, lacking):
                done.append({"code": code, **block})
                record.write(json.dumps(done[-1]) + "\n")
                record.flush()
                print(f"{len(done) * BLOCK} schedules, {sum(len(each['broken']) for each in done)} broken", flush=True)
    broken = {seed: words for each in done for seed, words in each["broken"].items()}
    for seed, words in broken.items():
        print(f"seed {seed}: {words[0]}")
    cpu_s = sum(each["cpu_s"] for each in done)
    print(f"{len(done) * BLOCK} schedules in {cpu_s:.0f} s of processor time, {len(broken)} broke a promise.")
    return 1 if broken else 0


def code_digest() -> str:
    """What was run: the code of the fleet and of its simulation."""
    files = sorted(path for pattern in CODE for path in ROOT.glob(pattern))
    return digest_of(b"".join(path.read_bytes() for path in files))


def lines(record: Path) -> list[dict[str, Any]]:
    """What was run before; a line that a crash cut short does not count."""
    whole = record.read_text().split("\n")[:-1] if record.exists() else []
    return [json.loads(line) for line in whole]


def prepare(objects: Mapping[str, bytes]) -> None:
    """A process begins."""
    os.nice(10)
    _publisher.update(objects)


def run(first: int) -> dict[str, Any]:
    """One block of seeds."""
    began = time.process_time()
    found = {seed: broken_by(LightFleet, _publisher, seed) for seed in range(first, first + BLOCK)}
    broken = {seed: words for seed, words in found.items() if words}
    return {"first": first, "broken": broken, "cpu_s": round(time.process_time() - began, 1)}


if __name__ == "__main__":
    sys.exit(main())
