"""Promote: move an alias to a release, and watch it there.

The release is read once, before the writer lock is taken; the gates, the mover
and the certification work with what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from policyctl.adapters.pbtxt import identity, with_generation
from policyctl.adapters.triton import Triton
from policyctl.domain import moves
from policyctl.domain.artifacts import Format
from policyctl.domain.compatibility import Difference
from policyctl.domain.contract import Contract
from policyctl.domain.moves import Move, MoveKind, Placement
from policyctl.domain.names import check_alias, check_model_name, check_movable_alias, is_pin, pin_name
from policyctl.domain.probes import AliasKey
from policyctl.domain.state import State
from policyctl.services.control import Control, OpenRelease, open_release, operation, select_release
from policyctl.services.machine.memory_headroom import require_room
from policyctl.services.moves import swaps
from policyctl.services.moves.certify import is_certified_here
from policyctl.services.moves.contract_change import require_compatible
from policyctl.services.moves.drain import Drain
from policyctl.services.moves.incumbent import require_incumbent
from policyctl.services.moves.moved import Moved, describe, fresh_move_id, incumbent_of, new_move
from policyctl.services.moves.mover import execute
from policyctl.services.moves.recovery import recover
from policyctl.services.moves.serve_again import names_already, serve_again
from policyctl.services.moves.validate import place, require_offline, require_passed, validate
from policyctl.services.releases.numbers import contracts_of
from policyctl.services.trust.signatures import require_signed

if TYPE_CHECKING:
    from policyctl.services.bake.run import Watched


@operation("promote")
def promote(
    control: Control,
    *,
    model: str,
    release: str,
    alias: str,
    format: Format | None = None,  # noqa: A002
    reason: str = "",
    dry_run: bool = False,
    gates: Sequence[str] | None = None,
    move_id: str = "",
    bake: bool = True,
    breaking: bool = False,
    drain_s: float | None = None,
    await_drain: bool = True,
    incumbent: str | None = None,
    generation: int = 0,
) -> Moved:
    """Move `alias` of `model` to `release`, losing no request, and watch it there as the settings' bake says.

    Where the alias names the release already, a bake that is still owed is carried out.

    Args:
        control: The control plane.
        model: Which model.
        release: Selects what the alias is to name (`State.select`).
        alias: Which alias; a pin's is the release's own number.
        format: Which artifact to serve; None for the first of the usual order.
        reason: Why, kept in the journal.
        dry_run: Say what would be done; measures and changes nothing.
        gates: Measuring gates that must pass first (`performance.NAMES`), besides
            those that always must; None for those of the settings.
        move_id: Names the move in the journal, where the caller finds it by this id; empty for a fresh one.
        bake: Whether to watch it after the switch, as the settings say.
        breaking: Whether its contract may break the incumbent's, so that clients of that get no action from it.
        drain_s: How long at most the incumbent stays reachable under its number, for episodes that began on it;
            0 for not. None for the settings', where the incumbent has memory.
        await_drain: Whether to return only when the drain is over; the supervisor ends it in any case.
        incumbent: The release that the alias must name until the move begins; empty for none, None for any.
        generation: Of the alias in the fleet that this server follows; its answers name it.

    Raises:
        UsageError: No such release, alias or format.
        IntegrityError: A file is not what was published, or no trusted key signed it and the settings ask for that.
        GateError: A gate did not pass, or the release breaks the incumbent's contract; nothing was changed.
        ServerError: No server answers; nothing was changed.
        BusyError: Another writer is at work, or the alias names another release than `incumbent`.
        MoveError: It failed, and the incumbent was kept; or the bake's rollback failed, and is owed.
        UnsupportedError: Memory does not suffice; nothing was changed.
    """
    check_model_name(model)
    check_alias(alias)
    release = select_release(control, model, release)
    if alias != pin_name(release):
        check_movable_alias(alias)
    move_id = move_id or fresh_move_id()
    wanted = _Promotion(model, release, alias, format, reason, move_id, bake, breaking, drain_s, incumbent, generation)
    opened = wanted.open(control)
    chosen = control.settings.gates.promote_with if gates is None else gates
    if chosen and not dry_run:
        # What measures is imported where it is wanted: a rollback must be quick.
        from policyctl.services.measure.performance import checks

        measured = checks(control, chosen, model=model, release=release, alias=alias)
        results = validate(control, model=model, release=release, format=format, checks=measured, opened=opened)
        require_passed(results, model, release)
    watched = None if dry_run else wanted.watch_incumbent(control, opened)
    doing, stop = f"promote {model} {release} to {alias}", f"policyctl abort {model}"
    with control.repository.writer(doing, wait_s=control.settings.lock_wait_s, stop=stop), control.triton() as client:
        recovered = None if dry_run else recover(control, client, model)
        moved, drain = wanted.carry_out(control, client, opened, watched, dry_run=dry_run)
        owed = control.repository.journal.state().bakes.get((model, alias))
    moved = replace(moved, recovered=recovered)
    if bake and owed is not None and not dry_run:
        from policyctl.services.bake.run import carry_out

        moved = replace(moved, bake=carry_out(control, (model, alias), owed.move.id))
    # A supervisor ends the drain while the release bakes: what may do harm is watched first.
    return moved if drain is None or not await_drain else replace(moved, drain=drain.wait())


@dataclass(frozen=True, slots=True)
class _Promotion:
    """What is wanted of a promotion, once its names are known to be right."""

    model: str
    release: str
    alias: str
    format: Format | None
    reason: str
    move_id: str
    bake: bool
    breaking: bool
    drain_s: float | None
    incumbent: str | None
    generation: int

    @property
    def _key(self) -> AliasKey:
        return (self.model, self.alias)

    def open(self, control: Control) -> OpenRelease:
        """Read the release once for the whole command, where a promotion to it is allowed.

        Its signatures, its contract and the incumbent are looked at again under the lock: a key may be revoked, the
        alias may move meanwhile. Its files are not: the backends compile only bytes that have the pinned digests.
        """
        state = control.repository.journal.state()
        self._require_incumbent(control, state)
        published = state.release(self.model, self.release)
        require_signed(control, state, published)
        contract = contracts_of(state, self.model)(self.release)
        self._require_compatible(incumbent_of(state, self.model, self.alias), contract)
        return open_release(control.repository, published)

    def _require_incumbent(self, control: Control, state: State) -> None:
        require_incumbent(control, state, model=self.model, alias=self.alias, incumbent=self.incumbent)

    def _require_compatible(self, incumbent: Placement | None, contract: Contract) -> tuple[Difference, ...]:
        return require_compatible(
            incumbent, contract, model=self.model, alias=self.alias, release=self.release, breaking=self.breaking
        )

    def watch_incumbent(self, control: Control, opened: OpenRelease) -> Watched | None:
        """How the incumbent does before the switch; None where there is to be no bake."""
        if not self.bake or not control.settings.bake.for_s:
            return None
        from policyctl.services.bake.run import watch_incumbent

        target = place(control, control.repository.journal.state(), opened, self.format)
        return watch_incumbent(control, self._key, target)

    def carry_out(
        self, control: Control, client: Triton, opened: OpenRelease, watched: Watched | None, *, dry_run: bool
    ) -> tuple[Moved, Drain | None]:
        """Move the alias, or say how; the caller holds the writer lock, and waits for the drain without it."""
        state = control.repository.journal.state()
        self._require_incumbent(control, state)
        published = state.release(self.model, self.release)
        require_signed(control, state, published)
        target = place(control, state, opened, self.format, generation=self.generation)
        kind = MoveKind.PIN if is_pin(self.alias) else MoveKind.PROMOTION
        move = new_move(state, kind, self.model, self.alias, target, self.reason, self.move_id)
        if names_already(move) and not self._drains(state):
            return self._stay(control, client, opened, move, dry_run=dry_run), None
        changes = self._require_compatible(move.incumbent, opened.contract)
        renews = _renews(client, state, move)
        if not renews:
            require_room(control, client, state, move, opened)
        require_offline(control, state, opened, record=not dry_run)
        measured = (
            () if move.incumbent is None else swaps.require_safe(control, client, opened, target, dry_run=dry_run)
        )
        moved = Moved(move, changed=True, differences=changes)
        drain = Drain.of(control, client, state, move, self.drain_s)
        if dry_run:
            from policyctl.services.bake.run import steps

            planned = (*measured, *drain.steps, *describe(moves.plan(move)), *steps(control, self._key))
            return replace(moved, steps=planned), None
        if watched is not None:
            move = replace(move, bake=watched.for_move(move.incumbent))
        with drain.during(move):
            if drain.pin is not None:
                require_room(control, client, state, move, opened)  # now that the pin has its memory
            timings = execute(control, client, move, opened=opened, certified_here=renews)
        return replace(moved, move=move, timings=timings), drain

    def _drains(self, state: State) -> bool:
        """Whether the alias is a pin that ends by itself: who pins it for good moves it, to the same release."""
        named = state.alias(*self._key)
        return named is not None and named.drain_s is not None

    def _stay(self, control: Control, client: Triton, opened: OpenRelease, move: Move, *, dry_run: bool) -> Moved:
        """The alias names the release already: see that it answers, and end a bake where none is wanted."""
        if dry_run:
            return Moved(move, changed=False)
        moved = Moved(move, changed=False, loaded_again=serve_again(control, client, move, opened))
        if self.bake:
            return moved
        from policyctl.services.bake.run import end

        return replace(moved, bake=end(control, self._key))


def _renews(client: Triton, state: State, move: Move) -> bool:
    """Whether only the generation changes, of what this very server has certified: then no candidate is needed."""
    incumbent = move.incumbent
    if incumbent is None or not is_certified_here(state, client, move.model, incumbent):
        return False
    before, after = (identity(with_generation(side.config, 0)) for side in (incumbent, move.target))
    return before == after
