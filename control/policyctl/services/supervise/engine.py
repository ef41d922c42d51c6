"""What the supervisor knows about its Triton: one run of a server, from start to stop.

`services.supervise.engines` has the engines that are ours, `services.supervise.external` the one
that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from policyctl.adapters.endpoint import Endpoint
from policyctl.domain.choices import Engine as Kind
from policyctl.serving.logs import OnLog


@dataclass(frozen=True, slots=True)
class Manner:
    """What the supervisor may do with an engine, and its words for it.

    Attributes:
        ours: A server that never came up is an error: nobody else will mend it.
        shares_memory: Clients' shared memory is in the ``/dev/shm`` of this process.
        silent: Said when it does not answer.
        ended: Said when the run is over; ``{why}`` is where the engine knows more.
        again: Said before another try, with a time after it.
        longest_pause_s: Between two tries. Starting costs, asking does not.
        patience: How many times as long as the wheel's server it may take to answer.
    """

    kind: Kind
    ours: bool
    shares_memory: bool
    silent: str
    ended: str
    again: str
    longest_pause_s: float = 30.0
    patience: int = 1


class Engine(Protocol):
    """One run of a server; started once, stopped once."""

    @property
    def manner(self) -> Manner:
        """What the supervisor may do with it."""

    def start(self) -> None:
        """Begin the run.

        Raises:
            ServerError: It cannot be begun.
        """

    def wait(self, timeout_s: float) -> None:
        """Return once the server answers.

        Raises:
            ServerError: It ended, or did not answer in time.
        """

    def is_running(self, served: Collection[str]) -> bool:
        """Whether it is still this run (which says nothing about its answers).

        Args:
            served: Triton models that should be loaded in it.
        """

    def ended(self) -> tuple[str, int | None]:
        """How the run ended: words, and an exit code where there is one."""

    def stop(self) -> None:
        """End the run and leave nothing behind."""

    def endpoint(self) -> Endpoint:
        """Where it answers, with an id that names this run."""


Launch = Callable[[OnLog], Engine]
"""Makes the engine of one run."""
