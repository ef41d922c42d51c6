"""A release loaded next to what serves, asked, and withdrawn again.

Every gate that needs a server asks a candidate: the release under a name of
its own, in the very configuration that its alias would have, so no client gets
an answer from it and no alias moves. Whatever happens while it is asked, it is
withdrawn; what a kill leaves, `moves.recover` sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.adapters.pbtxt import max_batch_size
from policyctl.adapters.triton import Triton
from policyctl.domain.moves import Placement
from policyctl.domain.names import CANDIDATE, served_name
from policyctl.domain.state import PublishedRelease, State
from policyctl.domain.verdict import GateResult
from policyctl.errors import ServerError
from policyctl.services.control import Control, OpenRelease, asker
from policyctl.services.moves.mover import withdraw_candidate

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ServedSlot:
    """One served slot that answers batches of any size.

    Attributes:
        client: The server.
        served: The Triton model.
        placement: What must answer under that name.
    """

    client: Triton
    served: str
    placement: Placement

    def __call__(self, observations: Arrays, outputs: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """Ask for `outputs`, in pieces that the configuration allows.

        Args:
            observations: By input name, each of shape (n, *spec.shape), n >= 1.
            outputs: By name.

        Raises:
            ServerError: No answer, or one from another slot.
        """
        ask = asker(self.client, self.served)
        rows = len(next(iter(observations.values())))
        size = max(1, max_batch_size(self.placement.config))
        parts = []
        for start in range(0, rows, size):
            slot, answer = ask({k: a[start : start + size] for k, a in observations.items()}, outputs)
            if slot != self.placement.slot:
                raise ServerError(
                    f"{self.served}: slot {slot} answered, expected {self.placement.slot}",
                    remedy="Somebody changed what is served meanwhile. See: policyctl status",
                )
            parts.append(answer)
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release that is loaded to be judged.

    Attributes:
        control: The control plane.
        state: What the journal says.
        opened: The release, read and verified.
        ask: Asks it.
    """

    control: Control
    state: State
    opened: OpenRelease
    ask: ServedSlot

    @property
    def published(self) -> PublishedRelease:
        """What the journal says of the release."""
        return self.opened.published

    def incumbent(self, alias: str) -> ServedSlot | None:
        """What `alias` serves now; None where it names nothing."""
        named = self.state.alias(self.published.model, alias)
        if named is None:
            return None
        return ServedSlot(self.ask.client, served_name(self.published.model, alias), named.placement)


Check = Callable[[Candidate], GateResult]
"""A gate that asks the loaded candidate. Not being able to judge is a verdict, not an exception."""


@contextmanager
def loaded(
    control: Control, client: Triton, state: State, opened: OpenRelease, placement: Placement
) -> Iterator[Candidate]:
    """Load a release as the model's candidate, for as long as the block runs.

    The caller holds the writer lock and has certified nothing yet.

    Raises:
        ServerError: The server refuses to load it.
    """
    served = served_name(opened.published.model, CANDIDATE)
    control.repository.place(served, placement.slot)
    control.repository.configure(served, placement.config)
    try:
        with control.working(f"Loading {served}", at_most_s=control.settings.server.load_timeout_s):
            client.load(served, placement.slot)
        yield Candidate(control, state, opened, ServedSlot(client, served, placement))
    finally:
        withdraw_candidate(control, client, served)
