"""Status and history: what is published, named, served, and what happened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from policyctl.adapters import lock
from policyctl.adapters.triton import Triton
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.json_values import fields_to_json
from policyctl.domain.moves import MoveKind
from policyctl.domain.names import is_pin, served_name
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import ServerError
from policyctl.services.control import Control
from policyctl.services.integrity.scrub import ScrubState, last_state
from policyctl.services.machine.memory_headroom import ServedCost, costs
from policyctl.services.show.explain import Note, explain
from policyctl.serving.hardware import MemoryLeft, memory_left


@dataclass(frozen=True, slots=True)
class AliasStatus:
    """What an alias names, and what answers for it.

    Attributes:
        served: The Triton model that clients call.
        answers: The release that answered an inference just now; None if nobody did.
        detail: Why, where nobody did.
        pinned: Whether it is a release under its own number, which never moves.
        drain_s: Of a pin that ends by itself: how long at most it is served after the move that it is for.
        memory_bytes: What its backend processes have to themselves; None where it
            has none (it runs inside the server) or they cannot be seen.
    """

    model: str
    alias: str
    served: str
    release: str
    slot: int
    format: str
    since: str
    answers: str | None
    detail: str
    pinned: bool
    drain_s: float | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """The repository and its server, as they are now."""

    repository: str
    server: str
    server_live: bool
    openvino_backend: str
    releases: tuple[dict[str, Any], ...]
    aliases: tuple[AliasStatus, ...]
    unfinished: str | None
    writer: str | None
    memory: MemoryLeft | None
    notes: tuple[Note, ...]
    scrub: ScrubState | None = None
    engine: str = ""

    @property
    def healthy(self) -> bool:
        """Whether every alias is answered by the release that it names."""
        return all(a.answers == a.release for a in self.aliases) and self.unfinished is None

    def to_json(self) -> dict[str, Any]:
        """A JSON object: the fields, and whether all is well."""
        return {**fields_to_json(self), "healthy": self.healthy}


def status(control: Control, *, model: str | None = None) -> Status:
    """Look at the journal, and ask every alias for an action.

    Raises:
        UsageError: No such model, or nothing published at all.
        IntegrityError: The journal was tampered with.
    """
    repository, state = control.repository, control.known(model)
    aliases: tuple[AliasStatus, ...]
    server, live, openvino, engine = "none", False, "", ""
    spent: dict[tuple[str, str], ServedCost] = {}
    left: MemoryLeft | None = None
    try:
        with control.triton() as client:
            server, live, openvino = client.endpoint.grpc, True, client.endpoint.openvino
            engine = client.endpoint.engine
            spent = costs(state, client.endpoint)
            left = memory_left(process=str(client.endpoint.pid)) if client.endpoint.pid else None
            aliases = _aliases(control, state, client, model, spent)
    except ServerError as error:
        server = control.settings.server.url or server
        aliases = _aliases(control, state, None, model, spent, detail=error.problem)
    held = lock.is_held(repository.lock_path)
    unfinished = "; ".join(f"{each.move.words} ({each.phase})" for _, each in sorted(state.unfinished.items()))
    return Status(
        repository=str(repository.root),
        server=server,
        server_live=live,
        openvino_backend=openvino,
        releases=releases(state, model),
        aliases=aliases,
        unfinished=unfinished or None,
        writer=lock.holder(repository.lock_path) if held else None,
        memory=left,
        notes=explain(control, state, model=model, costs=spent, left=left),
        scrub=last_state(repository) if live else None,
        engine=engine,
    )


def history(
    control: Control, *, model: str | None = None, before: int | None = None, limit: int | None = None
) -> tuple[dict[str, Any], ...]:
    """Every record of the journal, oldest first, or those of one model; its chain is checked.

    Args:
        control: The control plane.
        model: Only the records about this one.
        before: Only records before this `seq`.
        limit: Only so many of them, the last ones.

    Raises:
        UsageError: No such model, or nothing published at all.
        IntegrityError: The journal was tampered with.
    """
    control.known(model)
    records = control.repository.journal.records()
    intents = {record.body["move"]: record.body for record in records if record.kind is RecordKind.INTENT}

    def about(record: Record) -> Any:
        return record.body.get("model") or intents.get(record.body.get("move"), {}).get("model")

    wanted = (record for record in reversed(records[:before]) if model is None or about(record) == model)
    return tuple(_shown(record, intents) for record in islice(wanted, limit))[::-1]


def _shown(record: Record, intents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A record as a history shows it: what is long is left out, and a step of a move says of which one."""
    body = dict(record.body)
    if record.kind is RecordKind.INTENT:
        body = _intent(body)
    elif record.kind is RecordKind.PUBLISHED:
        body.pop("contract", None)
    elif (intent := intents.get(body.get("move", ""))) is not None:
        begun = _intent(intent)
        body = {**{name: begun[name] for name in ("model", "alias", "move_kind", "from", "to")}, **body}
    return {"seq": record.seq, "time": record.time, "actor": record.actor, "kind": record.kind.value, **body}


def _intent(body: Mapping[str, Any]) -> dict[str, Any]:
    incumbent, target = body["incumbent"], body["target"]
    shown = {name: value for name, value in body.items() if name not in {"incumbent", "target"}}
    shown |= {
        "from": None if incumbent is None else incumbent["release"],
        "to": None if body["move_kind"] == MoveKind.REMOVAL else target["release"],
        "format": target["format"],
    }
    if "bake" in body:
        shown["bake"] = body["bake"]["plan"]  # the incumbent's figures are long, and in the evidence
    return shown


def releases(state: State, model: str | None) -> tuple[dict[str, Any], ...]:
    """Every release, or those of one model, by slot."""
    if model is not None:
        return described(state, state.of_model(model))
    return described(state, sorted(state.releases.values(), key=lambda r: (r.model, r.slot)))


def described(state: State, published: Collection[PublishedRelease]) -> tuple[dict[str, Any], ...]:
    """Those releases, each with its gates and aliases; everything else is looked through once for all of them."""
    gates: dict[tuple[str, str], dict[str, str]] = {(r.model, r.release): {} for r in published}
    for (owner, release, gate), record in state.gates.items():
        if (owner, release) in gates:
            gates[owner, release][gate] = record.verdict.value
    aliases: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for (owner, alias), named in sorted(state.aliases.items(), key=lambda each: each[0]):
        aliases[owner, named.placement.slot].append(alias)
    return tuple(
        {
            "model": r.model,
            "release": r.release,
            "slot": r.slot,
            "published": r.time,
            "by": r.actor,
            "manifest_digest": r.manifest_digest,
            "collected": r.collected or None,
            "gates": dict(sorted(gates[r.model, r.release].items())),
            "aliases": aliases[r.model, r.slot],
        }
        for r in published
    )


def _aliases(
    control: Control,
    state: State,
    client: Triton | None,
    model: str | None,
    spent: dict[tuple[str, str], ServedCost],
    *,
    detail: str = "",
) -> tuple[AliasStatus, ...]:
    if client is not None:
        from policyctl.services.golden_questions import Questions  # late: it needs numpy

        questions = Questions(control)
    found = []
    for (owner, alias), named in sorted(state.aliases.items()):
        if model in {None, owner}:
            answers, why, placement, cost = None, detail, named.placement, spent.get((owner, alias))
            if client is not None:
                said = questions.ask(client, (owner, alias), placement)
                answers = state.slots(owner).get(str(said.slot))
                strange = said.slot is not None and answers != placement.release
                why = said.words if said.slot is None else f"slot {said.slot} answers" * strange
            found.append(
                AliasStatus(
                    model=owner,
                    alias=alias,
                    served=served_name(owner, alias),
                    release=placement.release,
                    slot=placement.slot,
                    format=placement.format.value,
                    since=named.since,
                    answers=answers,
                    detail=why,
                    pinned=is_pin(alias),
                    drain_s=named.drain_s,
                    memory_bytes=cost.own_bytes if cost is not None and cost.instances else None,
                )
            )
    return tuple(found)
