"""Any sequence of promotions, manual moves, kills and supervision keeps the rules of the bake.

A model of the rules is kept next to the repository: who moved the alias last,
and whether what it is on is owed a bake. Nothing that dies loses the duty, no
release stays that failed, and whatever a person does is not undone.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest
from bake_world import BakeWorld
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policyctl.domain.bake import Then
from policyctl.errors import UsageError
from policyctl.services.bake.keeper import BakeKeeper
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote

RELEASES = st.sampled_from(["1.0.0", "1.1.0", "1.2.0"])
NATURES = st.sampled_from(["good", "failing", "slow"])
KEY = ("walker", "production")


class Bakes(RuleBasedStateMachine):
    """One alias, and what it ought to name."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = tempfile.TemporaryDirectory(prefix="policyctl-bakes-")
        self.world = BakeWorld(Path(self.folder.name) / "site", self.patch)
        self.trail = ["1.0.0"]
        self.owed: str | None = None
        self.natures: dict[str, str] = {}

    def teardown(self) -> None:
        self.patch.undo()
        for path in Path(self.folder.name).rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        self.folder.cleanup()

    def _control(self):
        return self.world.baking(then=Then.KEEP)

    def _end(self, release: str) -> None:
        """What the bake of `release` must come to, by the nature of it and of what was before."""
        self.owed = None
        if self.world.named() != release:
            assert self.natures.get(release, "good") != "good", "a good release was taken back"
            self.trail.pop()

    @rule(release=RELEASES, nature=NATURES)
    def becomes(self, release: str, nature: str) -> None:
        self.natures[release] = nature
        self.world.failing[release] = 0.3 if nature == "failing" else 0.0
        self.world.latency_us[release] = 5000.0 if nature == "slow" else 600.0

    @rule(release=RELEASES)
    def promote_watched(self, release: str) -> None:
        moved = promote(self._control(), model="walker", release=release, alias="production")
        assert moved.changed == (self.trail[-1] != release)
        if moved.changed:
            self.trail.append(release)
        if moved.changed or self.owed:
            self._end(release)

    @rule(release=RELEASES, at=st.integers(1, 40))
    def promote_and_be_killed(self, release: str, at: int) -> None:
        if self.trail[-1] == release:
            return
        child = os.fork()
        if child == 0:
            self.world.meanwhile[self.world.waits + at] = lambda: os.kill(os.getpid(), signal.SIGKILL)
            promote(self._control(), model="walker", release=release, alias="production")
            os._exit(0)
        _, how = os.waitpid(child, 0)
        if os.WIFSIGNALED(how) and self.owed and self.world.named() == self.trail[-1]:
            return  # it died while it watched the incumbent: nothing has happened
        self.trail.append(release)
        if os.WIFEXITED(how):
            self._end(release)
        else:
            self.owed = release

    @rule(release=RELEASES, by_hand=RELEASES, at=st.integers(1, 3))
    def somebody_moves_it_meanwhile(self, release: str, by_hand: str, at: int) -> None:
        if self.trail[-1] == release or by_hand == release:
            return
        before = []

        def move() -> None:
            # An older bake may be open still: then this comes while the incumbent is watched, before the switch.
            before.append(self.world.named() != release)
            changed = promote(self.world.control, model="walker", release=by_hand, alias="production").changed
            if before == [True] and changed:
                self.trail.append(by_hand)

        self.world.meanwhile = {self.world.waits + at: move}
        promote(self._control(), model="walker", release=release, alias="production")
        self.world.meanwhile = {}
        self.trail.append(release)
        if before == [False]:
            self.owed = None
            self.trail.append(by_hand)
        else:
            self._end(release)

    @rule()
    def roll_back_by_hand(self) -> None:
        if len(self.trail) < 2:
            with pytest.raises(UsageError):
                rollback(self.world.control, model="walker", alias="production")
            return
        rollback(self.world.control, model="walker", alias="production")
        self.trail.pop()
        self.owed = None

    @rule(release=RELEASES)
    def promote_unwatched(self, release: str) -> None:
        promote(self.world.control, model="walker", release=release, alias="production", bake=False)
        if self.trail[-1] != release:
            self.trail.append(release)
        self.owed = None  # moved on, or kept because a person says so

    @precondition(lambda self: self.owed)
    @rule()
    def the_supervisor_looks(self) -> None:
        keeper = BakeKeeper(self.world.control, threading.Event())
        keeper.look()
        for thread in keeper._threads.values():
            thread.join()
        assert self.owed is not None
        self._end(self.owed)

    @invariant()
    def the_journal_the_server_and_the_rules_agree(self) -> None:
        state = self.world.state
        assert self.world.named() == self.world.answered() == self.trail[-1]
        assert (KEY in state.bakes) == (self.owed is not None)
        assert not state.unfinished

    @invariant()
    def no_release_stays_that_failed(self) -> None:
        """Where the last word on the release that is named is a failed bake, a person moved it there since."""
        records = self.world.control.repository.journal.records()
        verdicts = [r for r in records if r.kind == "gate" and r.body["gate"] == "bake"]
        if not verdicts or verdicts[-1].body["then"] == "keep":
            return
        intents = {r.body["move"]: r for r in records if r.kind == "intent"}
        after = [r for r in records[verdicts[-1].seq :] if r.kind == "outcome" and r.body["result"] == "done"]
        assert after, "a failed bake was not followed by a move"
        back = intents[after[0].body["move"]]
        assert verdicts[-1].body["evidence"] in back.body["reason"]


TestBakes = Bakes.TestCase
TestBakes.settings = settings(
    max_examples=4, stateful_step_count=8, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
