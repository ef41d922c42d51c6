"""What is exported now: the journal's numbers, and what the supervisor of a running server has seen.

Nothing here fails because the repository does: a broken journal is
reported as such, with what it said last, and a value that cannot be had is left out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from policyctl import __version__
from policyctl.adapters import endpoint as endpoints
from policyctl.adapters.exporter import fetch, text_of
from policyctl.adapters.pbtxt import identity
from policyctl.domain.journal_metrics import JournalNumbers, seconds
from policyctl.domain.metrics import PROBE_BUCKETS_S, Histogram, Measured, Sample, measured
from policyctl.domain.probes import AliasKey, ProbeOutcome
from policyctl.errors import IntegrityError, ServerError
from policyctl.services.control import Control
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.integrity.scrub import ScrubState
from policyctl.services.observed import Followed, Observed, Seen, Unwritten
from policyctl.services.supervise.reload import ReloadCounts
from policyctl.serving.memory import SERVER, usage

Samples = dict[str, tuple[Sample, ...]]


@dataclass(slots=True)
class Metrics:
    """Computes the whole catalogue."""

    control: Control
    known: KnownJournal
    observed: Observed = field(default_factory=Observed)
    scrub: Callable[[], ScrubState | None] = lambda: None
    reloads: Callable[[], ReloadCounts] = ReloadCounts
    _identities: dict[str, str] = field(default_factory=dict)

    def collect(self) -> tuple[Measured, ...]:
        """Every family with its values of now."""
        numbers, seen = self.known.numbers(patient=False), self.observed.seen()
        keys = sorted(numbers.state.aliases)
        return measured(
            {
                **numbers.samples,
                **_of_probes(keys, seen),
                **_of_integrity(self.scrub()),
                **_of_settings(self.reloads()),
                **_of_fleet(seen.followed),
                **self._of_server(seen),
                **self._of_aliases(numbers, seen),
                "policyctl_build_info": (Sample((__version__,), 1.0),),
                "policyctl_journal_intact": (Sample((), 0.0 if self.known.problem else 1.0),),
                "policyctl_disk_free_bytes": self._disk(),
            }
        )

    def _of_aliases(self, numbers: JournalNumbers, seen: Seen) -> Samples:
        certified, refused = [], []
        for key, named in sorted(numbers.state.aliases.items()):
            placement = named.placement
            when = numbers.certified.get((key[0], placement.manifest_digest, self._identity(placement.config)))
            if when is not None:
                certified.append(Sample(key, when))
            refused.append(Sample(key, float(seen.refused.get(key) == placement)))
        return {
            "policyctl_alias_certified_timestamp_seconds": tuple(certified),
            "policyctl_alias_refused": tuple(refused),
        }

    def _identity(self, config: str) -> str:
        if config not in self._identities:
            self._identities[config] = identity(config)
        return self._identities[config]

    def _of_server(self, seen: Seen) -> Samples:
        resident: tuple[Sample, ...] = ()
        if seen.pid:
            with suppress(ServerError):  # it ended a moment ago
                uses = usage(seen.pid)
                server = float(uses.pop(SERVER).rss_bytes)
                stubs = float(sum(use.rss_bytes for use in uses.values()))
                resident = (Sample(("server",), server), Sample(("stubs",), stubs))
        return {
            "policyctl_server_starts_total": (Sample((), float(seen.starts)),),
            "policyctl_server_up": (Sample((), float(seen.up)),),
            "policyctl_unwritten_total": tuple(
                Sample((what.value,), float(seen.unwritten.get(what, 0))) for what in Unwritten
            ),
            "policyctl_server_resident_bytes": resident,
        }

    def _disk(self) -> tuple[Sample, ...]:
        try:
            return (Sample((), float(shutil.disk_usage(self.control.repository.root).free)),)
        except OSError:
            return ()


def _of_probes(keys: list[AliasKey], seen: Seen) -> Samples:
    empty = Histogram.empty(PROBE_BUCKETS_S)
    return {
        "policyctl_probe_requests_total": tuple(
            Sample((*key, outcome.value), float(seen.probes.get((key, outcome), 0)))
            for key in keys
            for outcome in ProbeOutcome
        ),
        "policyctl_probe_duration_seconds": tuple(Sample(key, seen.durations.get(key, empty)) for key in keys),
        "policyctl_model_reloads_total": tuple(Sample(key, float(seen.reloads.get(key, 0))) for key in keys),
    }


def _of_integrity(scrub: ScrubState | None) -> Samples:
    if scrub is None:
        return {}
    ended = (Sample((), seconds(scrub.last_pass)),) if scrub.last_pass else ()
    return {
        "policyctl_integrity_files_checked_total": (Sample((), float(scrub.files)),),
        "policyctl_integrity_failures_total": (Sample((), float(scrub.found)),),
        "policyctl_integrity_wrong": (Sample((), float(len(scrub.wrong))),),
        "policyctl_integrity_last_pass_timestamp_seconds": ended,
    }


def _of_fleet(followed: Followed | None) -> Samples:
    if followed is None:
        return {}
    generations = sorted(followed.generations.items())
    return {
        "policyctl_fleet_store_up": (Sample((), float(followed.is_read)),),
        "policyctl_fleet_read_timestamp_seconds": (Sample((), followed.read_s),) if followed.read_s else (),
        "policyctl_fleet_generation": tuple(Sample(key, float(named)) for key, (named, _) in generations),
        "policyctl_fleet_reached_generation": tuple(Sample(key, float(here)) for key, (_, here) in generations),
    }


def _of_settings(reloads: ReloadCounts) -> Samples:
    counts = {"applied": reloads.applied, "refused": reloads.refused, "unchanged": reloads.unchanged}
    last = reloads.last_applied_s
    return {
        "policyctl_settings_reloads_total": tuple(Sample((result,), float(n)) for result, n in counts.items()),
        "policyctl_settings_reload_timestamp_seconds": (Sample((), last),) if last else (),
    }


def report(control: Control) -> tuple[str, str]:
    """What is exported now: ``host:port`` of the running server, empty for the journal alone, and Prometheus's text.

    Raises:
        UsageError: Nothing was ever published, and no server runs; or the journal may not be read.
        ServerError: The server that runs does not answer.
    """
    running = endpoints.read(control.repository)
    if running is not None and running.control_metrics:
        return running.control_metrics, fetch(running.control_metrics)
    control.repository.require()
    with suppress(IntegrityError):  # the metrics themselves say so of a journal that was tampered with
        control.repository.journal.state()
    return "", text_of(Metrics(control, KnownJournal(control)).collect())
