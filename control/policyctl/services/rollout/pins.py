"""Pin, unpin, unserve: which releases are served side by side.

A pin is an alias whose name is a release's own number, so that it is served
whatever other aliases do: clients ask ``walker.1.2.0``. It comes into being by
a promotion (gates, certification, journal, recovery) and never moves. Taking
an alias or a pin out of service is a move without a target.
"""

from __future__ import annotations

from collections.abc import Sequence

from policyctl.domain.artifacts import Format
from policyctl.domain.names import check_model_name, pin_name
from policyctl.services.control import Control, operation, select_release
from policyctl.services.moves.moved import Moved
from policyctl.services.moves.removal import unserve
from policyctl.services.rollout.promote import promote


@operation("pin")
def pin(
    control: Control,
    *,
    model: str,
    release: str,
    format: Format | None = None,  # noqa: A002
    reason: str = "",
    dry_run: bool = False,
    gates: Sequence[str] | None = None,
    move_id: str = "",
) -> Moved:
    """Serve a release under its own number, whatever aliases name.

    Args:
        control: The control plane.
        model: Which model.
        release: Selects the release (`State.select`).
        format: Which artifact to serve; None for the first of the usual order.
        reason: Why, kept in the journal.
        dry_run: Say what would be done; changes nothing.
        gates: As for `promote`.
        move_id: Names the move in the journal; empty for a fresh one.

    Raises:
        PolicyctlError: As `promote`.
    """
    check_model_name(model)
    chosen = select_release(control, model, release)
    return promote(
        control,
        model=model,
        release=chosen,
        alias=pin_name(chosen),
        format=format,
        reason=reason,
        dry_run=dry_run,
        gates=gates,
        move_id=move_id,
    )


@operation("unpin")
def unpin(
    control: Control, *, model: str, release: str, reason: str = "", dry_run: bool = False, move_id: str = ""
) -> Moved:
    """Take a pin out of service.

    Args:
        control: The control plane.
        model: Which model.
        release: Selects the release (`State.select`).
        reason: Why, kept in the journal.
        dry_run: Say what would be done; changes nothing.
        move_id: Names the move in the journal; empty for a fresh one.

    Raises:
        PolicyctlError: As `unserve`.
    """
    check_model_name(model)
    chosen = select_release(control, model, release)
    return unserve(control, model=model, alias=pin_name(chosen), reason=reason, dry_run=dry_run, move_id=move_id)
