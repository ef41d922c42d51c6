"""Watch one slot for a bake: its counters, golden probes, and whether the server lives.

Two sources tell what clients get. Triton's own statistics, read by this very
process, know the one server that it asks and nothing of before it began.
A Prometheus knows every server that it scrapes, and the past as well, so a
bake that was interrupted loses nothing. Golden probes are asked by this
process in either case.

A server that does not answer at all proves nothing about the release: somebody
may have stopped it. One that *died*, so that its supervisor started another,
is counted as a crash.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.prometheus import Prometheus
from policyctl.adapters.triton import Triton
from policyctl.adapters.triton_metrics import refused
from policyctl.domain.bake import WINDOW_S, Figures, Probes, Reading, Window, windows
from policyctl.domain.moves import Placement
from policyctl.domain.names import served_name
from policyctl.domain.probes import AliasKey, ProbeOutcome
from policyctl.errors import PolicyctlError, ServerError
from policyctl.services.bake.tails import Tails
from policyctl.services.control import Control
from policyctl.services.golden_questions import Questions

OWN: Final = "Triton's statistics, read by this process"
PROBES_A_LOOK: Final = 5
PROBE_TIMEOUT_S: Final = 2.0
_QUERY_EVERY_S: Final = 2.0


class Clock:
    """How time passes for a bake; tests replace it."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Until so long has passed, or `stop` is set."""
        stop.wait(seconds)


CLOCK: Final = Clock()


class Traffic(Protocol):
    """Where the windows come from."""

    @property
    def name(self) -> str:
        """In words."""

    def look(self, client: Triton | None) -> None:
        """Read once more; where nothing answers, nothing is read."""

    def windows(self) -> tuple[Window, ...]:
        """Everything that was seen."""

    def control(self) -> int:
        """How many of the requests in the windows were the control plane's, the watcher's own probes not counted."""

    def probes(self) -> Probes:
        """What others' golden probes say."""


@dataclass(slots=True)
class OwnTraffic:
    """Triton's statistics of one slot."""

    served: str
    slot: int
    span_s: float
    probes_per_s: float = 0.0
    _readings: list[Reading] = field(default_factory=list)
    _refused: int = 0

    @property
    def name(self) -> str:
        """In words."""
        return OWN

    def look(self, client: Triton | None) -> None:
        """Read the statistics."""
        if client is None:
            return
        with contextlib.suppress(ServerError):
            if address := client.endpoint.metrics:
                self._refused = refused(address).get((self.served, self.slot), 0)
            for found in client.counters(self.served):
                if found.slot == self.slot:
                    counts = (found.succeeded, found.failed, found.duration_us, self._refused)
                    self._readings.append(Reading(CLOCK.monotonic(), *counts))

    def windows(self) -> tuple[Window, ...]:
        """Everything that was seen."""
        return windows(self._readings, span_s=self.span_s)

    def control(self) -> int:
        """The supervisor's probes, as many as the settings say."""
        if not self.probes_per_s or len(self._readings) < 2:
            return 0
        return round((self._readings[-1].at_s - self._readings[0].at_s) * self.probes_per_s) + 1

    def probes(self) -> Probes:
        """Nobody else's."""
        return Probes()


@dataclass(slots=True)
class ScrapedTraffic:
    """What a Prometheus has scraped of one slot, of every server."""

    prometheus: Prometheus
    key: AliasKey
    slot: int
    span_s: float
    since: float
    until: Callable[[], float]
    _asked_at: float = float("-inf")
    _windows: tuple[Window, ...] = ()
    _probes: Probes = field(default_factory=Probes)
    _control: int = 0

    @property
    def name(self) -> str:
        """In words."""
        return self.prometheus.name

    def look(self, client: Triton | None) -> None:
        """Ask for everything since the beginning, now and then."""
        del client
        until = self.until()
        if until - self._asked_at < _QUERY_EVERY_S or until <= self.since:
            return
        self._asked_at = until
        model, alias = self.key
        with contextlib.suppress(PolicyctlError):
            found = self.prometheus.slot(served_name(model, alias), self.slot, since=self.since, until=until)
            self._windows = tuple(w for series in found for w in windows(series, span_s=self.span_s))
            seen = self.prometheus.probes(model, alias, since=self.since, until=until)
            self._probes = Probes(seen.get("answered", 0), seen.get("wrong", 0), seen.get("failed", 0))
            self._control = self._probes.asked

    def windows(self) -> tuple[Window, ...]:
        """Everything that was seen."""
        return self._windows

    def control(self) -> int:
        """The supervisor's probes, as its exporter counts them."""
        return self._control

    def probes(self) -> Probes:
        """The supervisor's."""
        return self._probes


@dataclass(slots=True)
class Watch:
    """One slot under watch; a context manager, for it keeps a connection.

    Attributes:
        control: The control plane.
        key: Which alias.
        placement: What it is watched with: the incumbent before the switch, or the target after it.
        traffic: Where the windows come from.
    """

    control: Control
    key: AliasKey
    placement: Placement
    traffic: Traffic
    _client: Triton | None = None
    _endpoint: Endpoint | None = None
    _asked: int = 0
    _probes: Probes = field(default_factory=Probes)
    _crashes: int = 0
    _questions: Questions = field(init=False)
    _tails: Tails = field(init=False)

    def __post_init__(self) -> None:
        self._questions = Questions(self.control)
        self._tails = Tails(served_name(*self.key), self.placement.slot, CLOCK.monotonic)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def look(self) -> None:
        """Read and probe once."""
        client = self._connected()
        self.traffic.look(client)
        if client is None:
            return
        self._tails.look(client)
        for _ in range(PROBES_A_LOOK):
            if not self._probe(client):
                break  # one silence is one silence, however often one asks into it

    def figures(self) -> Figures:
        """Everything that was seen until now."""
        return Figures(
            source=self.traffic.name,
            windows=self.traffic.windows(),
            probes=self._probes.plus(self.traffic.probes()),
            control=self.traffic.control() + self._probes.asked,
            crashes=self._crashes,
            tails=self._tails.seen(),
        )

    def _connected(self) -> Triton | None:
        """A client of the server as it runs now; None while no server runs."""
        try:
            endpoint = self.control.endpoint()
        except ServerError:
            return None
        if self._client is not None and self._endpoint == endpoint:
            return self._client
        if self._endpoint is not None:
            self._crashes += _died(self._endpoint, endpoint)
        if self._client is not None:
            self._client.close()
        self._endpoint = endpoint
        self._client = self.control.client(endpoint, timeout_s=PROBE_TIMEOUT_S)
        return self._client

    def _probe(self, client: Triton) -> bool:
        """Ask one golden row and say whether it was answered; an answer of another slot does not count."""
        said = self._questions.ask(client, self.key, self.placement, self._asked)
        if not said.asked:
            return False
        self._asked += 1
        if said.slot == self.placement.slot or (said.slot is None and client.is_live()):
            self._probes = self._probes.plus(
                Probes(
                    answered=said.outcome is ProbeOutcome.ANSWERED,
                    wrong=said.outcome is ProbeOutcome.WRONG,
                    failed=said.outcome is ProbeOutcome.FAILED,
                )
            )
        return said.slot is not None


def _died(before: Endpoint, after: Endpoint) -> bool:
    """Whether the server was replaced by the supervisor that had started it, and not by a person."""
    same = bool(before.supervisor) and before.supervisor == after.supervisor
    return same and before.server_id != after.server_id


def traffic_before(control: Control, key: AliasKey, incumbent: Placement, *, before_s: float) -> Traffic:
    """How the incumbent is watched before the switch; says so where Prometheus cannot be asked."""
    if prometheus := prometheus_of(control):
        now = time.time()
        # It remembers: nobody has to wait for it, and more of the past is looked at.
        since = now - max(before_s, _PAST_S)
        return ScrapedTraffic(prometheus, key, incumbent.slot, WINDOW_S, since, lambda: now)
    return OwnTraffic(served_name(*key), incumbent.slot, WINDOW_S, _supervisors_probes_per_s(control))


_PAST_S: Final = 600.0


def traffic_after(
    control: Control, key: AliasKey, target: Placement, *, scraped: bool, since: float, for_s: float
) -> Traffic:
    """How the target is watched after the switch: as the incumbent was.

    Args:
        control: The control plane.
        key: Which alias.
        target: What it names now.
        scraped: Whether the incumbent was seen through Prometheus.
        since: When it was switched, seconds since 1970.
        for_s: How long the bake takes.
    """
    span_s = max(WINDOW_S, for_s / 300)
    if scraped and (prometheus := _named(control)):
        return ScrapedTraffic(prometheus, key, target.slot, span_s, since, lambda: min(time.time(), since + for_s))
    return OwnTraffic(served_name(*key), target.slot, span_s, _supervisors_probes_per_s(control))


def prometheus_of(control: Control) -> Prometheus | None:
    """The Prometheus of the settings; None where they name none, or it does not answer now."""
    prometheus = _named(control)
    if prometheus is None:
        return None
    try:
        prometheus.require()
    except ServerError as error:
        control.tell(f"{error.problem}. The bake goes by {OWN}.")
        return None
    return prometheus


def _named(control: Control) -> Prometheus | None:
    """The Prometheus of the settings, whether it answers or not."""
    chosen = control.settings.bake
    return Prometheus(chosen.prometheus, chosen.prometheus_token.get_secret_value()) if chosen.prometheus else None


def _supervisors_probes_per_s(control: Control) -> float:
    """How often the supervisor of an embedded server asks each alias."""
    with contextlib.suppress(ServerError):
        if control.endpoint().supervisor:
            return 1.0 / control.settings.prober.interval_s
    return 0.0
