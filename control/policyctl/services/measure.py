"""Bench and evaluate: how fast a served policy answers, and what it earns.

Both ask the served alias through the network as any client does; neither
changes anything.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.pbtxt import max_batch_size
from policyctl.client import PolicyClient
from policyctl.domain.names import check_alias, check_model_name, served_name
from policyctl.domain.protocol import Protocol
from policyctl.errors import ServerError, UsageError
from policyctl.services.control import Control, open_release
from policyctl.services.export import missing
from policyctl.serving.memory import measure as measure_memory
from policyctl_benchmarks.intervals import mean_with_interval, paired_difference
from policyctl_benchmarks.perf_analyzer import (
    PerfAnalyzerOptions,
    input_data_json,
    link_libraries,
    locate_perf_analyzer,
    run,
)
from policyctl_benchmarks.rollout import RolloutResult, rollout

if TYPE_CHECKING:
    from policyctl_benchmarks.measurement import Measurement

Act = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class BenchReport:
    """One run of perf_analyzer.

    Attributes:
        served: The Triton model that was asked.
        release: What it served.
        measurements: One a level of concurrency or rate.
        server_rss_mb: Resident memory of tritonserver; None where it is not ours.
        stubs_rss_mb: Of each backend process.
        machine: Where client and server ran.
    """

    served: str
    release: str
    format: str
    protocol: str
    batch_size: int
    measurements: tuple[Measurement, ...]
    server_rss_mb: float | None
    stubs_rss_mb: Mapping[str, float]
    machine: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "served": self.served,
            "release": self.release,
            "format": self.format,
            "protocol": self.protocol,
            "batch_size": self.batch_size,
            "measurements": [m.to_json() for m in self.measurements],
            "server_rss_mb": self.server_rss_mb,
            "stubs_rss_mb": dict(self.stubs_rss_mb),
            "machine": dict(self.machine),
        }


def bench(control: Control, options: PerfAnalyzerOptions, *, model: str, alias: str) -> BenchReport:
    """Drive a served alias with the real perf_analyzer, on its own golden observations.

    Args:
        control: The control plane.
        options: Levels, protocol, batch and time limit; model, URL and input data are filled in.
        model: Which model.
        alias: Which alias.

    Raises:
        UsageError: The alias names nothing.
        ServerError: No server, requests that failed, or perf_analyzer past its time limit.
        UnsupportedError: perf_analyzer cannot run here.
    """
    check_model_name(model)
    check_alias(alias)
    control.repository.require()
    state = control.repository.journal.state()
    state.require(model)
    named = state.alias(model, alias)
    if named is None:
        raise UsageError(
            f"alias {alias} of {model} names no release", remedy=f"Promote one: policyctl promote {model} RELEASE"
        )
    most = max_batch_size(named.placement.config)
    if options.batch_size > max(most, 1):
        raise UsageError(
            f"batch {options.batch_size} is more than {model} is served with: {most}",
            remedy="Ask for less, or promote it again with POLICYCTL_SERVING__MAX_BATCH_SIZE set.",
        )
    opened = open_release(control.repository, state.release(model, named.placement.release))
    endpoint = control.endpoint()
    url = _address(endpoint, options.protocol)
    with control.repository.staging() as folder:
        data = folder / "observations.json"
        data.write_text(input_data_json(opened.golden))
        filled = replace(
            options,
            model=served_name(model, alias),
            url=url,
            input_data=data,
        )
        libraries = link_libraries(folder / "libraries")
        measurements = run(filled, binary=locate_perf_analyzer(), library_path=libraries)
    server_mb, stubs_mb = _memory(endpoint.pid)
    return BenchReport(
        served=filled.model,
        release=named.placement.release,
        format=named.placement.format.value,
        protocol=str(options.protocol),
        batch_size=options.batch_size,
        measurements=measurements,
        server_rss_mb=server_mb,
        stubs_rss_mb=stubs_mb,
        machine={"cores": psutil.cpu_count(), "processor": _processor(), "kernel": platform.release()},
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a served policy earned.

    Attributes:
        served: Returns and lengths of the served policy, an entry an episode.
        reference: The same of the policy in eager PyTorch on the same seeds, if asked for.
        releases: Which releases answered.
    """

    served: RolloutResult
    reference: RolloutResult | None
    releases: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with intervals of the means (95 %, bootstrap)."""
        found: dict[str, Any] = {
            "releases": list(self.releases),
            "served": {**self.served.to_json(), "mean": self.mean(self.served)},
        }
        if self.reference is not None:
            difference = paired_difference(self.reference.returns, self.served.returns, rng=np.random.default_rng(0))
            found["reference"] = {**self.reference.to_json(), "mean": self.mean(self.reference)}
            found["difference"] = difference.to_json()
        return found

    @staticmethod
    def mean(result: RolloutResult) -> dict[str, Any]:
        """Mean return with its interval."""
        return mean_with_interval(result.returns, rng=np.random.default_rng(0)).to_json()


def evaluate(
    control: Control,
    *,
    model: str,
    alias: str,
    env: str,
    episodes: int,
    seed: int = 0,
    protocol: Protocol = Protocol.GRPC,
    reference: Act | None = None,
) -> Evaluation:
    """Run an environment against the served policy.

    Args:
        control: The control plane.
        model: Which model.
        alias: Which alias.
        env: A gymnasium environment's id.
        episodes: How many, each with its own seed: `seed`, `seed` + 1, ...
        seed: The first.
        protocol: How to ask.
        reference: The policy itself, to be run beside it on the same seeds.

    Raises:
        UsageError: No such environment, or spaces that do not fit the contract.
        ServerError: A request failed.
        UnsupportedError: gymnasium is not installed.
    """
    if episodes < 2:
        raise UsageError(f"--episodes {episodes} is not at least 2", remedy="One episode has no interval.")
    endpoint = control.endpoint()
    url = _address(endpoint, protocol)
    seeds = range(seed, seed + episodes)
    releases: set[str] = set()
    with PolicyClient(check_model_name(model), url=url, protocol=protocol, alias=alias, deadline_s=10.0) as client:

        def act(observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
            answer = client.act_batch(observations)
            releases.add(answer.release)
            return np.asarray(answer.value)

        try:
            control.say(f"Running {episodes} episodes of {env} against {served_name(model, alias)} ...")
            served = rollout(env, act, seeds)
            beside = None
            if reference is not None:
                control.say(f"Running the reference on the same {episodes} seeds ...")
                beside = rollout(env, reference, seeds)
        except ImportError as error:
            raise missing(error, "evaluate") from error
    return Evaluation(served, beside, tuple(sorted(releases)))


def load_act(source: Path, *, normalizer: Path | None, trust_pickle: bool) -> Act:
    """The policy in eager PyTorch as a function from observations to actions.

    Raises:
        UsageError: A file that cannot be used.
        UnsupportedError: A library is not installed.
    """
    try:
        from policyctl_exporters.reference import load_reference
    except ImportError as error:
        raise missing(error, "sb3") from error
    answer = load_reference(source, normalizer=normalizer, trust_pickle=trust_pickle)
    return lambda observations: np.asarray(answer(observations)["action"])


def _address(endpoint: Endpoint, protocol: Protocol) -> str:
    url = endpoint.grpc if protocol is Protocol.GRPC else endpoint.http
    if not url:
        raise ServerError(
            f"no {protocol} address of the server at {endpoint.grpc} is known",
            remedy="Set POLICYCTL_SERVER__HTTP_URL=HOST:PORT, or use --protocol grpc.",
        )
    return url


def _memory(pid: int) -> tuple[float | None, dict[str, float]]:
    if not pid:
        return None, {}
    found = measure_memory(pid)
    stubs = {s.instance or str(s.pid): round(s.rss_bytes / 1e6, 1) for s in found.stubs}
    return round(found.server_rss_bytes / 1e6, 1), stubs


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
