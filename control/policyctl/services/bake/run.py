"""Bake: watch a release after the switch, and take it back where it does harm.

What is owed stands in the journal: a promotion's intent declares its bake and
holds the incumbent's figures, and from its outcome on the bake is open until a
verdict keeps the release, or the alias has moved. So nothing that dies loses
it. The holder of the bake's lock carries it out: the promoting process,
or where that has gone, the supervisor of the embedded server
(`services.bake.keeper`), or the next `policyctl promote` of the same release.

While it is watched nobody holds the writer lock. A move by anybody else ends
the bake; the rollback asks under the writer lock whether the alias is still
where this very promotion brought it. A verdict is recorded before the rollback
that follows from it, so a process that dies between the two leaves it owed.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from policyctl.adapters import lock
from policyctl.adapters.pbtxt import identity
from policyctl.domain.bake import NAME, Baked, BakePlan, Baking, Figures, Then
from policyctl.domain.log_event import LogLevel
from policyctl.domain.moves import Move, Placement
from policyctl.domain.names import is_pin, served_name
from policyctl.domain.probes import AliasKey
from policyctl.domain.state import OpenBake
from policyctl.domain.statistics import spent
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import BusyError, MoveError, PolicyctlError
from policyctl.gates import bake as gate
from policyctl.services.bake.verdict import ended, keep, recorded
from policyctl.services.bake.watch import CLOCK, OWN, Watch, traffic_after, traffic_before
from policyctl.services.control import Control, operation
from policyctl.services.moves.rollback import rollback

LOOKS: Final = 100
"""At most, in a bake; each spends a part of the error probability."""
SHORTEST_LOOK_S: Final = 0.5
LOCK_WAIT_S: Final = 30.0
TELL_EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Watched:
    """The incumbent as it was watched, for the promotion that is about to replace it."""

    baking: Baking
    incumbent: Placement

    def for_move(self, incumbent: Placement | None) -> Baking | None:
        """What the promotion of an alias owes that names `incumbent` by now; None where there is nothing to go back to.

        Figures of a release that somebody replaced meanwhile are not the incumbent's.
        """
        if incumbent is None:
            return None
        same = identity(incumbent.config) == identity(self.incumbent.config)
        return self.baking if same else replace(self.baking, incumbent=None)


def plan_of(control: Control) -> BakePlan | None:
    """What the settings declare; None where there is to be no bake."""
    chosen = control.settings.bake
    if not chosen.for_s:
        return None
    return BakePlan(
        for_s=chosen.for_s,
        on_inconclusive=chosen.on_inconclusive,
        error_ratio=chosen.error_ratio,
        latency_ratio=chosen.latency_ratio,
        latency_floor_us=chosen.latency_floor_us,
        wrong_probes=chosen.wrong_probes,
    )


def steps(control: Control, key: AliasKey) -> tuple[str, ...]:
    """What a promotion would do after its switch, for a dry run."""
    plan = plan_of(control)
    if plan is None or is_pin(key[1]) or control.repository.journal.state().alias(*key) is None:
        return ()
    return (
        f"bake: watch {served_name(*key)} for {plan.for_s:g} s; roll back where it fails"
        + (", or where there is too little data" if plan.on_inconclusive is Then.ROLLBACK else ""),
    )


def watch_incumbent(control: Control, key: AliasKey, target: Placement) -> Watched | None:
    """Look at what is served now, before a promotion replaces it; nobody holds the writer lock meanwhile.

    Returns:
        None where there is to be no bake: it is off, the alias is a pin, names
        nothing that one could go back to, or names the target already.

    Raises:
        UnsupportedError: The settings name a Prometheus, and its client is not installed.
    """
    plan, current = plan_of(control), control.repository.journal.state().alias(*key)
    if plan is None or is_pin(key[1]):
        return None
    if current is None:
        control.tell(f"No bake: {key[1]} of {key[0]} names nothing that it could be rolled back to.")
        return None
    incumbent = current.placement
    if identity(incumbent.config) == identity(target.config):
        return None
    before_s = control.settings.bake.before_s
    traffic = traffic_before(control, key, incumbent, before_s=before_s)
    with Watch(control, key, incumbent, traffic) as watch:
        if traffic.name != OWN:
            before_s = 0.0
        else:
            control.tell(f"Watching {served_name(*key)} ({incumbent.release}) for {before_s:g} s before the switch ...")
        until = CLOCK.monotonic() + before_s
        watch.look()
        while (left := until - CLOCK.monotonic()) > 0:
            CLOCK.wait(threading.Event(), max(1e-3, min(SHORTEST_LOOK_S, left)))
            watch.look()
        figures = watch.figures()
    _warn_of_silence(control, served_name(*key), target.release, plan, figures)
    return Watched(Baking(plan, figures), incumbent)


def _warn_of_silence(control: Control, served: str, release: str, plan: BakePlan, figures: Figures) -> None:
    """Say before the switch that the bake will not tell anything, and how to choose what follows from that."""
    if not gate.foresees_too_little(plan, figures):
        return
    asks = f"{figures.requests} requests came for {served}" if figures.requests else f"no client asks {served}"
    then = (
        f"{release} stays then (bake.on_inconclusive is keep)."
        if plan.on_inconclusive is Then.KEEP
        else f"{release} is rolled back then (bake.on_inconclusive is rollback). To keep it: --on-inconclusive keep;"
        " to promote it without a bake: --no-bake."
    )
    words = f"WARNING {asks}: of so little the bake is inconclusive, unless more ask after the switch. {then}"
    control.tell(words, level=LogLevel.WARNING)


@operation("bake")
def carry_out(control: Control, key: AliasKey, move_id: str, *, stop: threading.Event | None = None) -> Baked | None:
    """Carry out the bake of one promotion, or follow the process that does.

    Args:
        control: The control plane; nobody holds its writer lock.
        key: Which alias.
        move_id: The promotion.
        stop: Set it to leave the bake to others.

    Returns:
        How it ended; None where `stop` was set before.

    Raises:
        MoveError: The release does not stay, and the rollback failed; it is still owed.
        PolicyctlError: The verdict could not be kept.
    """
    stop = stop or threading.Event()
    while not stop.is_set():
        found = control.repository.journal.state().bakes.get(key)
        if found is None or found.move.id != move_id:
            return ended(control, key, move_id)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.hold(lock_path(control, move_id), doing=f"bake {served_name(*key)}"))
            except BusyError:
                CLOCK.wait(stop, SHORTEST_LOOK_S)
                continue
            baked = _Bake(control, key, found, stop).run()
        sweep(control)
        return baked
    return None


def lock_path(control: Control, move_id: str) -> Path:
    """What the one who carries out the bake of a promotion holds."""
    return control.repository.control / "bakes" / f"{move_id}.lock"


def sweep(control: Control) -> None:
    """Remove the locks of bakes that are over."""
    # Listed first: what was there then and is not open now, is over.
    left = tuple((control.repository.control / "bakes").glob("*.lock"))
    still = {found.move.id for found in control.repository.journal.state().bakes.values()}
    for path in left:
        if path.stem not in still:
            path.unlink(missing_ok=True)


def end(control: Control, key: AliasKey) -> Baked | None:
    """End an open bake and keep the release, because a person says so; the caller holds the writer lock."""
    found = control.repository.journal.state().bakes.get(key)
    if found is None:
        return None
    result = GateResult(NAME, Verdict.INCONCLUSIVE, "ended by hand before its time", {"source": "a person"})
    return keep(control, found, result, Then.KEEP, 0.0)


@dataclass(slots=True)
class _Bake:
    """One open bake, for the process that holds its lock."""

    control: Control
    key: AliasKey
    open: OpenBake
    stop: threading.Event
    _records: int = -1
    _looks: int = 0

    @property
    def _plan(self) -> BakePlan:
        return self._baking.plan

    @property
    def _baking(self) -> Baking:
        if self.open.move.bake is None:
            raise AssertionError("a bake that is open was declared")
        return self.open.move.bake

    def run(self) -> Baked | None:
        """Watch, record the verdict, and roll back if it says so."""
        if said := recorded(self.control, self.open.move.id):
            return self._roll_back(said)
        began = CLOCK.monotonic()
        result = self._watch()
        if result is None:
            return None if self._is_open(afresh=True) else ended(self.control, self.key, self.open.move.id)
        keeps = result.verdict is Verdict.PASSED or (
            result.verdict is not Verdict.FAILED and self._plan.on_inconclusive is Then.KEEP
        )
        seconds = round(CLOCK.monotonic() - began, 3)
        with self.control.repository.writer(f"verdict of the bake of {served_name(*self.key)}", wait_s=LOCK_WAIT_S):
            if not self._is_open(afresh=True):
                return ended(self.control, self.key, self.open.move.id)
            baked = keep(self.control, self.open, result, Then.KEEP if keeps else Then.ROLLBACK, seconds)
        self.control.tell(f"Gate {NAME}: {result.verdict}. {result.reason}. Source: {baked.source}.")
        return baked if keeps else self._roll_back(baked)

    def _watch(self) -> GateResult | None:
        """The verdict; None where somebody else moved the alias, or `stop` was set."""
        move, plan, before = self.open.move, self._plan, self._baking.incumbent
        since = datetime.fromisoformat(self.open.since)
        scraped = before is not None and before.source != OWN
        traffic = traffic_after(
            self.control, self.key, move.target, scraped=scraped, since=since.timestamp(), for_s=plan.for_s
        )
        # What went by before somebody took over has been spent, seen or not.
        gone_s = min(max(0.0, (datetime.now(UTC) - since).total_seconds()), plan.for_s)
        began, said, fraction = CLOCK.monotonic(), CLOCK.monotonic(), 0.0
        self.control.tell(
            f"Baking {move.served} ({move.target.release}) for {plan.for_s - gone_s:.0f} s, by {traffic.name}"
            " and golden probes ..."
        )
        with Watch(self.control, self.key, move.target, traffic) as watch:
            while not self.stop.is_set() and self._is_open():
                watch.look()
                elapsed_s = gone_s + CLOCK.monotonic() - began
                last, fraction = fraction, min(1.0, elapsed_s / plan.for_s)
                alpha = spent(fraction, alpha=gate.ALPHA) - spent(last, alpha=gate.ALPHA)
                self._looks += 1
                figures = watch.figures()
                found = gate.judge(plan, before, figures, alpha=alpha, is_over=elapsed_s >= plan.for_s)
                if found is not None:
                    return replace(found, evidence={**found.evidence, "looks": self._looks, "fraction": fraction})
                if CLOCK.monotonic() - said >= TELL_EVERY_S:
                    said = CLOCK.monotonic()
                    self.control.tell(_progress(move, plan, elapsed_s, figures))
                pause_s = max(SHORTEST_LOOK_S, plan.for_s / LOOKS)
                CLOCK.wait(self.stop, max(1e-3, min(pause_s, plan.for_s - elapsed_s)))
        return None

    def _is_open(self, *, afresh: bool = False) -> bool:
        """Whether the alias is still where this promotion brought it; folds a journal that has grown alone."""
        records = len(self.control.repository.journal.records())
        if records == self._records and not afresh:
            return True
        self._records = records
        found = self.control.repository.journal.state().bakes.get(self.key)
        return found is not None and found.move.id == self.open.move.id

    def _roll_back(self, baked: Baked) -> Baked:
        model, alias = self.key
        reason = f"bake {baked.verdict}: {baked.reason}; evidence {baked.evidence}"
        deadline = CLOCK.monotonic() + LOCK_WAIT_S
        while True:
            try:
                moved = rollback(self.control, model=model, alias=alias, reason=reason, baking=self.open.move.id)
            except BusyError as error:
                if not self._is_open(afresh=True):
                    return ended(self.control, self.key, self.open.move.id)
                if self.stop.is_set() or CLOCK.monotonic() >= deadline:
                    raise
                self.control.tell(f"The rollback of {served_name(*self.key)} waits: {error.problem}.")
                CLOCK.wait(self.stop, SHORTEST_LOOK_S)
            except PolicyctlError as error:
                raise MoveError(
                    f"the bake of {model} {self.open.move.target.release} {baked.verdict} ({baked.reason}),"
                    f" and the rollback failed: {error.problem}",
                    remedy=f"It is still owed; the server tries again. Or: policyctl rollback {model} --to RELEASE."
                    f" {error.remedy}",
                ) from error
            else:
                self.control.tell(f"Rolled back: {alias} of {model} is {moved.move.target.release} again.")
                return baked


def _progress(move: Move, plan: BakePlan, elapsed_s: float, figures: Figures) -> str:
    return (
        f"Baking {move.served}: {elapsed_s:.0f} of {plan.for_s:.0f} s, {figures.failed} of {figures.requests} requests"
        f" failed, {figures.probes.answered} of {figures.probes.asked} probes right."
    )
