"""Health: is it served, is it intact, can it be changed; with a reason for each.

*down* is for what clients notice: no server answers, or none of the aliases
does. Everything else that is not as it should be is *degraded*: a load
balancer that takes *degraded* for *down* would turn a full disk into an outage.

An alias counts as answered only by an inference, from the slot that the journal
says, within the tolerance of the golden set. Integrity is what the scrub has
seen; of a release only contract and golden set are read, once, to know what to ask it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from urllib3.exceptions import HTTPError

from policyctl.adapters import lock
from policyctl.adapters.triton import Triton
from policyctl.adapters.web import Web
from policyctl.domain.instants import utc_text
from policyctl.domain.names import served_name
from policyctl.domain.state import AliasState, State
from policyctl.errors import PolicyctlError, ServerError
from policyctl.services.control import Control
from policyctl.services.golden_questions import Questions
from policyctl.services.integrity.journal import at
from policyctl.services.integrity.scrub import last_state

ASK_TIMEOUT_S: Final = 2.0
"""For one question."""
LOOK_S: Final = 10.0
"""For all of them; an alias whose turn has not come then counts as not answering."""


class Grade(StrEnum):
    """How something is; the worst counts."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What: server, alias, integrity, journal, disk, moves, prometheus.
        facts: What a program may want to know of it.
    """

    name: str
    grade: Grade
    detail: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"name": self.name, "status": self.grade.value, "detail": self.detail, **self.facts}


@dataclass(frozen=True, slots=True)
class Health:
    """Everything that was looked at."""

    checks: tuple[Check, ...]

    @property
    def grade(self) -> Grade:
        """The worst; *down* where no alias at all answers."""
        aliases = [c.grade for c in self.checks if c.name == "alias"]
        others = [c.grade for c in self.checks if c.name != "alias"]
        if Grade.DOWN in others or (aliases and all(grade is Grade.DOWN for grade in aliases)):
            return Grade.DOWN
        return Grade.OK if all(grade is Grade.OK for grade in aliases + others) else Grade.DEGRADED

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"status": self.grade.value, "checks": [check.to_json() for check in self.checks]}


@dataclass(slots=True)
class Looker:
    """Looks, and remembers what to ask each release."""

    control: Control
    _questions: Questions = field(init=False)

    def __post_init__(self) -> None:
        self._questions = Questions(self.control)

    def look(self) -> Health:
        """How everything is now; never raises for what it finds."""
        try:
            records = self.control.repository.journal.records()
            state = self.control.repository.journal.state()
            journal = Check(
                "journal", Grade.OK, f"{len(records)} records, the chain is whole", {"records": len(records)}
            )
        except PolicyctlError as error:
            state = State()
            journal = Check("journal", Grade.DEGRADED, f"{error.problem}. {error.remedy}", {"records": None})
        return Health(
            (*self._served(state), self._integrity(), journal, self._disk(), self._moves(state), *self._prometheus())
        )

    def _served(self, state: State) -> Sequence[Check]:
        """The server, and every alias by an answered inference."""
        server = self.control.settings.server
        quick = server.model_copy(update={"timeout_s": min(ASK_TIMEOUT_S, server.timeout_s)})
        control = replace(self.control, settings=self.control.settings.model_copy(update={"server": quick}))
        certified = self._certified()
        try:
            with control.triton() as client:
                until = time.monotonic() + LOOK_S
                aliases = [
                    self._alias(key, named, certified, self._ask(client, key, named, until))
                    for key, named in sorted(state.aliases.items())
                    if named.drain_s is None  # a drain ends when nobody asks it
                ]
                return (self._server(client, aliases), *aliases)
        except ServerError as error:
            silent = [self._alias(k, n, certified, "no server answers") for k, n in sorted(state.aliases.items())]
            return (Check("server", Grade.DOWN, f"{error.problem}. {error.remedy}", {"address": None}), *silent)

    def _server(self, client: Triton, aliases: Sequence[Check]) -> Check:
        facts = {"address": client.endpoint.grpc}
        answering = sum(each.grade is Grade.OK for each in aliases)
        if not aliases:
            return Check("server", Grade.OK, "it lives; no alias is there to be asked", facts)
        words = f"{answering} of {len(aliases)} aliases answered an inference"
        return Check("server", Grade.OK if answering else Grade.DOWN, words, facts)

    def _ask(self, client: Triton, key: tuple[str, str], named: AliasState, until: float) -> str:
        """Why an alias does not answer as named; empty where it does."""
        if time.monotonic() >= until:
            return f"it was not asked: the others took {LOOK_S:.0f} s"
        said = self._questions.ask(client, key, named.placement)
        return said.words if said.slot in {None, named.placement.slot} else f"slot {said.slot} answers"

    def _certified(self) -> Mapping[tuple[str, str], str]:
        """When each alias's release was last certified."""
        try:
            aliases = at(self.control, "now").aliases
        except PolicyctlError:
            return {}
        return {(a.model, a.alias): a.certified.time for a in aliases if a.certified is not None}

    def _alias(
        self, key: tuple[str, str], named: AliasState, certified: Mapping[tuple[str, str], str], why: str
    ) -> Check:
        facts = {
            "model": key[0],
            "alias": key[1],
            "served": served_name(*key),
            "release": named.placement.release,
            "slot": named.placement.slot,
            "certified": certified.get(key),
        }
        return Check("alias", Grade.DOWN if why else Grade.OK, why or "answered", facts)

    def _integrity(self) -> Check:
        seen = last_state(self.control.repository)
        if not self.control.settings.scrub.enabled:
            return Check("integrity", Grade.OK, "not scrubbed: a setting says so", {"last_pass": None, "wrong": None})
        if seen is None:
            return Check("integrity", Grade.OK, "not scrubbed yet", {"last_pass": None, "wrong": None})
        facts = {"last_pass": seen.last_pass or None, "wrong": len(seen.wrong)}
        return Check("integrity", Grade.DEGRADED if seen.wrong else Grade.OK, seen.words, facts)

    def _disk(self) -> Check:
        try:
            usage = shutil.disk_usage(self.control.repository.root)
        except OSError as error:
            words = f"{self.control.repository.root}: {error.strerror}"
            return Check("disk", Grade.DEGRADED, words, {"free_bytes": None, "total_bytes": None})
        least = self.control.settings.api.disk_free_mib << 20
        words = f"{usage.free >> 20} MiB free"
        if usage.free < least:
            words += f", fewer than {least >> 20}: see policyctl gc"
        grade = Grade.OK if usage.free >= least else Grade.DEGRADED
        return Check("disk", grade, words, {"free_bytes": usage.free, "total_bytes": usage.total})

    def _moves(self, state: State) -> Check:
        open_moves = [state.unfinished[model] for model in sorted(state.unfinished)]
        facts: dict[str, Any] = {"move": open_moves[0].move.id if open_moves else None}
        if not open_moves:
            return Check("moves", Grade.OK, "none is under way", facts)
        words = "; ".join(f"the {each.move.words} ({each.phase}), since {utc_text(each.since)}" for each in open_moves)
        if lock.is_held(self.control.repository.lock_path):
            return Check("moves", Grade.OK, f"under way: {words}", facts)
        return Check("moves", Grade.DEGRADED, f"left open: {words}; the server finishes or reverts it", facts)

    def _prometheus(self) -> Sequence[Check]:
        bake = self.control.settings.bake
        if not bake.prometheus:
            return ()
        token = bake.prometheus_token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            url = f"{bake.prometheus.rstrip('/')}/-/ready"
            with closing(Web().send("GET", url, headers=headers, limit_s=ASK_TIMEOUT_S)) as answer:
                ready = answer.status == HTTPStatus.OK
        except (HTTPError, ValueError) as error:
            return (Check("prometheus", Grade.DEGRADED, f"it does not answer ({type(error).__name__})"),)
        return (Check("prometheus", Grade.OK if ready else Grade.DEGRADED, f"HTTP {answer.status} of its readiness"),)
