"""Certify a release: the server that will serve it has to answer its golden set, before any client asks it.

A move certifies its target as the candidate, and once more under the name that
clients ask. The journal names what was certified, and on which server.
"""

from __future__ import annotations

from typing import Any

from policyctl.adapters.pbtxt import identity, max_batch_size
from policyctl.adapters.triton import Triton
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Move, Placement
from policyctl.domain.state import State
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import GateError
from policyctl.gates import golden as golden_gate
from policyctl.integrity import read_release
from policyctl.services.control import Control, OpenRelease, asker
from policyctl.services.evidence import record_gate


def is_certified_here(state: State, client: Triton, model: str, placement: Placement) -> bool:
    """Whether this run of the server has certified a release before, in this format and configuration."""
    server = client.endpoint.server_id
    return bool(server) and (server, model, placement.manifest_digest, identity(placement.config)) in state.certified


def require_certified(
    control: Control, client: Triton, move: Move, opened: OpenRelease, served: str, placement: Placement
) -> None:
    """Certify what `served` answers with, as a part of a move; a candidate's result is kept as evidence.

    Raises:
        GateError: It does not answer the golden set of its release.
        IntegrityError: A file is not what was published.
    """
    result = certify(control, client, opened, served, placement)
    level = LogLevel.INFO if result.verdict is Verdict.PASSED else LogLevel.ERROR
    control.tell(
        f"{served}: {result.reason}.", level=level, logger="policyctl.move", served=served, slot=placement.slot
    )
    if served == move.candidate:
        record_gate(control, opened.published, result)
    if result.verdict is not Verdict.PASSED:
        raise GateError(
            f"{served} slot {placement.slot} is not certified ({result.verdict}): {result.reason}",
            remedy=f"Look at the evidence: policyctl validate {move.model} {placement.release}",
        )


def certify(control: Control, client: Triton, opened: OpenRelease, served: str, placement: Placement) -> GateResult:
    """Ask `served` for the golden set of the placement's release.

    Backends that are not ours do not hold what they read against the manifest,
    so it is read again now: what is right after they read it was right then,
    unless somebody changed it and changed it back.

    Raises:
        IntegrityError: A file is not what was published.
    """
    if not client.endpoint.verifies:
        slot = control.repository.served_slot(served, placement.slot)
        read_release(slot, expected_digest=placement.manifest_digest)
    return golden_gate.run(
        opened.contract,
        opened.golden,
        asker(client, served),
        slot=placement.slot,
        # What this placement is served with: the settings may have changed since it was promoted.
        max_batch_size=max(1, max_batch_size(placement.config)),
    )


def certified_body(client: Triton, model: str, placement: Placement) -> dict[str, Any]:
    """What the journal keeps of a certification."""
    return {
        "server": client.endpoint.server_id,
        "model": model,
        "release": placement.release,
        "manifest_digest": placement.manifest_digest,
        "config_digest": identity(placement.config),
    }
