"""What memory, histories and chunks cost a policy that has none of them, as ratios of one run.

    python benchmarks/memory_cost.py --rounds 40
    python benchmarks/memory_cost.py --rounds 40 --other ../earlier  # a checkout from before them, with its .venv

Each side exports the same ONNX file, publishes it and serves it by its own
`policyctl`, and asks by its own client, in a separate process. Two are compared at a time. Within
each round both take many short turns, in an order that chance decides, so that
what else the machine does meets them alike. One caller gives the median time of
a call and the processor's time of the client for it; four callers at once give
the calls of a second. Printed is the median of the rounds' ratios with its exact
95 % interval.

- ``act`` against ``episode.act``: what a caller of this tree pays who writes the
  loop of a policy with memory, for one that has none.
- ``act`` of the other checkout against ``act`` of this tree: what a caller pays
  who uses nothing of it. Client, server and everything between are that checkout's.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from harness import asking
from policyctl.demo.background_server import COMMAND, BackgroundServer, persons_environment
from policyctl.domain.statistics import median_interval

MODEL: Final = "plain"
NUMBERS: Final = 24
WIDTHS: Final = (NUMBERS, 64, 64, 4)
TURN_S: Final = 0.05
TURNS: Final = 12
"""Of each side in a round."""
THIS: Final = "act"
EPISODE: Final = "episode.act"
P50, CPU, RATE = MEASURES = ("one caller, p50 us", "one caller, CPU us a call", "four callers, calls/s")


def main() -> None:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--protocols", nargs="+", default=["grpc", "http"])
    parser.add_argument("--other", type=Path, help="another checkout with its .venv, measured in turn with this one")
    given = parser.parse_args()
    checkouts = {THIS: sys.executable}
    if given.other:
        checkouts[f"act of {given.other.name}"] = str(given.other.resolve() / ".venv" / "bin" / "python")
    with tempfile.TemporaryDirectory(prefix="policyctl-memory-") as name, contextlib.ExitStack() as stack:
        policy = written(Path(name) / "plain.onnx")
        served = {
            side: stack.enter_context(serving(program, policy, Path(name) / str(number)))
            for number, (side, program) in enumerate(checkouts.items())
        }
        print("| protocol | measured | than | was | is | ratio | 95 % interval |")
        print("|---|---|---|---|---|---|---|")
        for protocol in given.protocols:
            for before, after in [(THIS, EPISODE), *((side, THIS) for side in checkouts if side != THIS)]:
                with askers((before, after), checkouts, served, protocol) as asked:
                    rounds = [one_round(asked) for _ in range(given.rounds)]
                for measure in MEASURES:
                    pairs = [(each[before, measure], each[after, measure]) for each in rounds]
                    print(f"| {protocol} | {after}: {measure} | {before} | {row(pairs)} |", flush=True)


def written(path: Path) -> Path:
    """A small policy without memory, as an ONNX file."""
    rng, nodes, weights, last = np.random.default_rng(0), [], [], "observation"
    for number, (given, gives) in enumerate(itertools.pairwise(WIDTHS)):
        values = rng.normal(0, given**-0.5, (given, gives)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"weights_{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"weights_{number}"], [f"sum_{number}"]))
        last = "action" if gives == WIDTHS[-1] else f"layer_{number}"
        nodes.append(helper.make_node("Tanh", [f"sum_{number}"], [last]))
    kind = onnx.TensorProto.FLOAT
    ports = (("observation", WIDTHS[0]), ("action", WIDTHS[-1]))
    given_ports, gives_ports = ([helper.make_tensor_value_info(n, kind, ["n", size])] for n, size in ports)
    graph = helper.make_graph(nodes, "plain", given_ports, gives_ports, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@contextlib.contextmanager
def serving(program: str, policy: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The policy, exported, published and served by one checkout; its endpoint."""
    repository, environment = folder / "model_repository", persons_environment()
    folder.mkdir()

    def run(*words: str) -> None:
        line = [program, *COMMAND[1:], *words]
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{line}: {done.stderr}")

    run("export", str(policy), "-o", "build")
    run("publish", "build", "--model", MODEL, "--release", "1.0.0", "-r", str(repository))
    command = (program, *COMMAND[1:])
    with BackgroundServer(repository, folder / "serve.log", environment=environment, command=command) as server:
        run("promote", MODEL, "1.0.0", "-r", str(repository))
        yield server.endpoint


@contextlib.contextmanager
def askers(
    pair: Sequence[str], checkouts: dict[str, str], served: dict[str, dict[str, Any]], protocol: str
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process of each of two sides, which asks in turns; no more, for who is asked less is scheduled sooner."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name in pair:
            side, way = (THIS, "episode") if name == EPISODE else (name, "act")
            line = [checkouts[side], asking.__file__, MODEL, served[side][protocol], protocol, way, str(NUMBERS)]
            process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=persons_environment()
            )
            found[name] = stack.enter_context(process)
        for process in found.values():
            answered(process)  # it is warm
        yield found
        for process in found.values():
            assert process.stdin is not None
            process.stdin.close()


def answered(process: subprocess.Popen[str]) -> str:
    """The next line that an asker says.

    Raises:
        RuntimeError: It ended.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended with {process.wait()}")
    return line


def one_round(asked: dict[str, subprocess.Popen[str]]) -> dict[tuple[str, str], float]:
    """What is measured of each side."""
    found = {}
    for callers in (1, asking.MOST_CALLERS):
        times: dict[str, list[float]] = {side: [] for side in asked}
        used_us = dict.fromkeys(asked, 0.0)
        for _ in range(TURNS):
            for side in random.sample([*asked], len(asked)):
                answer = turn(asked[side], callers)
                times[side] += answer["times_us"]
                used_us[side] += answer["cpu_us"]
        for side, each in times.items():
            if callers == 1:
                found[side, P50], found[side, CPU] = float(np.median(each)), used_us[side] / len(each)
            else:
                found[side, RATE] = callers * 1e6 / float(np.mean(each))
    return found


def turn(process: subprocess.Popen[str], callers: int) -> dict[str, Any]:
    """One turn of one side; see `asking`."""
    assert process.stdin is not None
    process.stdin.write(json.dumps({"callers": callers, "seconds": TURN_S}) + "\n")
    process.stdin.flush()
    found: dict[str, Any] = json.loads(answered(process))
    return found


def row(pairs: Sequence[tuple[float, float]]) -> str:
    """Medians of both, and the ratio of the second to the first with its interval."""
    interval = median_interval([math.log(b / a) for a, b in pairs], alpha_low=0.025, alpha_high=0.025)
    low, middle, high = (math.exp(value) for value in (interval.low, interval.median, interval.high))
    was, now = np.median(pairs, axis=0)
    return f"{was:.0f} | {now:.0f} | {middle:.3f} | {low:.3f} to {high:.3f}"


if __name__ == "__main__":
    main()
