"""Validate: run the gates on a release and keep their evidence.

`integrity` and `parity` need no server. `golden` does: the release is loaded
as a candidate next to what serves, asked, and withdrawn; no alias moves.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext

from policyctl.adapters.triton import Triton
from policyctl.domain.artifacts import PARITY_FILE, Format
from policyctl.domain.moves import Placement
from policyctl.domain.state import PublishedRelease, State
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import GateError, IntegrityError, ServerError
from policyctl.gates import golden, integrity, parity
from policyctl.services.control import Control, OpenRelease, open_release, preferred_format, select_release
from policyctl.services.evidence import record_gate
from policyctl.services.moves.candidate import Check, loaded
from policyctl.services.moves.certify import certify
from policyctl.services.moves.measurement_lock import measuring
from policyctl.services.moves.recovery import recover
from policyctl.services.moves.serving_options import serving_options

OFFLINE = (integrity.NAME, parity.NAME)
"""Gates that must have passed before a promotion starts; `golden` is part of the promotion itself."""


def validate(
    control: Control,
    *,
    model: str,
    release: str,
    format: Format | None = None,  # noqa: A002
    checks: Sequence[tuple[str, Check]] = (),
    opened: OpenRelease | None = None,
) -> tuple[GateResult, ...]:
    """Run every gate on a release.

    Args:
        control: The control plane.
        model: Which model.
        release: Selects the release (`State.select`).
        format: Which artifact to load; None for the one that a promotion would choose.
        checks: More gates by name, asked of the loaded candidate once it has passed `golden`.
        opened: The release, where the caller has read it already.

    Raises:
        UsageError: No such release or format.
        BusyError: Another writer is at work, or another process measures.
    """
    release = select_release(control, model, release)
    doing = f"validate {model} {release}"
    with (
        measuring(control, doing) if checks else nullcontext(),
        control.repository.writer(doing, wait_s=control.settings.lock_wait_s),
    ):
        state = control.repository.journal.state()
        published = state.release(model, release)
        try:
            opened = opened or open_release(control.repository, published)
        except IntegrityError as error:
            broken = integrity.failed(error.problem, manifest_digest=published.manifest_digest)
            return _keep(control, published, [broken])
        results = list(_keep(control, published, offline(opened)))
        if all(r.verdict is Verdict.PASSED for r in results):
            # Closed at once if keeping evidence fails, so that the candidate is withdrawn in any case.
            with closing(_on_the_server(control, state, opened, format, checks)) as more:
                for result in more:
                    results += _keep(control, published, [result])
    return tuple(results)


def offline(opened: OpenRelease) -> tuple[GateResult, ...]:
    """What the gates say that need no server."""
    digests = {file.path: file.digest for file in opened.files}
    return (
        integrity.passed(opened.files, manifest_digest=opened.published.manifest_digest),
        parity.run(opened.contents[PARITY_FILE], formats=opened.formats, digests=digests),
    )


def _keep(
    control: Control, published: PublishedRelease, results: Sequence[GateResult], *, record: bool = True
) -> tuple[GateResult, ...]:
    """Keep the evidence, unless this is a dry run, and say the verdicts."""
    for result in results:
        if record:
            record_gate(control, published, result)
        control.say(f"Gate {result.gate}: {result.verdict}. {result.reason}.")
    return tuple(results)


def require_offline(control: Control, state: State, opened: OpenRelease, *, record: bool = True) -> None:
    """Refuse a release whose gates have not passed; run those that have not run yet.

    Args:
        control: The control plane.
        state: What the journal says.
        opened: The release.
        record: Keep their evidence; the caller holds the writer lock. A dry run does not.

    Raises:
        GateError: A gate did not pass.
    """
    published = opened.published
    recorded = (state.gates.get((published.model, published.release, gate)) for gate in OFFLINE)
    if not all(
        gate is not None and gate.verdict is Verdict.PASSED and gate.manifest_digest == published.manifest_digest
        for gate in recorded
    ):
        results = _keep(control, published, offline(opened), record=record)
        require_passed(results, published.model, published.release)


def require_passed(results: Sequence[GateResult], model: str, release: str) -> None:
    """Refuse a release of which a gate said anything but passed.

    Raises:
        GateError: One did; names the first.
    """
    for result in results:
        if result.verdict is not Verdict.PASSED:
            remedy = str(result.evidence.get("remedy") or "Publish a release that passes, or restore the files.")
            raise GateError(
                f"{model} {release}: gate {result.gate} {result.verdict}: {result.reason}",
                remedy=f"Nothing was changed. {remedy}",
            )


def _on_the_server(
    control: Control,
    state: State,
    opened: OpenRelease,
    wanted: Format | None,
    checks: Sequence[tuple[str, Check]],
) -> Generator[GateResult, None, None]:
    """The gates that ask the loaded release; each result as soon as it is known.

    Every gate has a verdict: one that could not run because an earlier one did
    not pass is inconclusive.
    """
    waiting = [golden.NAME, *(name for name, _ in checks)]
    try:
        with control.triton() as client:
            for result in _ask_candidate(control, client, state, opened, wanted, checks):
                waiting.remove(result.gate)
                yield result
    except ServerError as error:
        # Before the first answer there was no server to judge by; after it, something broke.
        verdict = Verdict.INCONCLUSIVE if waiting[:1] == [golden.NAME] else Verdict.ERROR
        said = "no server to ask" if verdict is Verdict.INCONCLUSIVE else "the server stopped answering"
        for name in waiting:
            yield GateResult(name, verdict, f"{said}: {error.problem}", {"remedy": error.remedy})


def _ask_candidate(
    control: Control,
    client: Triton,
    state: State,
    opened: OpenRelease,
    wanted: Format | None,
    checks: Sequence[tuple[str, Check]],
) -> Generator[GateResult, None, None]:
    if recovered := recover(control, client, opened.published.model):
        control.say(recovered.words)
    placement = place(control, state, opened, wanted)
    certified = None
    try:
        with loaded(control, client, state, opened, placement) as candidate:
            certified = certify(control, client, opened, candidate.ask.served, placement)
            yield certified
            for name, check in checks:
                if certified.verdict is Verdict.PASSED:
                    yield check(candidate)
                else:
                    yield GateResult(name, Verdict.INCONCLUSIVE, "not asked: the release is not certified")
    except ServerError as error:
        if certified is not None:
            raise
        yield GateResult(golden.NAME, Verdict.ERROR, error.problem)
        for name, _ in checks:
            yield GateResult(name, Verdict.INCONCLUSIVE, "not asked: the release could not be loaded")


def place(
    control: Control, state: State, opened: OpenRelease, wanted: Format | None, *, generation: int = 0
) -> Placement:
    """How a release would be served: its artifact and its whole configuration."""
    from policyctl.adapters.pbtxt import render

    published = opened.published
    chosen = opened.choose(wanted or preferred_format(control, opened))
    config = render(
        opened.contract,
        release=published.release,
        slot=published.slot,
        releases=state.slots(published.model),
        manifest_digest=published.manifest_digest,
        format=chosen,
        options=serving_options(control.settings.serving, state.tuned.get(published.model, {})),
        generation=generation,
    )
    return Placement(published.release, published.slot, published.manifest_digest, chosen, config)
