"""Calibrate: how often the gate `non_inferiority` is wrong on this machine, and what it can see.

The release that an alias serves is loaded a second time, as its own candidate,
and compared with itself (A/A): whatever the gate says but *passed* is the
machine's doing. Each live run loads the candidate again, because two processes
of one release are not equally fast either, and measures to the end of the time
cap; its verdict is the one that the gate would have given on the way.

Replay makes many runs of the few live ones: of one live run, chosen by lot,
blocks of neighbouring rounds are drawn until the time cap is full. Neighbours
stay together because what disturbs a machine lasts longer than one round, and
runs stay apart because what a load decides lasts as long as the load. A
slow-down is put into a replay by adding the same time to every latency of the
candidate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from policyctl.adapters import files
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.names import served_name
from policyctl.domain.paired import Round
from policyctl.domain.statistics import binomial_interval
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import UsageError
from policyctl.gates import non_inferiority
from policyctl.gates.non_inferiority import ComparisonPlan
from policyctl.measuring.paired import rounds
from policyctl.plain_files import DOCUMENT_BYTES, read_json, unreadable
from policyctl.services.control import Control, open_release
from policyctl.services.measure.bench import versions
from policyctl.services.measure.performance import bursts_of, plan_of
from policyctl.services.moves.candidate import loaded
from policyctl.services.moves.measurement_lock import measuring
from policyctl.services.moves.recovery import recover
from policyctl.serving.hardware import detect

BLOCK_ROUNDS: Final = 4
CHANGES: Final = (0.0, 0.02, 0.05, 0.075, 0.10, 0.125, 0.15, 0.20, 0.30, 0.50)
"""Slow-downs that replays are given, as parts of the median latency."""

SEEN_OFTEN: Final = 0.95
"""How often a change must be found to count as seen."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One live comparison of a release with itself: all of its rounds, to the end of the time cap."""

    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """How often each verdict was given.

    Attributes:
        decided_s: The median time until the verdict.
    """

    change: float
    counts: dict[Verdict, int]
    decided_s: float

    @property
    def runs(self) -> int:
        """How many."""
        return sum(self.counts.values())

    def rate(self, verdict: Verdict) -> float:
        """How often `verdict` was given."""
        return self.counts.get(verdict, 0) / self.runs if self.runs else 0.0

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the exact 95 % interval of the rate of *failed*."""
        failed = self.counts.get(Verdict.FAILED, 0)
        low, high = binomial_interval(failed, self.runs) if self.runs else (0.0, 1.0)
        return {
            "change": self.change,
            "runs": self.runs,
            **{v.value: self.counts.get(v, 0) for v in Verdict},
            "failed_rate": self.rate(Verdict.FAILED),
            "failed_rate_95": [low, high],
            "median_seconds": self.decided_s,
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibrating found.

    Attributes:
        replays: One a slow-down, the first with none.
    """

    model: str
    release: str
    plan: ComparisonPlan
    clients: int
    live: tuple[Run, ...]
    replays: tuple[Tally, ...]
    machine: dict[str, Any]
    time: str

    @property
    def judged(self) -> list[tuple[GateResult, float]]:
        """What the gate says of each live run, and when it would have stopped."""
        return [judged(run.rounds, self.plan) for run in self.live]

    @property
    def live_tally(self) -> Tally:
        """Of the live runs."""
        return tally([(result.verdict, decided_s) for result, decided_s in self.judged], change=0.0)

    @property
    def smallest_seen(self) -> float | None:
        """The smallest slow-down from which on every one is found often enough; None where none is."""
        found = None
        for each in reversed(self.replays):
            if each.rate(Verdict.FAILED) < SEEN_OFTEN:
                break
            found = each.change
        return found

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without the rounds."""
        return {
            "time": self.time,
            "model": self.model,
            "release": self.release,
            "plan": self.plan.to_json(),
            "clients": self.clients,
            "live": self.live_tally.to_json(),
            "live_runs": [
                {"verdict": result.verdict.value, "decided_s": decided_s, "reason": result.reason}
                for result, decided_s in self.judged
            ],
            "replays": [each.to_json() for each in self.replays],
            "smallest_seen": self.smallest_seen,
            "machine": self.machine,
            "versions": versions(),
        }


def calibrate(
    control: Control,
    *,
    model: str,
    alias: str,
    live: int,
    replays: int,
    seed: int,
    progress: Progress,
    path: Path | None = None,
) -> Calibration:
    """Compare the release that an alias serves with itself, live and by replay.

    It takes about `live` times the gate's time cap. No alias moves, and a
    rollback is not held up.

    Args:
        path: Keep everything here, after each live run; runs that it already
            holds are not measured again.

    Raises:
        UsageError: The alias names nothing, or `path` holds the runs of
            something else, or cannot be written.
        ServerError: Measuring broke.
        BusyError: Another process measures.
    """
    plan, hardware = plan_of(control), detect()
    found = Calibration(
        model=model,
        release=control.repository.journal.state().named(model, alias).placement.release,
        plan=plan,
        clients=control.settings.gates.non_inferiority.clients,
        live=(),
        replays=(),
        machine={"fingerprint": hardware.fingerprint, "words": hardware.words()},
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if path is not None:
        found = replace(found, live=_kept(path, found))
        save(found, path)  # a path that cannot be written is not found out after half an hour
    if found.live:
        progress(f"{path} holds {len(found.live)} live runs of this; they are not measured again.")
    with measuring(control, f"calibrate {model}"):
        for number in range(len(found.live), live):
            rng = np.random.default_rng([seed, number])
            with control.working(f"A/A run {number + 1} of {live}", at_most_s=plan.time_cap_s):
                run = _against_itself(control, model, alias, found.release, plan.time_cap_s, rng)
            found = replace(found, live=(*found.live, run))
            result, decided_s = judged(run.rounds, plan)
            progress(f"A/A run {number + 1} of {live}: {result.verdict} after {decided_s:.0f} s. {result.reason}")
            if path is not None:
                save(found, path)
    found = replay(found, replays=replays, rng=np.random.default_rng(seed), progress=progress)
    if path is not None:
        save(found, path)
    return found


def _kept(path: Path, wanted: Calibration) -> tuple[Run, ...]:
    """The live runs that an earlier calibration of the same thing left in `path`."""
    if not path.exists():
        return ()
    recorded, of = _read(path), wanted.to_json()
    for name in ("model", "release", "plan", "clients", "machine", "versions"):
        if (other := getattr(recorded, name)) != of[name]:
            raise UsageError(
                f"{path} holds a calibration of another {name}: {other}, not {of[name]}",
                remedy="Name another file for --save.",
            )
    return recorded.recorded


def recalibrate(control: Control, path: Path, *, replays: int, seed: int, progress: Progress) -> Calibration:
    """Judge and replay runs that `save` kept, by the settings as they are now; nothing is measured.

    Raises:
        UsageError: The file is not one of these.
    """
    kept = _read(path)
    if not kept.recorded:
        raise UsageError(f"{path} holds no live run yet", remedy="Finish it: policyctl calibrate with the same --save.")
    found = Calibration(
        kept.model, kept.release, plan_of(control), kept.clients, kept.recorded, (), kept.machine, kept.time
    )
    return replay(found, replays=replays, rng=np.random.default_rng(seed), progress=progress)


def _against_itself(
    control: Control, model: str, alias: str, release: str, time_cap_s: float, rng: np.random.Generator
) -> Run:
    chosen = control.settings.gates.non_inferiority
    with (
        control.repository.writer(f"calibrate {model}", wait_s=control.settings.lock_wait_s),
        control.triton() as client,
    ):
        recover(control, client, model)
        state = control.repository.journal.state()
        named = state.named(model, alias)
        if named.placement.release != release:
            raise UsageError(
                f"alias {alias} of {model} moved from {release} to {named.placement.release} meanwhile",
                remedy="Calibrate while nobody promotes; the runs so far are kept where --save says.",
            )
        opened = open_release(control.repository, state.release(model, release))
        with (
            loaded(control, client, state, opened, named.placement) as candidate,
            control.repository.writer_aside(),
            bursts_of(control, opened, interval_ms=chosen.interval_ms) as bursts,
        ):
            both = (served_name(model, alias), candidate.ask.served)
            incumbent, again = (bursts.of(served, clients=chosen.clients) for served in both)
            return Run(tuple(rounds(incumbent, again, time_cap_s=time_cap_s, rng=rng)))


def judged(rounds: Sequence[Round], plan: ComparisonPlan) -> tuple[GateResult, float]:
    """What the gate says of `rounds`, and when it stops."""
    found = non_inferiority.judge(rounds, plan, is_over=True)
    if found is None:
        raise AssertionError("the last look always says something")
    looks = found.evidence["looks"]
    count = looks[-1]["rounds"] if looks and found.verdict is not Verdict.INCONCLUSIVE else len(rounds)
    return found, rounds[count - 1].ended_s if count else 0.0


def replay(
    found: Calibration,
    *,
    replays: int,
    rng: np.random.Generator,
    progress: Progress,
    changes: Sequence[float] = CHANGES,
) -> Calibration:
    """Judge runs that are drawn from the live ones, with slow-downs put in.

    Args:
        changes: Parts of the incumbent's median latency that are added to the candidate's.
    """
    usable = [run.rounds for run in found.live if run.rounds]
    tallies = []
    for change in changes if usable and replays else ():
        seen = []
        for _ in range(replays):
            drawn = _draw(usable[rng.integers(len(usable))], found.plan.time_cap_s, rng)
            added_us = change * float(np.median([b.p50_us for r in drawn for b in r.incumbent]))
            slower = [r.slower(added_us, clients=found.clients, batch_size=1) for r in drawn]
            result, decided_s = judged(slower, found.plan)
            seen.append((result.verdict, decided_s))
        tallies.append(tally(seen, change=change))
        progress(f"Replays with {change:.1%} added: {tallies[-1].rate(Verdict.FAILED):.1%} failed")
    return replace(found, replays=tuple(tallies))


def tally(seen: Sequence[tuple[Verdict, float]], *, change: float) -> Tally:
    """Count verdicts."""
    counts = {verdict: sum(v is verdict for v, _ in seen) for verdict in Verdict}
    return Tally(change, counts, float(np.median([s for _, s in seen])) if seen else 0.0)


def _draw(rounds: Sequence[Round], time_cap_s: float, rng: np.random.Generator) -> list[Round]:
    """Blocks of neighbours, the last round's neighbour being the first, until the time is full."""
    drawn: list[Round] = []
    clock_s = 0.0
    while True:
        start = int(rng.integers(len(rounds)))
        for step in range(BLOCK_ROUNDS):
            each = rounds[(start + step) % len(rounds)]
            took_s = each.ended_s - each.began_s
            if clock_s + took_s > time_cap_s:
                return drawn
            drawn.append(replace(each, began_s=clock_s, ended_s=clock_s + took_s))
            clock_s += took_s


def save(calibration: Calibration, path: Path) -> None:
    """Keep the figures and every recorded round.

    Raises:
        UsageError: The file cannot be written.
    """
    document = {**calibration.to_json(), "recorded": to_json(calibration.live)}
    files.write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What `save` kept, as far as it is read again."""

    model: str
    release: str
    plan: dict[str, Any]
    clients: int
    machine: dict[str, Any]
    versions: dict[str, str]
    time: str
    recorded: tuple[Run, ...]


def _read(path: Path) -> _Recorded:
    """Raises: UsageError: The file is not one of these."""
    remedy = "Name a file of policyctl calibrate --save."
    try:
        document = read_json(path, most_bytes=DOCUMENT_BYTES, follow_links=True)
        return from_json(_Recorded, document, what="the file", unknown_keys=True)
    except OSError as error:
        raise unreadable(path, error, remedy=remedy) from error
    except (ValueError, UsageError) as error:
        raise UsageError(f"{path} holds no recorded runs: {error}", remedy=remedy) from error
