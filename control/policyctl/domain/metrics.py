"""The metrics that policyctl exports: their catalogue, and plain values for what they say.

One table names every family with its labels and what it means; the exporter,
`policyctl metrics`, the documentation and the tests read it. Values are
tuples, so what is exported can be computed and compared without a server.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Final


class MetricKind(StrEnum):
    """How a family's values are to be read."""

    INFO = "info"
    """1, for its labels."""
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


PROBE_BUCKETS_S: Final = (
    *(50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 400e-6, 600e-6, 800e-6),
    *(1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0),
)
"""50 us to 1 s, dense below a millisecond, where policies answer."""

MOVE_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: As Prometheus knows it.
        kind: How it is read.
        help: What it says.
        labels: Names, in order.
        source: Where it comes from: ``journal`` (right across restarts), or
            what only a running server knows.
        buckets: Upper bounds of a histogram, rising; the last, infinity, is left out.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    source: str = "server"
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each bucket was met.

    Attributes:
        buckets: Upper bounds, rising; infinity is left out.
        counts: One more than `buckets`: the last is above them all. Not cumulative.
        total: Sum of everything observed.
    """

    buckets: tuple[float, ...]
    counts: tuple[int, ...]
    total: float = 0.0

    @classmethod
    def empty(cls, buckets: tuple[float, ...]) -> Histogram:
        """Nothing observed."""
        return cls(buckets, (0,) * (len(buckets) + 1))

    def observe(self, value: float) -> Histogram:
        """With one more value; a bound belongs to its bucket."""
        at = bisect_left(self.buckets, value)
        counts = (*self.counts[:at], self.counts[at] + 1, *self.counts[at + 1 :])
        return Histogram(self.buckets, counts, self.total + value)

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    @property
    def cumulative(self) -> tuple[tuple[str, int], ...]:
        """Bound and how many values are at most that, as Prometheus wants them; the last bound is ``+Inf``."""
        bounds = (*(repr(bound) for bound in self.buckets), "+Inf")
        return tuple(zip(bounds, accumulate(self.counts), strict=True))


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family.

    Attributes:
        labels: In the family's order.
        value: A number, or a histogram.
    """

    labels: tuple[str, ...]
    value: float | Histogram


@dataclass(frozen=True, slots=True)
class Measured:
    """A family with its values of now, as many as there are."""

    family: Family
    samples: tuple[Sample, ...] = field(default=())


_ALIAS: Final = ("model", "alias")
_JOURNAL: Final = "journal"

CATALOGUE: Final[Mapping[str, Family]] = {
    family.name: family
    for family in (
        Family("policyctl_build_info", MetricKind.INFO, "The version of policyctl that serves.", ("version",)),
        Family(
            "policyctl_alias_info",
            MetricKind.INFO,
            "What an alias names: the Triton model that clients call, the release, its slot"
            " (Triton's version) and its format.",
            (*_ALIAS, "served", "release", "slot", "format"),
            _JOURNAL,
        ),
        Family(
            "policyctl_alias_certified_timestamp_seconds",
            MetricKind.GAUGE,
            "When what an alias names was last certified by its golden set, as it is served.",
            _ALIAS,
            _JOURNAL,
        ),
        Family(
            "policyctl_alias_refused",
            MetricKind.GAUGE,
            "1 where an alias is not served because it was refused (not intact, not signed, or wrong answers), else 0.",
            _ALIAS,
        ),
        Family(
            "policyctl_moves_total",
            MetricKind.COUNTER,
            "Moves that ended, by kind (promotion, rollback, pin, removal) and outcome (done, reverted, aborted).",
            (*_ALIAS, "kind", "outcome"),
            _JOURNAL,
        ),
        Family(
            "policyctl_move_duration_seconds",
            MetricKind.HISTOGRAM,
            "From a move's intent to its outcome.",
            ("kind",),
            _JOURNAL,
            MOVE_BUCKETS_S,
        ),
        Family(
            "policyctl_move_unfinished_timestamp_seconds",
            MetricKind.GAUGE,
            "When the move that is under way began; absent where none is.",
            (*_ALIAS, "kind"),
            _JOURNAL,
        ),
        Family(
            "policyctl_gate_verdicts_total",
            MetricKind.COUNTER,
            "Verdicts of gates: passed, failed, inconclusive, error.",
            ("model", "gate", "verdict"),
            _JOURNAL,
        ),
        Family(
            "policyctl_probe_requests_total",
            MetricKind.COUNTER,
            "Golden observations that the prober asked: answered, wrong (another action than the golden one,"
            " beyond its tolerance), failed (no answer).",
            (*_ALIAS, "outcome"),
        ),
        Family(
            "policyctl_probe_duration_seconds",
            MetricKind.HISTOGRAM,
            "How long the prober waited for an answer, over gRPC; what failed is not in it.",
            _ALIAS,
            buckets=PROBE_BUCKETS_S,
        ),
        Family(
            "policyctl_model_reloads_total", MetricKind.COUNTER, "How often the prober loaded an alias again.", _ALIAS
        ),
        Family("policyctl_server_starts_total", MetricKind.COUNTER, "How often tritonserver was started."),
        Family("policyctl_server_up", MetricKind.GAUGE, "1 while tritonserver is announced and answers, else 0."),
        Family(
            "policyctl_server_resident_bytes",
            MetricKind.GAUGE,
            "Resident memory of tritonserver (server) and of its backends' processes (stubs).",
            ("part",),
        ),
        Family("policyctl_integrity_files_checked_total", MetricKind.COUNTER, "Files that the scrub has read."),
        Family("policyctl_integrity_failures_total", MetricKind.COUNTER, "How often the scrub found something wrong."),
        Family("policyctl_integrity_wrong", MetricKind.GAUGE, "Folders that are not as published now."),
        Family(
            "policyctl_integrity_last_pass_timestamp_seconds",
            MetricKind.GAUGE,
            "When the scrub last ended a whole pass; absent before the first.",
        ),
        Family(
            "policyctl_settings_reloads_total",
            MetricKind.COUNTER,
            "Changes of the settings' files that were noticed: applied, refused, unchanged.",
            ("result",),
        ),
        Family(
            "policyctl_settings_reload_timestamp_seconds",
            MetricKind.GAUGE,
            "When settings were last reloaded with success; absent before that.",
        ),
        Family("policyctl_journal_records", MetricKind.GAUGE, "Records in the journal.", (), _JOURNAL),
        Family(
            "policyctl_journal_intact",
            MetricKind.GAUGE,
            "1 while the journal can be read and its chain is whole, else 0; then the other metrics hold"
            " what it said when it was last read.",
            (),
            _JOURNAL,
        ),
        Family(
            "policyctl_unwritten_total",
            MetricKind.COUNTER,
            "What the supervisor had to write and the disk did not take: announcement (where the server is, for"
            " commands on its machine), certification (of an alias, in the journal). It serves on without.",
            ("what",),
        ),
        Family("policyctl_disk_free_bytes", MetricKind.GAUGE, "Free on the repository's file system."),
        Family(
            "policyctl_fleet_store_up",
            MetricKind.GAUGE,
            "1 while this node of a fleet can read the store, else 0; absent where no store is followed.",
        ),
        Family(
            "policyctl_fleet_read_timestamp_seconds",
            MetricKind.GAUGE,
            "When this node last read the store; absent before the first time.",
        ),
        Family(
            "policyctl_fleet_generation",
            MetricKind.GAUGE,
            "Generation of the alias that the store named when it was last read.",
            _ALIAS,
        ),
        Family(
            "policyctl_fleet_reached_generation",
            MetricKind.GAUGE,
            "That generation once this node has come to it, else 0.",
            _ALIAS,
        ),
    )
}


def measured(values: Mapping[str, Sequence[Sample]]) -> tuple[Measured, ...]:
    """The whole catalogue with these values; families without any are there, empty.

    Raises:
        KeyError: A name is not in the catalogue.
        ValueError: A sample has not the family's labels.
    """
    for name, samples in values.items():
        if wrong := [s for s in samples if len(s.labels) != len(CATALOGUE[name].labels)]:
            raise ValueError(f"{name} has the labels {CATALOGUE[name].labels}, not {wrong[0].labels}")
    return tuple(Measured(family, tuple(values.get(name, ()))) for name, family in CATALOGUE.items())
