"""Whether a soak finds a leak of a known size, and calls nothing else one, on the real Triton.

    python benchmarks/soak_leaks.py --for-s 60

One server, the same release twice: as it is, and with a backend that keeps 50
bytes of each request (50 kB in 1,000 requests). Prints what the gate `leak`
says of both. Exits with 0 if it found the one and called the other no leak.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from policyctl.domain.names import PRODUCTION
from policyctl.domain.verdict import Verdict
from policyctl.gates.leak import Limits, findings_of
from policyctl.services.control import Control
from policyctl.services.promote import promote
from policyctl.services.publish import publish
from policyctl.services.soak import Plan, Soak, soak
from policyctl.serving.backends.injected import VARIABLE
from policyctl.serving.backends.leak import PARAMETER
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_exporters import export_policy

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cartpole" / "ppo-1.0.0.zip"
MODEL, RELEASE, LEAKY = "cartpole", "1.0.0", "leaky"


def main() -> int:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--for-s", type=float, default=60.0, help="of each of the two soaks")
    parser.add_argument("--leak-bytes", type=int, default=50, help="kept of each request")
    parser.add_argument("--limit-mb", type=float, default=10.0, help="per million requests")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--reload-every-s", type=float, help="also load and withdraw a candidate")
    parser.add_argument("--save", type=Path, help="keep everything in this file")
    given = parser.parse_args()
    os.environ[VARIABLE] = "1"
    os.environ["POLICYCTL_SERVING__NATIVE"] = "off"  # the native backend refuses what tests inject
    plan = Plan(
        duration_s=given.for_s,
        clients=given.clients,
        limits=Limits(memory_bytes=given.limit_mb * 1e6),
        reload_every_s=given.reload_every_s,
    )
    with tempfile.TemporaryDirectory(prefix="policyctl-soak-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        export_policy(EXAMPLE, folder / RELEASE, trust_pickle=True)
        publish(control, folder / RELEASE, model=MODEL, release=RELEASE)
        leaking = control.settings.serving.model_copy(update={"parameters": {PARAMETER: str(given.leak_bytes)}})
        leaky = Control.of(control.settings.model_copy(update={"serving": leaking}))
        with BackgroundServer(control.repository.root, folder / "serve.log"):
            promote(control, model=MODEL, release=RELEASE, alias=PRODUCTION, gates=())
            promote(leaky, model=MODEL, release=RELEASE, alias=LEAKY, gates=())
            found = [soak(control, plan, model=MODEL, alias=alias) for alias in (PRODUCTION, LEAKY)]
    for each in found:
        show(each)
    if given.save:
        given.save.write_text(json.dumps([each.to_json() for each in found]))
    return 0 if [each.result.verdict for each in found] == [Verdict.PASSED, Verdict.FAILED] else 1


def show(found: Soak) -> None:
    """Print what was found of each series."""
    print(f"{found.alias}: {found.requests} requests in {found.duration_s:.0f} s: {found.result.verdict}")
    print("| of | counts | growth per million requests | from | to | limit | says |")
    print("|---|---|---|---|---|---|---|")
    for finding in findings_of(found.result):
        grown = finding["growth_per_million"]
        cells = ["-"] * 3 if grown is None else [f"{grown[key]:,.0f}" for key in ("slope", "low", "high")]
        cells.append(f"{finding['limit_per_million']:,.0f}")
        print(f"| {finding['name']} | {finding['kind']} | {' | '.join(cells)} | {finding['verdict']} |")
    print(found.result.reason, end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
