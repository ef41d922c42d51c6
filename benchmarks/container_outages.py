"""How long nobody is answered when the container of `policyctl serve --engine docker` comes to harm.

    python benchmarks/container_outages.py --release DIR

One client asks all the time, every 10 ms, with half a second for each answer.
Each kind of harm is done once in a round, to a server that has been up for a
while; the longest time between two answers is what it cost. The engine is a
separate one, and the image has this machine's Triton (`harness.docker_engine`):
root and Docker's programs are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness.container_harm import HARMS, Answers, Harmed, asking, outage_s, versions
from harness.docker_engine import MissingError, engine, image_environment
from policyctl.demo.background_server import BackgroundServer, policyctl
from policyctl.services.supervise.serve import STEADY_S
from policyctl.settings import DockerSettings


def main() -> None:
    """Print a table in Markdown: the median and the longest of each kind, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each harm is done")
    parser.add_argument("--release", type=Path, required=True, help="an exported policy (policyctl export)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-outages-") as folder:
        try:
            _measure(Path(folder), chosen.release, chosen.rounds)
        except MissingError as missing:
            sys.exit(f"This machine cannot run a Docker engine: {missing}")


def _measure(folder: Path, release: Path, rounds: int) -> None:
    with engine(folder / "engine") as docker:
        docker.import_image(DockerSettings().image, changes=[image_environment()])
        repository = folder / "model_repository"
        _run(repository, "publish", str(release), "--model", "walker", "--release", "1.0.0")
        variables = {**os.environ, "DOCKER_HOST": docker.host, "POLICYCTL_SERVER__ENGINE": "docker"}
        with BackgroundServer(repository, folder / "serve.log", environment=variables) as server:
            _run(repository, "promote", "walker", "1.0.0", "--format", "onnx")
            observation = [0.0] * _inputs(repository)
            with asking(server.endpoint["grpc"], observation) as answers:
                harmed = Harmed(docker, repository)
                print(f"{versions(docker)}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {rounds} rounds\n")
                print("| what happens | median | longest |\n|---|---|---|")
                for what, harm in HARMS.items():
                    found = sorted(_once(harmed, answers, harm) for _ in range(rounds))
                    print(f"| {what} | {np.median(found):.1f} s | {found[-1]:.1f} s |", flush=True)
                print(f"\nDocker itself was away for {docker.away_s:.1f} s. Load at the end: {os.getloadavg()[0]:.1f}.")


def _once(harmed: Harmed, answers: Answers, harm: Callable[[Harmed], None]) -> float:
    # A server that has lived for less than that is started again ever more slowly.
    time.sleep(STEADY_S)
    return outage_s(harmed, answers, harm)


def _inputs(repository: Path) -> int:
    contract = json.loads((repository / "walker" / "1" / "contract.json").read_text())
    return int(np.prod(contract["observations"][0]["shape"]))


def _run(repository: Path, *arguments: str) -> None:
    done = policyctl(repository, *arguments)
    if done.returncode != 0:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
