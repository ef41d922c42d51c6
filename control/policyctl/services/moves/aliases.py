"""Load an alias on a server as the journal says, and certify it there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from policyctl.adapters.triton import Triton
from policyctl.domain.journal import RecordKind
from policyctl.domain.log_event import LogLevel
from policyctl.domain.names import served_name
from policyctl.domain.probes import AliasKey
from policyctl.domain.state import AliasState
from policyctl.domain.verdict import Verdict
from policyctl.errors import GateError, IntegrityError, PolicyctlError, ServerError
from policyctl.services.control import Control, open_release
from policyctl.services.moves.certify import certified_body, certify
from policyctl.services.trust.signatures import require_signed

if TYPE_CHECKING:
    from policyctl.services.observed import Observed


class WrongAnswersError(GateError):
    """An alias does not answer its golden set, and was taken out of service: no answer is better than a wrong one."""


def load_alias(
    control: Control,
    client: Triton,
    key: AliasKey,
    state: AliasState,
    *,
    afresh: bool = False,
    observed: Observed | None = None,
) -> None:
    """Verify, load and certify what an alias names; the caller holds the writer lock.

    Args:
        control: The control plane.
        client: The server.
        key: Which alias.
        state: What it names.
        afresh: Load it also where the server believes that it has it: next to a
            dead process, which an unload could wait for in vain.
        observed: Where it is counted that a certification could not be written down.

    Raises:
        IntegrityError: A file of the release is not what was published, or no trusted key signed it.
        ServerError: The server refuses to load it, or does not answer.
        WrongAnswersError: It answers, but not as the golden set says; it is not served any more.
        GateError: It could not be certified, for another reason.
    """
    model, alias = key
    served, placement = served_name(model, alias), state.placement
    repository = control.repository
    journal = repository.journal.state()
    published = journal.release(model, placement.release)
    opened = open_release(repository, published)
    require_signed(control, journal, published)
    repository.place(served, placement.slot)
    config = repository.config(served)
    if not repository.is_configured(served, placement.config):
        words = f"{config} is not what the journal says; the recorded text is put back."
        control.tell(words, level=LogLevel.WARNING, model=model, alias=alias)
        repository.configure(served, placement.config)
    if afresh:
        repository.stamp(served, placement.slot)
    client.load(served, placement.slot)
    try:
        result = certify(control, client, opened, served, placement)
    except IntegrityError:
        client.unload(served)  # nobody knows what a backend of NVIDIA's has read
        raise
    if result.verdict is Verdict.FAILED:
        with suppress(ServerError):
            client.unload(served)
        raise WrongAnswersError(
            f"{served} answers wrongly and is withdrawn: {result.reason}",
            remedy=f"Roll back (policyctl rollback {model}) or promote another release; or start the server again.",
        )
    if result.verdict is not Verdict.PASSED:
        raise GateError(f"not certified ({result.verdict}): {result.reason}")
    _note(control, {"move": None, **certified_body(client, model, placement)}, served, observed)
    words = f"Serving {served}: release {placement.release}, slot {placement.slot}. {result.reason}."
    control.tell(words, model=model, alias=alias, release=placement.release, slot=placement.slot)


def _note(control: Control, body: dict[str, Any], served: str, observed: Observed | None) -> None:
    """Write a certification down; an alias that passed it is served also where that cannot be done."""
    try:
        control.repository.journal.append(RecordKind.CERTIFIED, body)
    except PolicyctlError as error:
        if observed is not None:
            from policyctl.services.observed import Unwritten  # late: only the server counts it

            observed.not_written(Unwritten.CERTIFICATION)
        words = f"{served} is certified and served, and the journal does not say so: {error.problem}. {error.remedy}"
        control.tell(words, level=LogLevel.WARNING)
