"""What an action costs a control loop by the local lane, next to the network and to a call in its own process.

    python benchmarks/local_lane.py --rounds 12
    python benchmarks/local_lane.py --rounds 12 --hz 1000

One caller asks for one action at a time, of a policy 64-256-256-8 on one server.
Within each round all ways take turns in an order that chance decides: the lane,
gRPC and HTTP by `PolicyClient`; the lane by its client in C++ (``local_lane.cpp``);
and in this process ONNX Runtime and eager PyTorch with one thread each, which
check nothing.

Back to back by default; with `--hz` a call begins each period, and one that ends
after its period has missed it (the next begins at once). Printed are the quantiles
over all calls, the processor time of the caller, and the median of the rounds'
ratios of medians, the lane from Python to the other way, with its exact 95 %
interval. Below 1 the lane is quicker.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from policyctl.client import PolicyClient
from policyctl.demo.background_server import BackgroundServer
from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.names import PRODUCTION
from policyctl.domain.statistics import median_interval
from policyctl.services.control import Control
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote
from policyctl.settings import load as load_settings
from policyctl_exporters import export_policy

LANE = "lane"
WIDTH, HIDDEN, ACTIONS = 64, 256, 8
OBSERVATIONS = np.random.default_rng(0).uniform(-1, 1, (64, WIDTH)).astype(np.float32)
ROOT = Path(__file__).resolve().parents[1]

Ask = Callable[[NDArray[Any]], Any]


@dataclass
class Turn:
    """What one way took in one round."""

    times_ns: NDArray[np.uint64]
    processor_ns: int
    missed: int


@dataclass
class Way:
    """One way to ask.

    Attributes:
        answer: To the first observation.
        turn: Asks for some seconds, at a rate.
    """

    answer: Any
    turn: Callable[[float, float], Turn]


@dataclass
class Calls:
    """What one way took in all rounds."""

    times_ns: list[NDArray[np.uint64]] = field(default_factory=list)
    medians_ns: list[float] = field(default_factory=list)
    processor_ns: int = 0
    missed: int = 0


def main() -> int:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each way in each round")
    parser.add_argument("--hz", type=float, default=0.0, help="calls a second; 0 asks back to back")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-lane-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        module = export(folder / "exported")
        publish(control, folder / "exported", model="walker", release="1.0.0")
        url = f"local:{folder}/lane"
        environment = {**os.environ, "POLICYCTL_SERVER__LANE": url}
        with BackgroundServer(control.repository.root, folder / "serve.log", environment=environment) as server:
            promote(control, model="walker", release="1.0.0", alias=PRODUCTION, gates=())
            with ways(server.endpoint, url, folder, module) as chosen:
                measured = measure(chosen, rounds=given.rounds, seconds=given.seconds, hz=given.hz)
    print_table(measured)
    return 0


def export(folder: Path) -> Any:
    """Export the policy, and give its module."""
    import torch

    torch.manual_seed(0)
    linear, tanh = torch.nn.Linear, torch.nn.Tanh
    layers = [linear(WIDTH, HIDDEN), tanh(), linear(HIDDEN, HIDDEN), tanh(), linear(HIDDEN, ACTIONS), tanh()]
    module = torch.nn.Sequential(*layers).eval()
    spaces = {"observation_space": gym.spaces.Box(-1, 1, (WIDTH,)), "action_space": gym.spaces.Box(-1, 1, (ACTIONS,))}
    export_policy(module, folder, golden_rows=8, **spaces)
    return module


@contextlib.contextmanager
def ways(endpoint: dict[str, Any], url: str, folder: Path, module: Any) -> Iterator[dict[str, Way]]:
    """Every way under test, by its name in the table."""
    chosen: dict[str, Way] = {}
    with contextlib.ExitStack() as stack:
        chosen["lane, C++"] = stack.enter_context(cpp_way(compiled(folder), url))
        for name, where in (
            (LANE, {"url": url}),
            *((p, {"url": endpoint[p], "protocol": p}) for p in ("grpc", "http")),
        ):
            client = stack.enter_context(PolicyClient("walker", deadline_s=10.0, **where))
            chosen[name] = way(lambda observation, client=client: client.act(observation).value)
        yield chosen | {"ONNX Runtime": way(onnx_ask(folder / "exported")), "eager torch": way(torch_ask(module))}


def way(ask: Ask) -> Way:
    """A way that is called in this process."""
    return Way(ask(OBSERVATIONS[0]), lambda seconds, hz: turn(ask, seconds=seconds, hz=hz))


def compiled(folder: Path) -> Path:
    """The program that asks in C++."""
    program, source = folder / "local_lane", Path(__file__).with_suffix(".cpp")
    command = (os.environ.get("CXX", "g++"), "-std=c++17", "-O2", "-I", str(ROOT / "examples/cpp"))
    subprocess.run([*command, str(source), "-o", str(program)], check=True)
    return program


@contextlib.contextmanager
def cpp_way(program: Path, url: str) -> Iterator[Way]:
    """The program as a process that sleeps outside of its turns."""
    command = [str(program), "walker", url, str(len(OBSERVATIONS))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(OBSERVATIONS.tobytes())
        stdin.flush()
        answer = np.array(stdout.readline().split(), np.float32)

        def one_turn(seconds: float, hz: float) -> Turn:
            stdin.write(f"{seconds} {hz}\n".encode())
            stdin.flush()
            calls, processor_ns, missed = map(int, stdout.readline().split())
            return Turn(np.frombuffer(stdout.read(8 * calls), np.uint64), processor_ns, missed)

        yield Way(answer, one_turn)
        stdin.close()


def onnx_ask(exported: Path) -> Ask:
    """Ask ONNX Runtime in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = exported / FILES[Format.ONNX][0]
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda observation: session.run(["action"], {"observation": observation[None]})[0][0]


def torch_ask(module: Any) -> Ask:
    """Call the module, as a training script does."""
    import torch

    torch.set_num_threads(1)

    def ask(observation: NDArray[Any]) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(observation)[None])[0].numpy()

    return ask


def measure(chosen: dict[str, Way], *, rounds: int, seconds: float, hz: float) -> dict[str, Calls]:
    """All ways in turn; their answers agree."""
    for each in chosen.values():
        np.testing.assert_allclose(each.answer, chosen[LANE].answer, rtol=0, atol=1e-5)
    measured = {name: Calls() for name in chosen}
    for _ in range(rounds):
        for name in random.sample(list(chosen), len(chosen)):
            took, calls = chosen[name].turn(seconds, hz), measured[name]
            calls.times_ns.append(took.times_ns)
            calls.medians_ns.append(float(np.median(took.times_ns)))
            calls.processor_ns += took.processor_ns
            calls.missed += took.missed
    return measured


def turn(ask: Ask, *, seconds: float, hz: float) -> Turn:
    """One way for some time, in this process."""
    times: list[int] = []
    missed = 0
    period_ns = int(1e9 / hz) if hz else 0
    processor_ns = time.thread_time_ns()
    next_ns = time.perf_counter_ns()
    until_ns = next_ns + int(seconds * 1e9)
    while (begin := time.perf_counter_ns()) < until_ns:
        if begin < next_ns:
            time.sleep((next_ns - begin) / 1e9)
            begin = time.perf_counter_ns()
        ask(OBSERVATIONS[len(times) % len(OBSERVATIONS)])
        end = time.perf_counter_ns()
        times.append(end - begin)
        if period_ns:
            next_ns += period_ns
            missed += end > next_ns
            next_ns = max(next_ns, end)
    return Turn(np.array(times, np.uint64), time.thread_time_ns() - processor_ns, missed)


def print_table(measured: dict[str, Calls]) -> None:
    """One row a way."""
    print("| way | p50 us | p99 us | p99.9 us | processor us | missed | lane / way, p50 | 95 % interval |")
    print("|---|---|---|---|---|---|---|---|")
    for name, calls in measured.items():
        times_us = np.concatenate(calls.times_ns) / 1e3
        p50, p99, p999 = np.quantile(times_us, (0.5, 0.99, 0.999))
        logs = [math.log(one / other) for one, other in zip(measured[LANE].medians_ns, calls.medians_ns, strict=True)]
        interval = median_interval(logs, alpha_low=0.025, alpha_high=0.025)
        low, middle, high = (math.exp(v) for v in (interval.low, interval.median, interval.high))
        count = len(times_us)
        print(
            f"| {name} | {p50:.0f} | {p99:.0f} | {p999:.0f} | {calls.processor_ns / count / 1e3:.0f} |"
            f" {calls.missed} of {count} | {middle:.2f} | {low:.2f} to {high:.2f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
