"""Memory: what a served model costs, measured, and what follows from it.

Four figures a process, because no single one is true: resident memory counts
shared pages in every process; the proportional size divides them; what a
process has to itself is what one more of its kind costs at least; and the peak
is what a limit has to allow.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from policyctl import claims
from policyctl.adapters.pbtxt import options_of
from policyctl.client import regions
from policyctl.domain.artifacts import Format
from policyctl.domain.hardware import Hardware
from policyctl.domain.names import CANDIDATE, check_model_name, served_name
from policyctl.domain.recommendations import Basis, Recommendation, pools
from policyctl.domain.state import AliasState
from policyctl.errors import ServerError, UsageError
from policyctl.services.control import Control, open_release
from policyctl.services.machine.memory_headroom import ServedCost, cost_of
from policyctl.services.measure.performance import bursts_of
from policyctl.services.moves.measurement_lock import measuring
from policyctl.serving.hardware import detect, memory_left
from policyctl.serving.memory import ProcessUse, shared_bytes, usage
from policyctl.serving.shared_memory import prefix_base

SUPERVISOR: Final = "policyctl serve"
_RESERVE: Final = 0.2
"""Of the memory that is there, left to everything else."""

_LOAD_CLIENTS: Final = 8
_WINDOW_MS: Final = 500
_DOCKER_SHM_BYTES: Final = 64 << 20
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Everything that was measured, and what follows.

    Attributes:
        served: One an alias that is served.
        shared: Processes that serve every model: tritonserver and the supervisor.
        others: Every other backend process, by name.
        available_bytes: What the machine (or its control group) could still give.
        shared_memory_bytes: What server and clients take of ``/dev/shm``.
        shared_memory_free_bytes: What is left of it.
        loaded_s: How long the model was kept under load before; 0 for not at all.
        recommendations: The most effective first.
    """

    model: str
    served: tuple[ServedCost, ...]
    shared: Mapping[str, ProcessUse]
    others: Mapping[str, ProcessUse]
    available_bytes: int
    shared_memory_bytes: int
    shared_memory_free_bytes: int
    loaded_s: float
    recommendations: tuple[Recommendation, ...]

    def rows(self) -> list[tuple[str, ProcessUse]]:
        """Every process, those of the model's aliases first."""
        mine = [(name, use) for cost in self.served for name, use in cost.instances.items()]
        others = [
            (f"{name} ({'passing' if self._is_candidate(name) else 'another model'})", use)
            for name, use in self.others.items()
        ]
        return [*mine, *self.shared.items(), *others]

    def _is_candidate(self, name: str) -> bool:
        """Whether a process is a candidate's of this model, which ends about a second after it was withdrawn."""
        return name.startswith(f"{served_name(self.model, CANDIDATE)}_")


def memory(control: Control, *, model: str, load_s: float = 0.0) -> MemoryReport:
    """Measure what a served model costs.

    Args:
        load_s: Keep each of its aliases under load for so long first.

    Raises:
        UsageError: The model is not published, or no alias of it is served.
        ServerError: No server, or one whose processes cannot be seen.
        UnsupportedError: A load is asked for, and perf_analyzer cannot run here.
    """
    check_model_name(model)
    state = control.known(model)
    aliases = {alias: named for (name, alias), named in sorted(state.aliases.items()) if name == model}
    if not aliases:
        raise UsageError(f"no alias names a release of {model}", remedy=f"Promote one: policyctl promote {model} 1.0.0")
    endpoint = control.endpoint()
    if not endpoint.pid:
        raise ServerError(
            "the memory of a server that somebody else runs cannot be seen",
            remedy="Measure the embedded one: policyctl serve.",
        )
    if load_s > 0:
        with measuring(control, f"memory of {model}"):
            for alias, named in aliases.items():
                _load(control, model, alias, named, load_s)
    supervisor = {SUPERVISOR: endpoint.supervisor_pid} if endpoint.supervisor_pid else {}
    uses = usage(endpoint.pid, supervisor)
    served = tuple(cost_of(model, alias, named, uses) for alias, named in aliases.items())
    mine = {name for cost in served for name in cost.instances}
    shared: dict[str, ProcessUse] = {name: uses[name] for name in ("tritonserver", SUPERVISOR) if name in uses}
    hardware = detect()
    available = memory_left(process=str(endpoint.pid)).left_bytes
    in_memory = shared_bytes(claims.FOLDER, (prefix_base(control.repository.root), regions.PREFIX))
    free = shutil.disk_usage(claims.FOLDER).free
    return MemoryReport(
        model=model,
        served=served,
        shared=shared,
        others={name: use for name, use in uses.items() if name not in mine and name not in shared},
        available_bytes=available,
        shared_memory_bytes=in_memory,
        shared_memory_free_bytes=free,
        loaded_s=load_s,
        recommendations=recommend(
            served, hardware=hardware, available=available, in_memory=in_memory, in_memory_free=free
        ),
    )


def recommend(
    served: Sequence[ServedCost], *, hardware: Hardware, available: int, in_memory: int, in_memory_free: int
) -> tuple[Recommendation, ...]:
    """What follows from measured costs.

    Args:
        available: Memory that is left, bytes.
        in_memory: Taken of ``/dev/shm``, bytes.
        in_memory_free: Left of it, bytes.
    """
    found = [r for cost in served if cost.instances for r in (_instances(cost, hardware, available),)]
    found += [r for cost in served if cost.instances for r in (_format(cost),) if r is not None]
    found += [_inside(cost) for cost in served if not cost.instances]
    if len([cost for cost in served if cost.instances]) > 1:
        costs = ", ".join(f"{c.alias} {c.own_bytes / _MB:.0f} MB" for c in served)
        found.append(
            Recommendation(
                "aliases",
                "only those that are asked",
                f"each alias has one process for every instance: {costs}",
                Basis.MEASURED,
            )
        )
    advised = pools(hardware)
    found.append(
        Recommendation(
            "POLICYCTL_SERVER__PINNED_POOL_MIB, ..._CUDA_POOL_MIB",
            f"{advised.pinned_mib}, {advised.cuda_mib}",
            "tensors go to GPUs through them" if hardware.gpus else "no GPU: nothing is ever taken from them",
            Basis.DOCUMENTED,
            is_default=True,
        )
    )
    if in_memory_free < max(in_memory, _DOCKER_SHM_BYTES // 2):
        found.append(
            Recommendation(
                "shared memory (docker run --shm-size)",
                f"{2 * max(in_memory, _DOCKER_SHM_BYTES) >> 20}m",
                f"server and backends take {in_memory / _MB:.1f} MB of it, {in_memory_free / _MB:.1f} MB are left,"
                " and a promotion takes as much again",
                Basis.MEASURED,
            )
        )
    return tuple(found)


def _instances(cost: ServedCost, hardware: Hardware, available: int) -> Recommendation:
    """How many fit, when each may reach its peak and a promotion holds two releases at once."""
    have = len(cost.instances)
    peak = max(use.peak_bytes for use in cost.instances.values())
    own = max(use.own_bytes for use in cost.instances.values())
    # Those that run are paid for already; a promotion needs all of them once more.
    fit = int((available * (1.0 - _RESERVE) + have * own) / max(1, own) / 2)
    useful = max(1, min(fit, int(hardware.cores)))
    return Recommendation(
        f"POLICYCTL_SERVING__INSTANCES ({cost.alias})",
        f"at most {useful}",
        f"an instance has {own / _MB:.0f} MB to itself and peaked at {peak / _MB:.0f} MB; {max(1, fit)} fit while a"
        f" promotion holds both releases, and {hardware.cores:g} cores keep no more than {max(1, int(hardware.cores))}"
        " busy; how many are quickest: policyctl tune",
        Basis.MEASURED,
        is_default=have <= useful,
    )


def _inside(cost: ServedCost) -> Recommendation:
    """What can be said of an alias whose instances run inside the server."""
    return Recommendation(
        f"memory of {cost.alias}",
        "at most tritonserver's",
        "its backend is native and runs inside the server, with every other model of that kind",
        Basis.MEASURED,
        is_default=True,
    )


def _format(cost: ServedCost) -> Recommendation | None:
    if cost.format is not Format.TORCHSCRIPT:
        return None
    size = max(use.rss_bytes for use in cost.instances.values())
    return Recommendation(
        f"promote --format openvino ({cost.alias})",
        "openvino or onnx",
        f"TorchScript brings all of torch into every instance, {size / _MB:.0f} MB here; the others do not",
        Basis.MEASURED,
    )


def _load(control: Control, model: str, alias: str, named: AliasState, load_s: float) -> None:
    """Keep an alias busy, at batch 1 and at its largest batch."""
    opened = open_release(
        control.repository, control.repository.journal.state().release(model, named.placement.release)
    )
    served = served_name(model, alias)
    largest = max(1, options_of(named.placement.config).max_batch_size)
    until = time.monotonic() + load_s
    sizes = (1, largest)
    with control.working(f"Keeping {served} under load for {load_s:.0f} s"):
        while time.monotonic() < until:
            for size in sizes:
                with bursts_of(control, opened, interval_ms=_WINDOW_MS, batch_size=size) as bursts:
                    bursts.of(served, clients=_LOAD_CLIENTS).burst()
