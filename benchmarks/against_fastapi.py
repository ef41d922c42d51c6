"""This project's served policy beside the same policy behind FastAPI, and the machine's floor.

    python benchmarks/against_fastapi.py

One client (wrk) asks all of them over HTTP on one machine, in interleaved
rounds in random order, each after it has answered the golden set rightly:

- ``policyctl ... binary``: `policyctl serve`, tensors in Triton's binary form,
  as `PolicyClient` sends them over HTTP; ``json``: the same as JSON.
- ``fastapi N``: an async endpoint, Pydantic, eager PyTorch on one thread, N
  uvicorn workers (uvloop, httptools). ``raw``: the same with raw bytes.
- ``floor``: Triton with a backend that writes zeros: what no policy can beat here.

Ratios are against the better of FastAPI's JSON variants in that very line,
paired by round, with a 95 % bootstrap interval. Client and servers share the
machine, so only the ratios within one run mean anything. gRPC is not compared:
FastAPI has none. `--floor LIBRARY` adds a native floor (libtriton_NAME.so).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from http_variants import HERE, Variant, fastapi, floors, served_variants
from policyctl.domain.artifacts import Format
from policyctl.domain.golden import Golden
from policyctl.errors import ServerError
from policyctl.services.bench import versions
from policyctl.services.control import Control, open_release
from policyctl.services.publish import publish
from policyctl.serving.hardware import detect
from policyctl.settings import load as load_settings
from policyctl_benchmarks.background_server import BackgroundServer
from policyctl_benchmarks.intervals import mean_with_interval
from policyctl_benchmarks.wrk import WrkResult, locate_wrk, run_wrk
from policyctl_exporters import export_policy

LEVELS = ((1, 1), (8, 1), (32, 1), (1, 64), (8, 64))
"""Clients, and observations a request."""

METRICS = ("p50_us", "p99_us", "throughput_per_s")


def check(variants: list[Variant], golden: Golden) -> None:
    """Refuse to measure what answers wrongly.

    Raises:
        ServerError: An action differs from the golden one.
    """
    output, expected = next((name, array) for name, array in golden.outputs.items() if name == "action")
    for variant in variants:
        found = variant.actions(variant.request(golden, golden.rows, output=output), like=expected)
        if variant.checked and not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
            raise ServerError(f"{variant.name} answers other actions than the policy")
        print(f"{variant.name}: {len(found)} golden actions {'as expected' if variant.checked else 'of zeros'}")


Seen = dict[tuple[tuple[int, int], str], list[WrkResult]]


def measure(variants: list[Variant], golden: Golden, *, rounds: int, seconds: int, seed: int) -> Seen:
    """Every variant at every level, in a new random order each round."""
    wrk, rng = locate_wrk(), np.random.default_rng(seed)
    cells = [(level, variant) for level in LEVELS for variant in variants]
    seen: Seen = {(level, variant.name): [] for level, variant in cells}
    for variant in variants:
        run_wrk(variant.request(golden, 1, output="action"), clients=8, seconds=1, binary=wrk)
    for number in range(rounds):
        # Variants of one level stay neighbours in time, which is what pairs them.
        for level in (LEVELS[i] for i in rng.permutation(len(LEVELS))):
            for variant in (variants[i] for i in rng.permutation(len(variants))):
                request = variant.request(golden, level[1], output="action")
                seen[level, variant.name].append(run_wrk(request, clients=level[0], seconds=seconds, binary=wrk))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return seen


def report(seen: Seen, variants: list[Variant], memory: Mapping[str, float]) -> dict[str, Any]:
    """Print a table for each level; what was printed, as JSON."""
    found: dict[str, Any] = {"memory_mb": dict(memory), "levels": []}
    for level in LEVELS:
        cells = {v.name: {m: np.array([getattr(r, m) for r in seen[level, v.name]]) for m in METRICS} for v in variants}
        best = {metric: _best(cells, metric) for metric in METRICS}
        print(f"\n{level[0]} clients, batch {level[1]} (FastAPI's best: {best['p50_us']} by P50,"
              f" {best['throughput_per_s']} by throughput)\n")  # fmt: skip
        print("| variant | p50 us | x FastAPI | p99 us | x FastAPI | observations/s | x FastAPI | memory MB |")
        print("|---|---|---|---|---|---|---|---|")
        for name, values in cells.items():
            row = {m: (float(np.median(values[m])), _ratio(values[m], cells[best[m]][m])) for m in METRICS}
            parts = [f"{row[m][0]:.0f} | {_words(row[m][1])}" for m in METRICS]
            print(f"| {name} | {' | '.join(parts)} | {memory[name]:.0f} |")
            found["levels"].append(
                {"clients": level[0], "batch": level[1], "variant": name, "best": best,
                 **{m: {"median": row[m][0], "ratio": row[m][1]} for m in METRICS},
                 "rounds": [r.to_json() for r in seen[level, name]]}
            )  # fmt: skip
    return found


def _best(cells: Mapping[str, Mapping[str, np.ndarray[Any, Any]]], metric: str) -> str:
    """FastAPI's better number of workers for a metric."""
    medians = {
        name: float(np.median(values[metric]))
        for name, values in cells.items()
        if name.startswith("fastapi") and name.endswith("json")
    }
    return (max if metric == "throughput_per_s" else min)(medians, key=lambda name: medians[name])


def _ratio(values: np.ndarray[Any, Any], against: np.ndarray[Any, Any]) -> tuple[float, float, float] | None:
    """Geometric mean of the rounds' ratios, with its interval; None for one round, or against itself."""
    if len(values) < 2 or values is against:
        return None
    interval = mean_with_interval(np.log(values / against), rng=np.random.default_rng(0))
    return float(np.exp(interval.mean)), float(np.exp(interval.low)), float(np.exp(interval.high))


def _words(ratio: tuple[float, float, float] | None) -> str:
    return "" if ratio is None else f"{ratio[0]:.2f} ({ratio[1]:.2f} .. {ratio[2]:.2f})"


def main() -> None:
    """Run it and print the tables."""
    given = _arguments()
    hardware = detect()
    print(f"{hardware.words()}; machine {hardware.fingerprint}; kernel {hardware.kernel}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"{given.rounds} rounds of {given.seconds} s a cell, {given.policy.name}\n")
    with tempfile.TemporaryDirectory(prefix="policyctl-fastapi-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        export_policy(given.policy, folder / "export", trust_pickle=True)
        publish(control, folder / "export", model="policy", release="1.0.0")
        server = stack.enter_context(BackgroundServer(control.repository.root, folder / "serve.log"))
        variants = served_variants(control, server, "1.0.0", given.formats)
        opened = open_release(control.repository, control.repository.journal.state().release("policy", "1.0.0"))
        config = (control.repository.root / "policy" / "config.pbtxt").read_text()
        variants += stack.enter_context(floors(opened, config, folder / "floor", given.floor))
        for workers in (1, 2):
            variants += stack.enter_context(fastapi(given.policy, workers, folder / f"uvicorn{workers}.log"))
        check(variants, opened.golden)
        seen = measure(variants, opened.golden, rounds=given.rounds, seconds=given.seconds, seed=given.seed)
        found = report(seen, variants, {v.name: v.memory_mb() for v in variants})
    if given.json is not None:
        machine = {"hardware": hardware.to_json(), "versions": versions(), "command": " ".join(sys.argv)}
        given.json.write_text(json.dumps({**machine, **found}, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument(
        "--policy",
        type=Path,
        default=HERE.parent / "examples" / "cartpole" / "ppo-1.0.0.zip",
        help="a Stable-Baselines3 archive with one observation tensor",
    )
    parser.add_argument(
        "--formats",
        type=lambda text: [Format(part) for part in text.split(",")],
        default=[Format.OPENVINO, Format.ONNX, Format.TORCHSCRIPT],
    )
    parser.add_argument("--floor", type=Path, action="append", default=[], help="a native floor, libtriton_NAME.so")
    parser.add_argument("--json", type=Path, help="also write everything there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
