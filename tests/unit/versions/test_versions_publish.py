"""Publishing: numbers that mean something, on a real repository."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from exports import export_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from world import CONTRACT

from policyctl.domain.compatibility import compare, needed
from policyctl.domain.contract import Contract
from policyctl.domain.tensor import TensorSpec
from policyctl.domain.versions import Bump, parse, parse_range
from policyctl.errors import PolicyctlError, UsageError
from policyctl.services.control import Control
from policyctl.services.integrity.verify import verify
from policyctl.services.releases.numbers import contracts_of, next_release
from policyctl.services.releases.publish import publish
from policyctl.services.show.status import history
from policyctl.settings import load

VALUE = TensorSpec("value", "float32", (1,))
ADDED = replace(CONTRACT, outputs=(*CONTRACT.outputs, VALUE))
BROKEN = replace(CONTRACT, observations=(TensorSpec("seen", "float32", (3,)),))


def _publish(world, release: str, contract: Contract = CONTRACT, **kwargs):
    folder = world.folder / f"export-{release}"
    source = folder if folder.exists() else export_of(folder, contract)
    return publish(world.control, source, model="walker", release=release, **kwargs)


def _refused(world, release: str, contract: Contract = CONTRACT, **kwargs) -> UsageError:
    before = world.control.repository.journal.path.read_bytes()
    with pytest.raises(UsageError) as refusal:
        _publish(world, release, contract, **kwargs)
    assert world.control.repository.journal.path.read_bytes() == before
    return refusal.value


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_number_that_promises_less_than_the_change_is_refused(world, dry_run: bool) -> None:
    """Each difference is named with the bump that it needs, and a number that would do."""
    _publish(world, "1.0.0")
    refused = _refused(world, "1.0.1", replace(BROKEN, outputs=ADDED.outputs), dry_run=dry_run)
    assert "walker 1.0.1 promises less than it changes" in refused.problem
    assert "'observation' was renamed to 'seen' (needs MAJOR)" in refused.problem
    assert "'value' was added (needs MINOR)" in refused.problem
    assert "Publish it as 2.0.0" in refused.remedy
    assert sorted(p.name for p in (world.root / "walker").iterdir()) == ["1"]
    _publish(world, "2.0.0", replace(BROKEN, outputs=ADDED.outputs))


def test_a_patch_of_an_older_line_is_published_beside_newer_releases(world) -> None:
    """1.2.4 may follow 2.0.0; it is held against 1.2.3 below and 1.3.0 above."""
    _publish(world, "1.2.3")
    _publish(world, "1.3.0")
    _publish(world, "2.0.0", BROKEN)
    assert _publish(world, "1.2.4").slot == 4
    refused = _refused(world, "1.2.5", ADDED)
    assert "from 1.2.4 to 1.2.5 is a PATCH" in refused.problem
    refused = _refused(world, "1.2.6", BROKEN)
    assert "Publish it as 2.0.1" in refused.remedy


def test_a_release_between_two_must_leave_the_later_its_promise(world) -> None:
    """1.1.0 may not add what 1.2.0 lacks: clients of ^1.1 would lose it."""
    _publish(world, "1.0.0")
    _publish(world, "1.2.0")
    assert "from 1.1.0 to 1.2.0 is a MINOR, but output 'value' was removed" in _refused(world, "1.1.0", ADDED).problem


def test_build_metadata_makes_no_second_release(world) -> None:
    """Two numbers that differ in it alone are equal; the second is refused, whichever has it."""
    _publish(world, "1.0.0+gpu")
    for twin in ("1.0.0", "1.0.0+cpu"):
        assert "equals 1.0.0+gpu" in _refused(world, twin).problem


def test_the_contract_of_a_damaged_release_still_counts(world) -> None:
    """The journal keeps it, so no damage to files lets a number promise less."""
    _publish(world, "1.0.0")
    slot = world.root / "walker" / "1"
    slot.chmod(0o755)
    (slot / "contract.json").chmod(0o644)
    (slot / "contract.json").write_text("{}")
    assert "needs MAJOR" in _refused(world, "1.1.0", BROKEN).problem
    _publish(world, "1.0.1")


def test_the_journal_keeps_contracts_and_history_leaves_them_out(world) -> None:
    """So the rules hold also where the files of a release are gone."""
    _publish(world, "1.0.0")
    state = world.control.repository.journal.state()
    assert state.releases["walker", "1.0.0"].contract == CONTRACT.to_json()
    assert contracts_of(state, "walker")("1.0.0") == CONTRACT
    assert all("contract" not in record for record in history(world.control))


def test_the_next_number_is_proposed_with_its_reasons(world) -> None:
    """From the contract alone; whatever is proposed can be published."""
    folder = export_of(world.folder / "a", CONTRACT)
    assert next_release(world.control, folder, model="walker").proposal.release == "1.0.0"
    _publish(world, "1.0.0")
    found = next_release(world.control, export_of(world.folder / "b", ADDED), model="walker")
    document = found.to_json()
    assert (document["release"], document["after"], document["needs"]) == ("1.1.0", "1.0.0", "minor")
    assert [(d["name"], d["needs"]) for d in document["differences"]] == [("value", "minor")]
    _publish(world, "1.1.0", ADDED)
    _publish(world, "2.0.0", BROKEN)
    assert next_release(world.control, folder, model="walker", after="~1.0.0").proposal.release == "1.0.1"
    assert next_release(world.control, folder, model="walker", prerelease="rc").proposal.release == "3.0.0-rc.1"
    json.dumps(document)


CONTRACTS = {"plain": CONTRACT, "added": ADDED, "broken": BROKEN}
small = st.integers(0, 2)
asked = st.builds(
    lambda a, b, c, tail: f"{a}.{b}.{c}{tail}", small, small, small, st.sampled_from(["", "", "", "-rc.1", "+b"])
)


class Publishers(RuleBasedStateMachine):
    """Random numbers, contracts and bytes, published and published again; and the rules as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.control = Control.of(load(repository=self.folder / "repository"))
        self.have: dict[str, tuple[str, int, int, str]] = {}

    def teardown(self) -> None:
        found = {r.release: r.slot for r in self.control.repository.journal.state().of_model("walker")}
        assert found == {release: slot for release, (_, _, slot, _) in self.have.items()}
        assert not self.have or all(f.intact for f in verify(self.control))
        for path in (self.folder, *self.folder.rglob("*")):
            path.chmod(0o755)
        self.temporary.cleanup()

    def _source(self, kind: str, seed: int) -> Path:
        folder = self.folder / f"{kind}-{seed}"
        return folder if folder.exists() else export_of(folder, CONTRACTS[kind], seed)

    @rule(release=asked, kind=st.sampled_from(sorted(CONTRACTS)), seed=st.integers(1, 2))
    def publish(self, release: str, kind: str, seed: int) -> None:
        """Done, done already, or refused for the reason that the rules give."""
        try:
            done = publish(self.control, self._source(kind, seed), model="walker", release=release)
        except PolicyctlError as error:
            said = error.problem
        else:
            if release in self.have:
                assert (kind, seed, done.slot, done.manifest_digest) == self.have[release]
            else:
                assert self._why_not(release, kind) == ""
                assert done.slot == len(self.have) + 1
                self.have[release] = (kind, seed, done.slot, done.manifest_digest)
            return
        if release in self.have:
            assert self.have[release][:2] != (kind, seed)
            assert "with other bytes" in said
        else:
            assert self._why_not(release, kind)
            assert self._why_not(release, kind) in said

    def _why_not(self, release: str, kind: str) -> str:
        """What the refusal says; empty where the number may be had."""
        number = parse(release)
        if any(parse(other) == number for other in self.have):
            return "build metadata"
        for other, (theirs, *_) in self.have.items():
            if parse(other).prerelease or (parse(other) > number and number.prerelease):
                continue
            first, second = sorted(((release, kind), (other, theirs)), key=lambda pair: parse(pair[0]))
            change = needed(compare(CONTRACTS[first[1]], CONTRACTS[second[1]]))
            a, b = parse(first[0]), parse(second[0])
            if change is Bump.MAJOR and a.major == b.major and (a.major or a.minor == b.minor):
                return "promises less"
            if change is Bump.MINOR and 0 < a.major == b.major and a.minor == b.minor:
                return "promises less"
        return ""

    @rule(text=st.sampled_from(["^0", "^0.1", "^1", "~1.1", "^1.0.0-rc.1", "latest", "1.0.0"]))
    def select(self, text: str) -> None:
        """A selector names a published release that it matches, or is refused."""
        state = self.control.repository.journal.state()
        try:
            found = state.select("walker", text).release
        except UsageError:
            assert text not in self.have
            return
        assert found in self.have
        assert text == "latest" or parse_range(text).matches(found)


Publishers.TestCase.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
TestPublishers = Publishers.TestCase


def test_an_export_can_be_published_under_what_is_proposed_for_it(world) -> None:
    """Exports in a row, each under its proposal."""
    for number, kind in enumerate(["plain", "added", "broken", "plain", "plain", "added", "added", "broken"]):
        source = export_of(world.folder / f"{number}", CONTRACTS[kind], seed=number)
        found = next_release(world.control, source, model="walker").proposal.release
        publish(world.control, source, model="walker", release=found)
    releases = [r.release for r in world.state.of_model("walker")]
    assert releases == ["1.0.0", "1.1.0", "2.0.0", "3.0.0", "3.0.1", "3.1.0", "3.1.1", "4.0.0"]
