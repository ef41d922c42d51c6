"""How tuning measures: one release and its incumbent, in any configuration, side by side on one server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from policyctl.adapters.pbtxt import options_of
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.paired import Round
from policyctl.domain.verdict import Verdict
from policyctl.errors import ServerError
from policyctl.measuring.paired import rounds
from policyctl.services.control import Control, OpenRelease, open_release
from policyctl.services.experiments.tuning_space import Choice, Space, space
from policyctl.services.measure.performance import bursts_of
from policyctl.services.moves.candidate import loaded
from policyctl.services.moves.certify import certify
from policyctl.services.moves.recovery import recover
from policyctl.services.moves.validate import place
from policyctl.serving.hardware import detect

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_INTERVAL_MS: Final = 150
TABLE_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to look for, and for how long.

    Attributes:
        gain: How much better the winner must be: 0.02 is 2 %.
        resume: Where trials are kept; None keeps none.
    """

    p99_limit_us: float
    time_s: float = 600.0
    clients: int = 8
    gain: float = 0.02
    resume: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """What one configuration did in the search.

    Attributes:
        log_gain: Of throughput over the incumbent; None where it could not be measured.
        words: Why it could not be measured.
    """

    choice: Choice
    log_gain: float | None
    p99_us: float | None
    words: str = ""

    def score(self, limit_us: float) -> float:
        """What the search makes large: the gain within the limit; beyond it, the less the farther."""
        if self.log_gain is None or self.p99_us is None:
            return -10.0
        return self.log_gain if self.p99_us <= limit_us else -1.0 - math.log(self.p99_us / limit_us)


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What a request of so many observations costs, asked by one client."""

    batch_size: int
    p50_us: float
    p99_us: float
    throughput_per_s: float


class MovedError(ServerError):
    """Nothing that follows would mean anything."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One release with one incumbent, and how configurations of it are measured."""

    control: Control
    plan: Plan
    model: str
    alias: str
    opened: OpenRelease
    incumbent: Placement
    searched: Space
    rng: np.random.Generator

    @classmethod
    def of(cls, control: Control, plan: Plan, *, model: str, alias: str) -> Bench:
        """Raises: UsageError: The alias names nothing."""
        control.repository.require()
        state = control.repository.journal.state()
        named = state.named(model, alias)
        opened = open_release(control.repository, state.release(model, named.placement.release))
        largest = options_of(named.placement.config).max_batch_size
        searched = space(detect(), named.placement.format, max_batch_size=largest)
        rng = np.random.default_rng(plan.seed)
        return cls(control, plan, model, alias, opened, named.placement, searched, rng)

    def placement(self, choice: Choice) -> Placement:
        """The release, configured by `choice`; everything else as the incumbent has it."""
        now = options_of(self.incumbent.config)
        chosen = choice.settings()
        parameters = {**now.parameters, **chosen.get("parameters", {})}
        kept = {"max_batch_size": now.max_batch_size, "gpu": now.gpu, "parameters": parameters}
        sizes = {"preferred_batch_sizes": choice.preferred_batch_sizes}
        serving = self.control.settings.serving.model_copy(update={**chosen, **sizes, **kept})
        control = Control.of(self.control.settings.model_copy(update={"serving": serving}))
        state = self.control.repository.journal.state()
        return place(control, state, self.opened, self.incumbent.format)

    def compare(self, choice: Choice, *, time_cap_s: float, stop: Callable[[Sequence[Round]], bool]) -> list[Round]:
        """Load the release as a candidate in a configuration and measure it next to the incumbent.

        Raises:
            ServerError: It could not be loaded or certified, or measuring broke.
        """
        control = self.control
        with (
            control.repository.writer(f"tune {self.model}", wait_s=control.settings.lock_wait_s),
            control.triton() as client,
        ):
            recover(control, client, self.model)
            state = control.repository.journal.state()
            self._require_unmoved()
            placement = self.placement(choice)
            seen: list[Round] = []
            with loaded(control, client, state, self.opened, placement) as candidate:
                certified = certify(control, client, self.opened, candidate.ask.served, placement)
                if certified.verdict is not Verdict.PASSED:
                    raise ServerError(f"not certified: {certified.reason}")
                with (
                    control.repository.writer_aside(),
                    bursts_of(control, self.opened, interval_ms=_INTERVAL_MS) as bursts,
                ):
                    for each in rounds(
                        bursts.of(served_name(self.model, self.alias), clients=self.plan.clients),
                        bursts.of(candidate.ask.served, clients=self.plan.clients),
                        time_cap_s=time_cap_s,
                        rng=self.rng,
                    ):
                        seen.append(each)
                        if stop(seen):
                            break
                self._require_unmoved()
            return seen

    def batch_costs(self, choice: Choice | None) -> Iterator[BatchCost]:
        """What batch sizes cost, with `choice` or the incumbent; as far as the time for it lasts."""
        until = time.monotonic() + TABLE_S
        largest = max(1, options_of(self.incumbent.config).max_batch_size)
        sizes = [size for size in BATCHES if size <= largest]
        control = self.control
        placement = self.incumbent if choice is None else self.placement(choice)
        with (
            control.repository.writer(f"tune {self.model}", wait_s=30.0),
            control.triton() as client,
            loaded(control, client, control.repository.journal.state(), self.opened, placement) as candidate,
            control.repository.writer_aside(),
        ):
            for size in sizes:
                if time.monotonic() >= until:
                    return
                with bursts_of(control, self.opened, interval_ms=_INTERVAL_MS, batch_size=size) as bursts:
                    burst = bursts.of(candidate.ask.served, clients=1).burst()
                yield BatchCost(size, burst.p50_us, burst.p99_us, burst.throughput_per_s)

    def _require_unmoved(self) -> None:
        named = self.control.repository.journal.state().alias(self.model, self.alias)
        if named is None or named.placement.config != self.incumbent.config:
            raise MovedError(
                f"{self.alias} of {self.model} moved while it was tuned: there is nothing to compare with any more",
                remedy="Tune again; --resume begins a new search for what is served now.",
            )
