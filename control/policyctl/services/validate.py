"""Validate: run the gates on a release and keep their evidence.

`integrity` and `parity` need no server. `golden` does: the release is loaded
as a candidate beside whatever serves, asked, and withdrawn; no alias moves.
"""

from __future__ import annotations

from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import PARITY_FILE, Format
from policyctl.domain.moves import Placement
from policyctl.domain.names import CANDIDATE, served_name
from policyctl.domain.state import PublishedRelease, State
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import GateError, ServerError
from policyctl.gates import golden, integrity, parity
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.evidence import record_gate
from policyctl.services.moves import Mover, recover

OFFLINE = (integrity.NAME, parity.NAME)
"""Gates that must have passed before a promotion starts; `golden` is part of the promotion itself."""


def validate(
    control: Control,
    *,
    model: str,
    release: str,
    format: Format | None = None,  # noqa: A002
) -> tuple[GateResult, ...]:
    """Run every gate on a release.

    Args:
        control: The control plane.
        model: Which model.
        release: Which release.
        format: Which artifact to load; None for the one that a promotion would choose.

    Raises:
        UsageError: No such release or format.
        BusyError: Another writer is at work.
    """
    control.repository.require()
    with control.repository.writer(f"validate {model} {release}", wait_s=control.settings.lock_wait_s):
        state = control.repository.journal.state()
        published = state.release(model, release)
        results = list(run_offline(control, published))
        if all(r.verdict is Verdict.PASSED for r in results):
            results.append(_golden(control, state, published, format))
            record_gate(control, published, results[-1])
    return tuple(results)


def run_offline(control: Control, published: PublishedRelease, *, record: bool = True) -> tuple[GateResult, ...]:
    """Run the gates that need no server.

    Args:
        control: The control plane.
        published: The release.
        record: Keep their evidence; the caller holds the writer lock. A dry run does not.
    """
    folder = control.repository.slot(published.model, published.slot)
    results = [integrity.run(folder, manifest_digest=published.manifest_digest)]
    if results[0].verdict is Verdict.PASSED:
        opened = open_release(control.repository, published)
        digests = {file.path: file.digest for file in opened.files}
        results.append(parity.run(opened.contents[PARITY_FILE], formats=opened.formats, digests=digests))
    for result in results:
        if record:
            record_gate(control, published, result)
        control.say(f"Gate {result.gate}: {result.verdict}. {result.reason}.")
    return tuple(results)


def require_offline(control: Control, state: State, published: PublishedRelease, *, record: bool = True) -> None:
    """Refuse a release whose gates have not passed; run those that have not run yet.

    Raises:
        GateError: A gate did not pass.
    """
    seen = {gate: state.gates.get((published.model, published.release, gate)) for gate in OFFLINE}
    if all(
        g is not None and g.verdict is Verdict.PASSED and g.manifest_digest == published.manifest_digest
        for g in seen.values()
    ):
        return
    results = run_offline(control, published, record=record)
    if bad := [r for r in results if r.verdict is not Verdict.PASSED]:
        raise GateError(
            f"{published.model} {published.release}: gate {bad[0].gate} {bad[0].verdict}: {bad[0].reason}",
            remedy="Nothing was changed. Publish a release that passes, or restore the files.",
        )


def _golden(control: Control, state: State, published: PublishedRelease, wanted: Format | None) -> GateResult:
    try:
        with control.triton() as client:
            if found := recover(control, client):
                control.say(found.words)
            opened = open_release(control.repository, published)
            return _ask_candidate(control, client, place(control, state, opened, wanted), published)
    except ServerError as error:
        return GateResult(
            golden.NAME, Verdict.INCONCLUSIVE, f"no server to ask: {error.problem}", {"remedy": error.remedy}
        )


def _ask_candidate(control: Control, client: Triton, placement: Placement, published: PublishedRelease) -> GateResult:
    served = served_name(published.model, CANDIDATE)
    control.repository.place(served, placement.slot)
    control.repository.configure(served, placement.config)
    try:
        control.say(f"Loading {served} ...")
        client.load(served, placement.slot)
        return Mover(control, client).certify(published.model, served, placement)
    except ServerError as error:
        return GateResult(golden.NAME, Verdict.ERROR, error.problem)
    finally:
        client.unload(served)
        control.repository.withdraw(served)


def place(control: Control, state: State, opened: OpenRelease, wanted: Format | None) -> Placement:
    """How a release would be served: its artifact and its whole configuration."""
    from policyctl.adapters.pbtxt import ServingOptions, render

    published, serving = opened.published, control.settings.serving
    chosen = opened.choose(wanted)
    options = ServingOptions(
        max_batch_size=serving.max_batch_size,
        max_queue_delay_us=serving.max_queue_delay_us,
        instances=serving.instances,
        gpu=serving.gpu,
        parameters=serving.parameters,
    )
    config = render(
        opened.contract,
        release=published.release,
        slot=published.slot,
        releases=state.slots(published.model),
        manifest_digest=published.manifest_digest,
        format=chosen,
        options=options,
    )
    return Placement(published.release, published.slot, published.manifest_digest, chosen, config)
