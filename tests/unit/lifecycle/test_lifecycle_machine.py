"""Any sequence of publish, promote, roll back, collect, carry away, bring back and repair keeps the rules.

A model of the rules is kept next to the repository; after every step the two
must agree, and everything on disk must be intact.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lifecycle_exports import LARGE, not_intact, spoil
from world import World, write_export

from policyctl.domain.retention import RetentionPolicy
from policyctl.errors import UsageError
from policyctl.services.integrity.journal import prove
from policyctl.services.moves.rollback import rollback
from policyctl.services.releases.gc import gc
from policyctl.services.releases.publish import publish
from policyctl.services.releases.repair import repair
from policyctl.services.releases.transfer import export_release, import_release
from policyctl.services.rollout.promote import promote

ALIASES = st.sampled_from(["production", "staging"])


class Lifecycle(RuleBasedStateMachine):
    """One repository, and what it ought to say."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = Path(tempfile.mkdtemp(prefix="policyctl-machine-"))
        self.world = World(self.folder / "site", self.patch)
        self.here: list[str] = []
        self.gone: list[str] = []
        self.exported: set[str] = set()
        self.trails: dict[str, list[str]] = {"production": [], "staging": []}

    def teardown(self) -> None:
        self.patch.undo()
        for path in self.folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.publish(shared=True)

    @rule(shared=st.booleans())
    def publish(self, shared: bool) -> None:
        number = len(self.here) + len(self.gone)
        source = write_export(self.folder / f"e{number}", number)
        (source / "weights.bin").write_bytes(LARGE if shared else LARGE + bytes([number % 256]))
        done = publish(self.world.control, source, model="walker", release=f"1.{number}.0")
        assert done.slot == number + 1
        self.here.append(done.release)

    @rule(alias=ALIASES, index=st.integers(0, 99))
    def promote(self, alias: str, index: int) -> None:
        release = self.here[index % len(self.here)]
        promote(self.world.control, model="walker", release=release, alias=alias)
        if self.trails[alias][-1:] != [release]:
            self.trails[alias].append(release)

    @rule(alias=ALIASES)
    def roll_back(self, alias: str) -> None:
        trail = self.trails[alias]
        if len(trail) < 2 or trail[-2] in self.gone:
            with pytest.raises(UsageError):
                rollback(self.world.control, model="walker", alias=alias)
            return
        rollback(self.world.control, model="walker", alias=alias)
        trail.pop()

    @rule(rollbacks=st.integers(1, 2), newest=st.integers(1, 2))
    def collect(self, rollbacks: int, newest: int) -> None:
        needed = set(sorted(self.here, key=lambda r: int(r.split(".")[1]))[-newest:])
        for trail in self.trails.values():
            earlier = [r for r in dict.fromkeys(reversed(trail)) if r != trail[-1]] if trail else []
            needed |= {*trail[-1:], *earlier[:rollbacks]}
        done = gc(self.world.control, policy=RetentionPolicy(rollbacks, 0, newest), delete=True)
        assert {r.release for r in done.collect} == set(self.here) - needed
        self.gone += [r for r in self.here if r not in needed]
        self.here = [r for r in self.here if r in needed]

    @rule(index=st.integers(0, 99))
    def export(self, index: int) -> None:
        release = self.here[index % len(self.here)]
        export_release(self.world.control, model="walker", release=release, destination=str(self.folder / "layout"))
        self.exported.add(release)

    @precondition(lambda self: self.exported)
    @rule(index=st.integers(0, 99))
    def bring_in(self, index: int) -> None:
        release = sorted(self.exported)[index % len(self.exported)]
        done = import_release(self.world.control, f"{self.folder / 'layout'}@walker:{release}")
        assert done.done == ("restored" if release in self.gone else "here already")
        if release in self.gone:
            self.gone.remove(release)
            self.here.append(release)

    @precondition(lambda self: self.exported & set(self.here))
    @rule(index=st.integers(0, 99), manifest=st.booleans())
    def break_and_repair(self, index: int, manifest: bool) -> None:
        release = sorted(self.exported & set(self.here))[index % len(self.exported & set(self.here))]
        slot = self.world.state.release("walker", release).slot
        spoil(self.world.root / "walker" / str(slot) / ("manifest.json" if manifest else "model.onnx"))
        assert not_intact(self.world)
        repair(self.world.control, sources=[str(self.folder / "layout")])

    @precondition(lambda self: self.gone)
    @rule(index=st.integers(0, 99), alias=ALIASES)
    def want_what_is_gone(self, index: int, alias: str) -> None:
        release = self.gone[index % len(self.gone)]
        with pytest.raises(UsageError, match="policyctl gc removed"):
            promote(self.world.control, model="walker", release=release, alias=alias)

    @invariant()
    def all_is_intact_and_as_the_rules_say(self) -> None:
        assert not_intact(self.world) == []
        assert prove(self.world.control).intact
        state = self.world.state
        assert {r for (_, r), p in state.releases.items() if not p.collected} == set(self.here)
        assert {r for (_, r), p in state.releases.items() if p.collected} == set(self.gone)
        for alias, trail in self.trails.items():
            served = "walker" if alias == "production" else f"walker.{alias}"
            assert self.world.answered(served) == self.world.named(alias) == (trail[-1] if trail else None)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(
    max_examples=8, stateful_step_count=14, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
