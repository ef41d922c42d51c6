"""Whether a caller can go on asking, unchanged, when another release is served.

A caller is written for one contract: the one by which its first question was
answered. A later release may add to it, and may drop what this caller never
uses. Where a shape, a bound of the action or the meaning of an element changed,
no action is handed out, for the caller would read it wrongly.

The rule is the same in both directions, so a rollback to a release that adds
less stops nobody who does not use the addition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from policyctl.client.errors import IncompatibleReleaseError, StaleError
from policyctl.domain.compatibility import Difference, compare
from policyctl.domain.contract import Contract, Distribution
from policyctl.domain.tensor import TensorSpec
from policyctl.domain.versions import Bump
from policyctl.errors import ServerError

if TYPE_CHECKING:
    from policyctl.client.served import Served


class Agreement:
    """What the callers of one client work by, at whichever server; safe to share between threads."""

    def __init__(self) -> None:
        self.release: Served | None = None
        """The release that the callers work by; None before the first answer."""
        self.generation = 0
        """The latest generation of the alias that answered; 0 where no server names one."""
        self._compatible: frozenset[tuple[str, str, tuple[str, ...], bool]] = frozenset()
        self._lock = threading.Lock()

    def admits(
        self,
        served: Served,
        outputs: tuple[str, ...],
        *,
        deterministic: bool,
        fits: Callable[[Served], bool],
    ) -> bool:
        """Whether a question that fits `served` replaces the agreement once it is answered.

        Args:
            served: The release that is about to be asked.
            outputs: Names of the outputs that the question needs.
            deterministic: Whether the action is taken as it is, or drawn.
            fits: Whether the question fits another release. One that fits
                `served` alone comes from a caller who knows the new contract.

        Raises:
            IncompatibleReleaseError: The question was made for a contract that means something else.
        """
        before = self.release
        if before is None:
            return True
        if served is before or served.contract == before.contract:
            return False
        use = (served.release, served.manifest_digest, outputs, deterministic)
        if use in self._compatible:
            return False
        grave = breaking(before.contract, served.contract, outputs, deterministic=deterministic)
        if not grave:
            self._compatible |= {use}
            return False
        if fits(before):
            raise incompatible(before, served, "; ".join(difference.words for difference in grave))
        return True

    def see(self, generation: int) -> None:
        """An answer of `generation` was accepted: what is asked from now on must not be answered by anything older.

        Questions that other threads have under way meanwhile are answered all the same.
        """
        if generation > self.generation:
            with self._lock:
                self.generation = max(self.generation, generation)

    def replace(self, served: Served) -> None:
        """From now on the callers work by `served`."""
        self.release, self._compatible = served, frozenset()


def is_older(generation: int, seen: int, *, final: bool) -> bool:
    """Whether an answer is thrown away, because it is older than what its client had seen when it asked.

    Args:
        generation: Of the answer, or the one that the server's configuration named before.
        seen: By the client.
        final: Asking this server again would not help.

    Raises:
        StaleError: It is, and `final`.
        ServerError: It has another form.
    """
    if not isinstance(generation, int):
        raise ServerError(
            f"the answer names generation {generation!r}, expected a whole number",
            remedy="Do not act on it. Look for a proxy that changes answers.",
        )
    if generation < seen and final:
        said = f"generation {generation}" if generation else "no generation"
        raise StaleError(
            f"the answer names {said} of the alias, this client has seen {seen}",
            remedy="Ask another node, or this one once it has read the store: policyctl status. Where the fleet has"
            " a new store, make a new client.",
        )
    return generation < seen


def incompatible(before: Served, served: Served, why: str) -> IncompatibleReleaseError:
    """The error for a question that fitted `before` and does not fit `served`."""
    return IncompatibleReleaseError(
        f"release {served.release} is served now, and its contract breaks that of {before.release},"
        f" by which this client works: {why}",
        remedy=f"Take a safe action. Then roll back (policyctl rollback), or make a new client for {served.release}.",
    )


def breaking(
    before: Contract, after: Contract, outputs: tuple[str, ...], *, deterministic: bool
) -> tuple[Difference, ...]:
    """What a caller of `before` would read wrongly, or could not ask, under `after`; outputs that nobody asks for
    do not count.

    Args:
        before: The contract that the caller knows.
        after: The contract that is served.
        outputs: Names of the outputs that the caller needs.
        deterministic: Whether the action is taken as it is, or drawn.
    """
    used = {before.action.name, *outputs}
    pair = (_as_used(before, after, used, deterministic), _as_used(after, before, used, deterministic))
    return tuple(difference for difference in compare(*pair) if difference.needs is Bump.MAJOR)


def _as_used(contract: Contract, other: Contract, used: set[str], deterministic: bool) -> Contract:
    """`contract` without what a caller never meets: memory, and bounds and roles of observations."""
    read = used - {state.output for state in contract.states}
    return replace(
        contract,
        observations=tuple(replace(_named(s, other), low=None, high=None, role=None) for s in contract.environment),
        outputs=tuple(_named(s, other) for s in contract.outputs if s.name in read),
        distribution=Distribution() if deterministic else contract.distribution,
        states=(),
        drive=contract.drive if other.drive is not None else None,
        histories=tuple(h for h in contract.histories if h.observation in {o.observation for o in other.histories}),
    )


def _named(spec: TensorSpec, other: Contract) -> TensorSpec:
    """`spec` with names and units for its elements only where `other` has them as well."""
    twin = next((s for s in (*other.observations, *other.outputs) if s.name == spec.name), None)
    if twin is None or twin.size != spec.size:
        return replace(spec, features=(), units="")
    pairs = zip(spec.each_unit, twin.each_unit, strict=True)
    units = spec.units if spec.units == twin.units else tuple(unit if known else "" for unit, known in pairs)
    return replace(spec, features=spec.features if twin.features else (), units=units)
