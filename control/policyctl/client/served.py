"""What a server says about a model that it serves, and what a client keeps of it.

The contract and the names of the releases travel in the `parameters` of the
model's configuration, so that a client needs the server and nothing else. A
slot belongs to one release for ever, so what was learnt of a slot stays true;
which slot is *current* does not.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policyctl.client.agreement import Agreement
from policyctl.client.errors import IncompatibleReleaseError
from policyctl.client.form import Form
from policyctl.domain.contract import Contract
from policyctl.domain.versions import Range
from policyctl.errors import ServerError, UsageError


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The part of a Triton model configuration that a client reads.

    Attributes:
        parameters: The `string_value` of each parameter.
        max_batch: `max_batch_size`; 0 where Triton does not batch.
    """

    parameters: Mapping[str, str]
    max_batch: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelConfig:
        """From the answer of ``/v2/models/M/config``."""
        parameters = {
            str(key): str(value.get("string_value", "")) for key, value in (data.get("parameters") or {}).items()
        }
        return cls(parameters, int(data.get("max_batch_size", 0)))


@dataclass(frozen=True, slots=True)
class Served:
    """One release, as a server serves it.

    Attributes:
        contract: What it takes and gives.
        release: Its name.
        releases: Release of each slot that this server may answer with.
        manifest_digest: What identifies its files.
        max_batch: Most rows in one request; 0 for no limit.
        generation: Of the alias in a fleet, when this was read; 0 outside a fleet.
        forms: What questions of each kind send and expect, worked out once.
    """

    contract: Contract
    release: str
    releases: Mapping[int, str]
    manifest_digest: str
    max_batch: int
    generation: int = 0
    forms: dict[tuple[bool, tuple[str, ...]], Form] = field(default_factory=dict, compare=False, repr=False)

    @property
    def identity(self) -> tuple[str, str]:
        """Which release it is, and of which bytes."""
        return self.release, self.manifest_digest

    def form(self, *, deterministic: bool, outputs: tuple[str, ...]) -> Form:
        """What a question sends and expects.

        Args:
            deterministic: The policy's best action, else a drawn one.
            outputs: What else is asked for.

        Raises:
            UsageError: The policy has no such output, or nothing to draw from.
        """
        key = (deterministic, outputs)
        if (known := self.forms.get(key)) is None:
            known = self.forms[key] = Form.of(self.contract, self.release, deterministic, outputs)
        return known

    @classmethod
    def from_config(cls, model: str, config: ModelConfig) -> Served:
        """Read the parameters that the serving side writes.

        Raises:
            ServerError: A parameter is missing or not readable: the model was
                not put there by policyctl, or by a later one.
        """
        try:
            releases = json.loads(config.parameters["releases"])
            return cls(
                contract=Contract.from_json(json.loads(config.parameters["contract"])),
                release=config.parameters["release"],
                releases={int(slot): str(release) for slot, release in releases.items()},
                manifest_digest=config.parameters.get("manifest_digest", ""),
                max_batch=config.max_batch,
                generation=int(config.parameters.get("generation", 0)),
            )
        except (KeyError, ValueError, AttributeError, UsageError) as error:
            raise ServerError(
                f"model {model} has no readable contract and releases in its configuration: {error!r}",
                remedy="Ask for a model that policyctl serves: policyctl status lists them.",
            ) from error


class Memory:
    """What one client knows; safe to share between threads.

    A torn read cannot happen: `current` is one reference, and entries of a
    slot are added whole and never changed.

    Args:
        requires: Which releases the client can do with; None for any. It is
            asked when a release is learnt, once for each; whatever is kept here
            satisfies it, and no answer is read by anything else. So it costs
            nothing where nothing moves.
        agreement: What the client's callers work by, at whichever server.
    """

    def __init__(self, requires: Range | None = None, agreement: Agreement | None = None) -> None:
        self._requires = requires
        self._lock = threading.Lock()
        self._by_slot: dict[int, Served] = {}
        self.current: Served | None = None
        """What the server served when it was last asked; None if never."""
        self.agreement = agreement or Agreement()
        self.answers_tell_timing = False
        self.proven = 0
        """The generation that the server's configuration named: its later answers are of no older one."""

    def of_slot(self, slot: int) -> Served | None:
        """What is known of the release in `slot`."""
        return self._by_slot.get(slot)

    def remember(self, model: str, served: Served) -> None:
        """Make `served` the current one.

        Raises:
            IncompatibleReleaseError: It is not one that the client can do with; nothing is learnt.
        """
        if self._requires is not None and not self._requires.matches(served.release):
            raise IncompatibleReleaseError(
                f"{model} is served by {served.release}, this client requires {self._requires}",
                remedy="Ask an alias or a pinned release that satisfies it (policyctl pin), roll back, or use a client"
                f" made for {served.release}.",
            )
        with self._lock:
            for slot, release in served.releases.items():
                if release == served.release:
                    self._by_slot[slot] = served
            self.current, self.proven = served, served.generation

    def forget(self) -> None:
        """Know nothing of the server, which may be another by now; what the callers work by stays."""
        with self._lock:
            self._by_slot = {}
            self.current, self.proven = None, 0
