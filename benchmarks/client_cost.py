"""What `PolicyClient` costs a caller, against the plain tritonclient, in one run.

    python benchmarks/client_cost.py --rounds 12

Policies on one server, of 4 and of 28,224 numbers an observation (as many as
four frames of 84 x 84), are asked one observation and 64 at a time by one
caller. All clients take turns within each round, a few calls each, in an order
that chance decides. Printed are the medians of the rounds' median times of a
call, and the median of the rounds' ratios with its exact 95 % interval. Below 1
`PolicyClient` is quicker than tritonclient over the same protocol.

The plain client does what its documentation shows: an `InferInput` for each
call, the array into it, the output out of the answer. It checks nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

from policyctl.client import PolicyClient
from policyctl.demo.background_server import BackgroundServer
from policyctl.domain.names import PRODUCTION
from policyctl.domain.statistics import median_interval
from policyctl.services.control import Control
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote
from policyctl.settings import load as load_settings
from policyctl_exporters import export_policy

WIDTHS = (4, 28_224)
BATCHES = (1, 64)
CALLS_A_TURN = 10
PLAIN = {"gRPC": tritonclient.grpc, "HTTP": tritonclient.http}

Ask = Callable[[NDArray[Any]], NDArray[Any]]


def main() -> int:
    """Run it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--numbers", type=int, nargs="+", default=WIDTHS, help="of an observation")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="observations of a call")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="policyctl-client-") as name:
        folder = Path(name)
        control = Control.of(load_settings(repository=folder / "model_repository"))
        for width in given.numbers:
            export(folder / str(width), width)
            publish(control, folder / str(width), model=f"policy{width}", release="1.0.0")
        print("| numbers | batch | protocol | tritonclient p50 us | PolicyClient p50 us | ratio | 95 % interval |")
        print("|---|---|---|---|---|---|---|")
        with BackgroundServer(control.repository.root, folder / "serve.log") as server:
            for width in given.numbers:
                promote(control, model=f"policy{width}", release="1.0.0", alias=PRODUCTION, gates=())
                for batch in given.batch:
                    rows(server.endpoint, width, batch, rounds=given.rounds, seconds=given.seconds)
    return 0


def export(folder: Path, width: int) -> None:
    """A small policy of so many numbers."""
    import gymnasium as gym
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(width, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2), torch.nn.Tanh())
    spaces = {"observation_space": gym.spaces.Box(-1, 1, (width,)), "action_space": gym.spaces.Box(-1, 1, (2,))}
    export_policy(module, folder, golden_rows=8, **spaces)


def rows(endpoint: dict[str, Any], width: int, batch: int, *, rounds: int, seconds: float) -> None:
    """Measure and print one policy and batch size."""
    observations = np.random.default_rng(0).uniform(-1, 1, (batch, width)).astype(np.float32)
    with clients(endpoint, f"policy{width}") as asks:
        answers = [ask(observations) for ask in asks.values()]
        for answer in answers:
            np.testing.assert_array_equal(answer, answers[0])
        measured = [medians_us(asks, observations, seconds) for _ in range(rounds)]
    for protocol, policy_client in (("gRPC", "gRPC"), ("gRPC", "gRPC, shared memory"), ("HTTP", "HTTP")):
        plain_us = [one[f"plain {protocol}"] for one in measured]
        policy_us = [one[policy_client] for one in measured]
        logs = [math.log(policy / plain) for plain, policy in zip(plain_us, policy_us, strict=True)]
        interval = median_interval(logs, alpha_low=0.025, alpha_high=0.025)
        low, middle, high = (math.exp(v) for v in (interval.low, interval.median, interval.high))
        print(
            f"| {width} | {batch} | {policy_client} | {np.median(plain_us):.0f} | {np.median(policy_us):.0f} |"
            f" {middle:.2f} | {low:.2f} to {high:.2f} |",
            flush=True,
        )


@contextlib.contextmanager
def clients(endpoint: dict[str, Any], model: str) -> Iterator[dict[str, Ask]]:
    """Every client under test, by its name in the table."""
    asks: dict[str, Ask] = {}
    with contextlib.ExitStack() as stack:
        for protocol, library in PLAIN.items():
            url = endpoint[protocol.lower()]
            plain = stack.enter_context(library.InferenceServerClient(url))
            asks[f"plain {protocol}"] = plain_ask(library, plain, model)
            for shared_memory in (False, True) if protocol == "gRPC" else (False,):
                client = PolicyClient(
                    model, url=url, protocol=protocol.lower(), shared_memory=shared_memory, deadline_s=10.0
                )
                stack.enter_context(client)
                asks[f"{protocol}{', shared memory' if shared_memory else ''}"] = policy_ask(client)
        yield asks


def plain_ask(library: Any, client: Any, model: str) -> Ask:
    """Ask as tritonclient's own documentation does."""

    def ask(observations: NDArray[Any]) -> NDArray[Any]:
        tensor = library.InferInput("observation", list(observations.shape), np_to_triton_dtype(observations.dtype))
        tensor.set_data_from_numpy(observations)
        action: NDArray[Any] = client.infer(model, [tensor]).as_numpy("action")
        return action

    return ask


def policy_ask(client: PolicyClient) -> Ask:
    """Ask for one action where there is one observation, as a control loop does."""

    def ask(observations: NDArray[Any]) -> NDArray[Any]:
        if len(observations) > 1:
            return np.asarray(client.act_batch(observations).value)
        return np.asarray(client.act(observations[0]).value)[None]

    return ask


def medians_us(asks: dict[str, Ask], observations: NDArray[Any], seconds: float) -> dict[str, float]:
    """Median time of a call by each client, which take turns."""
    times: dict[str, list[int]] = {name: [] for name in asks}
    names, until = list(asks), time.monotonic() + seconds
    while time.monotonic() < until:
        for name in random.sample(names, len(names)):
            ask = asks[name]
            for _ in range(CALLS_A_TURN):
                begin = time.perf_counter_ns()
                ask(observations)
                times[name].append(time.perf_counter_ns() - begin)
    return {name: float(np.median(each)) / 1e3 for name, each in times.items()}


if __name__ == "__main__":
    sys.exit(main())
