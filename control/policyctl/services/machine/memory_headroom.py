"""Room: what each served model costs in memory, and whether one more fits.

While an alias moves, the release can be in memory twice, next to the incumbent: once
as the candidate, which Triton ends on its own time, once under the alias's own name. A server that runs out of
memory on the way is killed by the kernel, with every model that it serves. So
what will not fit is refused before anything is touched.

What a release will cost is known where it is served already, and estimated
where it is not: from another process of the same format, else from what such a
process usually has to itself, and its files twice (as they were read and
verified, and as the runtime keeps them). An estimate can be wrong; the reserve
is a setting, and so is the check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.pbtxt import options_of
from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.moves import Move, Placement
from policyctl.domain.names import served_name
from policyctl.domain.state import AliasState, State
from policyctl.errors import PolicyctlError, UnsupportedError
from policyctl.services.control import Control, OpenRelease
from policyctl.serving.hardware import memory_left
from policyctl.serving.memory import ProcessUse, usage

_MIB: Final = 1 << 20
_TWICE: Final = 2
_PROCESS_BYTES: Final = {
    Format.OPENVINO: 29 * _MIB,
    Format.ONNX: 30 * _MIB,
    Format.TORCHSCRIPT: 158 * _MIB,
    # Not measured: its libraries are in no registry. It brings torch along no more than torchscript does.
    Format.TENSORRT: 158 * _MIB,
}
"""What a backend process of each format has to itself with a tiny policy, measured; see docs/versions.md."""


@dataclass(frozen=True, slots=True)
class ServedCost:
    """What one alias of the model costs.

    Attributes:
        instances: By instance name.
    """

    alias: str
    release: str
    format: Format
    instances: Mapping[str, ProcessUse]

    @property
    def own_bytes(self) -> int:
        """What its processes have to themselves; 0 where it runs inside the server."""
        return sum(use.own_bytes for use in self.instances.values())


@dataclass(frozen=True, slots=True)
class Expected:
    """What one copy of a release will take, all its instances."""

    size_bytes: int
    basis: str


def cost_of(model: str, alias: str, named: AliasState, uses: Mapping[str, ProcessUse]) -> ServedCost:
    """What an alias costs, from what each process of the server holds (`serving.memory.usage`)."""
    count = options_of(named.placement.config).instances
    served = served_name(model, alias)
    # Triton names an instance by the model, the group (we write one) and its number.
    names = [f"{served}_0_{index}" for index in range(count)]
    return ServedCost(
        alias, named.placement.release, named.placement.format, {name: uses[name] for name in names if name in uses}
    )


def costs(state: State, endpoint: Endpoint) -> dict[tuple[str, str], ServedCost]:
    """What every alias costs, by model and alias; nothing where the server's processes cannot be seen."""
    if not endpoint.pid:
        return {}
    try:
        uses = usage(endpoint.pid, {})
    except PolicyctlError:
        return {}  # it ended meanwhile: the next request to it fails and says so
    return {key: cost_of(*key, named, uses) for key, named in state.aliases.items()}


def expect(
    placement: Placement, artifact_bytes: int, *, served: Mapping[tuple[str, str], ServedCost], model: str, inside: bool
) -> Expected:
    """What one copy of a release will take.

    Args:
        artifact_bytes: Size of the files of its format.
        served: What is served already costs.
        inside: Its backend runs inside the server.
    """
    if inside:
        return Expected(_TWICE * artifact_bytes, "its files twice, inside the server")
    count = options_of(placement.config).instances
    peers = {k: c for k, c in served.items() if c.format is placement.format and c.instances}
    for (owner, alias), cost in peers.items():
        if (owner, cost.release) == (model, placement.release):
            each = max(use.own_bytes for use in cost.instances.values())
            return Expected(each * count, f"as {served_name(owner, alias)} has, measured")
    if peers:
        key, cost = min(peers.items(), key=lambda item: item[1].own_bytes / len(item[1].instances))
        each = cost.own_bytes // len(cost.instances) + _TWICE * artifact_bytes
        return Expected(each * count, f"as {served_name(*key)} has, measured, and its files twice")
    each = _PROCESS_BYTES[placement.format] + _TWICE * artifact_bytes
    return Expected(each * count, f"as a process for {placement.format} usually has, and its files twice")


def require_room(control: Control, client: Triton, state: State, move: Move, opened: OpenRelease) -> None:
    """Refuse a move whose target does not fit in memory while it is moved.

    Nothing is refused where the server's processes cannot be seen, or where
    the setting ``serving.memory_reserve_mib`` is null.
    """
    reserve, endpoint = control.settings.serving.memory_reserve_mib, client.endpoint
    if reserve is None or not endpoint.pid:
        return
    size = sum(entry.size_bytes for entry in opened.files if entry.path in FILES[move.target.format])
    inside = move.target.format is Format.OPENVINO and endpoint.openvino.startswith("native")
    found = expect(move.target, size, served=costs(state, endpoint), model=move.model, inside=inside)
    left = memory_left(process=str(endpoint.pid))
    need = _TWICE * found.size_bytes
    if need + reserve * _MIB <= left.left_bytes:
        return
    raise UnsupportedError(
        f"{move.model} {move.target.release} does not fit in memory: while it is moved it takes"
        f" {words(need)} (twice {words(found.size_bytes)}: {found.basis}), {words(left.left_bytes)} of"
        f" {words(left.limit_bytes)} are left of {left.limited_by}, and {reserve} MiB are kept free",
        remedy="Take out of service what is not asked any more (policyctl status says what each costs: policyctl unpin,"
        " policyctl unserve), give the server more, or set POLICYCTL_SERVING__MEMORY_RESERVE_MIB"
        " (null: do not check). Nothing was changed.",
    )


def words(size_bytes: int) -> str:
    """A size for people."""
    return f"{size_bytes / _MIB:.0f} MiB" if size_bytes < 10 << 30 else f"{size_bytes / (1 << 30):.1f} GiB"
