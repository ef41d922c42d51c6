"""What is served, how much it is asked and how it answers: one look after another.

Everything comes from the journal, from Triton's statistics (the difference
between two looks) and from one golden question to each alias. Nothing is
written, no lock is taken, and nothing needs the server's key. A server that is
not there is a thing to be said, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.adapters.triton import Triton
from policyctl.adapters.triton_calls import Counters
from policyctl.adapters.triton_metrics import refused
from policyctl.domain.instants import utc_text
from policyctl.domain.journal import RecordKind
from policyctl.domain.json_values import fields_to_json
from policyctl.domain.moves import Move, MoveKind
from policyctl.domain.names import served_name
from policyctl.domain.probes import ProbeOutcome
from policyctl.domain.state import AliasState, State
from policyctl.errors import IntegrityError, PolicyctlError, ServerError
from policyctl.services.control import Control
from policyctl.services.golden_questions import GoldenAnswer, Questions

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Row:
    """One alias, over one interval.

    Attributes:
        loaded: Whether the server has the named slot; None where there is no server.
        rate_per_s: Answers a second; None before there are two looks.
        latency_us: Mean, within the server; None where nobody asked.
        batch: Mean number of requests that were computed together.
        probe: What became of a golden question: answered, wrong, failed, no server; empty where none was asked.
        probe_us: How long it took, as seen from here.
        moving: What is being done to the alias, in words.
    """

    model: str
    alias: str
    served: str
    release: str
    slot: int
    format: str
    since: str
    loaded: bool | None
    rate_per_s: float | None = None
    failed: int | None = None
    latency_us: float | None = None
    queue_us: float | None = None
    compute_us: float | None = None
    batch: float | None = None
    probe: str = ""
    probe_us: float | None = None
    verdicts: dict[str, str] = field(default_factory=dict)
    moving: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything at one time.

    Attributes:
        server: Its gRPC address; empty where none answers.
        problem: Why there is no server, or what could not be read.
        writer: Who is at work, in words; empty where nobody is.
        last_move: The last one that ended, in words.
    """

    time: str
    repository: str
    server: str
    problem: str
    aliases: tuple[Row, ...]
    writer: str = ""
    last_move: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        empty = {name: getattr(self, name) or None for name in ("server", "problem", "writer", "last_move")}
        return {**fields_to_json(self), **empty}


@dataclass(slots=True)
class Sampler:
    """Looks again and again; a context manager, for it keeps a connection."""

    control: Control
    model: str | None = None
    _client: Triton | None = None
    _endpoint: Endpoint | None = None
    _before: dict[tuple[str, int], Counters] = field(default_factory=dict)
    _before_at: float = 0.0
    _looks: int = 0
    _questions: Questions = field(init=False)

    def __post_init__(self) -> None:
        self._questions = Questions(self.control)

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def require(self) -> None:
        """Refuse what will never show anything.

        Raises:
            UsageError: No repository, none that may be read, or no such model.
            IntegrityError: A model is named, and the journal was tampered with.
        """
        self.control.repository.require()
        try:
            state = self.control.repository.journal.state()
        except IntegrityError:
            if self.model is not None:
                raise
            return  # each look says so
        if self.model is not None:
            state.require(self.model)

    def look(self) -> Snapshot:
        """Everything as it is now; rates are since the look before."""
        repository, problem = self.control.repository, ""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            state = repository.journal.state()
        except PolicyctlError as error:
            return Snapshot(now, str(repository.root), "", error.problem, ())
        client, counters = None, None
        try:
            client = self._connected()
            counters = {(c.name, c.slot): c for c in client.counters()}
            if client.endpoint.metrics:
                # Triton takes these for answered.
                for slot, count in refused(client.endpoint.metrics).items():
                    if seen := counters.get(slot):
                        counters[slot] = replace(seen, succeeded=seen.succeeded - count, failed=seen.failed + count)
        except ServerError as error:
            problem, client = error.problem, None
            self._close()
        at = monotonic()
        span_s = at - self._before_at
        rows = []
        for key, named in sorted(state.aliases.items()):
            if self.model in {None, key[0]}:
                said = None
                if client is not None and named.drain_s is None:  # a drain ends when nobody asks it
                    said = self._questions.ask(client, key, named.placement, self._looks)
                probe = "" if said is None or not said.asked else said.outcome.value
                if client is not None and probe == ProbeOutcome.FAILED and not client.is_live():
                    probe = "no server"
                rows.append(self._row(state, key, named, counters, span_s, probe, said))
        self._before, self._before_at = counters or {}, at
        self._looks += 1
        held = lock.is_held(repository.lock_path)
        return Snapshot(
            time=now,
            repository=str(repository.root),
            server="" if client is None else client.endpoint.grpc,
            problem=problem,
            aliases=tuple(rows),
            writer=lock.holder(repository.lock_path) if held else "",
            last_move=self._last_move(),
        )

    def _connected(self) -> Triton:
        endpoint = self.control.endpoint()
        if self._client is None or endpoint != self._endpoint:
            self._close()
            self._client, self._endpoint = self.control.client(endpoint, timeout_s=TIMEOUT_S), endpoint
        return self._client

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client, self._before = None, {}

    def _row(
        self,
        state: State,
        key: tuple[str, str],
        named: AliasState,
        counters: dict[tuple[str, int], Counters] | None,
        span_s: float,
        probe: str,
        said: GoldenAnswer | None,
    ) -> Row:
        (model, alias), placement, served = key, named.placement, served_name(*key)
        now = None if counters is None else counters.get((served, placement.slot))
        before = self._before.get((served, placement.slot))
        figures = {} if now is None or before is None else _between(before, now, span_s)
        return Row(
            model=model,
            alias=alias,
            served=served,
            release=placement.release,
            slot=placement.slot,
            format=placement.format.value,
            since=named.since,
            loaded=None if counters is None else now is not None,
            probe=probe,
            probe_us=None if said is None or said.slot is None else round(said.took_us, 1),
            verdicts={
                g: r.verdict.value for (m, v, g), r in state.gates.items() if (m, v) == (model, placement.release)
            },
            moving=_moving(state, key),
            **figures,
        )

    def _last_move(self) -> str:
        records = self.control.repository.journal.records()
        ends = (r for r in reversed(records) if r.kind is RecordKind.OUTCOME)
        end = next((r for r in ends if self.model is None or self._move_of(r.body["move"]).model == self.model), None)
        if end is None:
            return ""
        move = self._move_of(end.body["move"])
        said = f"{move.words}: {end.body['result']} at {utc_text(end.time)}"
        return f"{said} ({move.reason})" if move.reason else said

    def _move_of(self, move_id: str) -> Move:
        records = self.control.repository.journal.records()
        return next(
            Move.from_json(r.body) for r in records if r.kind is RecordKind.INTENT and r.body["move"] == move_id
        )


def _between(before: Counters, now: Counters, span_s: float) -> dict[str, Any]:
    succeeded, failed = now.succeeded - before.succeeded, now.failed - before.failed
    executions = now.executions - before.executions
    if succeeded < 0 or failed < 0 or executions < 0 or span_s <= 0:
        return {}  # it was loaded again
    found: dict[str, Any] = {"rate_per_s": round((succeeded + failed) / span_s, 2), "failed": failed}
    if succeeded:
        found |= {
            "latency_us": round((now.duration_us - before.duration_us) / succeeded, 1),
            "queue_us": round((now.queue_us - before.queue_us) / succeeded, 1),
            "compute_us": round((now.compute_us - before.compute_us) / succeeded, 1),
        }
    if executions:
        found["batch"] = round((succeeded + failed) / executions, 2)
    return found


def _moving(state: State, key: tuple[str, str]) -> str:
    """What is being done to an alias: a move, a drain, or a bake."""
    if (unfinished := state.moving(*key)) is not None:
        kind = unfinished.move.kind
        target = "" if kind is MoveKind.REMOVAL else f" to {unfinished.move.target.release}"
        return f"{kind}{target}: {unfinished.phase}"
    if (named := state.alias(*key)) is not None and named.drain_s is not None:
        return f"drains, for {named.drain_s:g} s at most"
    found = state.bakes.get(key)
    if found is None or found.move.bake is None:
        return ""
    if found.verdict is not None:
        return f"bake {found.verdict}, rollback owed"
    gone_s = (datetime.now(UTC) - datetime.fromisoformat(found.since)).total_seconds()
    return f"bakes: {max(0.0, gone_s):.0f} of {found.move.bake.plan.for_s:g} s"
