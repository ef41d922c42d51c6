"""Which number a release may have: the rules, against a model that looks at every pair."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policyctl.domain.compatibility import compare, needed
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.succession import neighbours, object_to, propose, same_precedence
from policyctl.domain.tensor import TensorSpec
from policyctl.domain.versions import Bump, parse, parse_range

ACTION = TensorSpec("action", "float32", (1,), low=-1.0, high=1.0)
EXTRA = {name: TensorSpec(name, "float32", (1,)) for name in ("value", "advantage")}


def contract(high: float = 1.0, *extra: str) -> Contract:
    observation = TensorSpec("observation", "float32", (2,), high=high)
    return Contract((observation,), (ACTION, *(EXTRA[name] for name in sorted(extra))), ActionKind.CONTINUOUS)


PLAIN = contract()
ADDED = contract(1.0, "value")
BROKEN = contract(0.5)

RULES = {
    # published, asked for, its contract: None where it is admitted, else the step that is objected to
    "the first may be anything": ({}, "0.0.1", PLAIN, None),
    "nothing changed: a patch": ({"1.0.0": PLAIN}, "1.0.1", PLAIN, None),
    "nothing changed: any number": ({"1.0.0": PLAIN}, "3.0.0", PLAIN, None),
    "added: no patch": ({"1.0.0": PLAIN}, "1.0.1", ADDED, ("1.0.0", "1.0.1")),
    "added: a minor": ({"1.0.0": PLAIN}, "1.1.0", ADDED, None),
    "broken: no minor": ({"1.0.0": PLAIN}, "1.1.0", BROKEN, ("1.0.0", "1.1.0")),
    "broken: a major": ({"1.0.0": PLAIN}, "2.0.0", BROKEN, None),
    "before 1.0.0 a patch may add": ({"0.1.0": PLAIN}, "0.1.1", ADDED, None),
    "before 1.0.0 a patch may not break": ({"0.1.0": PLAIN}, "0.1.1", BROKEN, ("0.1.0", "0.1.1")),
    "before 1.0.0 a minor may break": ({"0.1.0": PLAIN}, "0.2.0", BROKEN, None),
    "1.0.0 may break": ({"0.9.0": PLAIN}, "1.0.0", BROKEN, None),
    "a patch of an older line": ({"1.2.3": PLAIN, "2.0.0": BROKEN}, "1.2.4", PLAIN, None),
    "a patch of an older line that adds": (
        {"1.2.3": PLAIN, "2.0.0": BROKEN},
        "1.2.4",
        ADDED,
        ("1.2.3", "1.2.4"),
    ),
    "a minor of an older line": ({"1.2.3": PLAIN, "2.0.0": BROKEN}, "1.3.0", ADDED, None),
    "between two of a line, adding what the later lacks": (
        {"1.2.0": PLAIN, "1.4.0": PLAIN},
        "1.3.0",
        ADDED,
        ("1.3.0", "1.4.0"),
    ),
    "between two of a line, adding what the later has": ({"1.2.0": PLAIN, "1.4.0": ADDED}, "1.3.0", ADDED, None),
    "below all, compatible": ({"1.0.0": ADDED}, "0.9.0", BROKEN, None),
    "below all, in the same line": ({"1.4.0": PLAIN}, "1.3.0", ADDED, ("1.3.0", "1.4.0")),
    "a pre-release is held to its number": ({"1.2.0": PLAIN}, "1.3.0-rc.1", BROKEN, ("1.2.0", "1.3.0-rc.1")),
    "a pre-release of a major may break": ({"1.2.0": PLAIN}, "2.0.0-rc.1", BROKEN, None),
    "pre-releases may differ from each other": ({"1.0.0-rc.1": PLAIN}, "1.0.0-rc.2", BROKEN, None),
    "a release may differ from its pre-release": ({"1.0.0-rc.1": PLAIN}, "1.0.0", BROKEN, None),
    "a pre-release binds no later release": ({"1.0.0": PLAIN, "1.1.0-rc.1": ADDED}, "1.1.0", PLAIN, None),
    "a pre-release is not held against what is above": ({"1.4.0": PLAIN}, "1.3.0-rc.1", ADDED, None),
}


@pytest.mark.parametrize("name", RULES)
def test_a_number_must_promise_what_changes(name: str) -> None:
    """Against the release below and the release above, by the documented rules."""
    have, release, wanted, step = RULES[name]
    found = object_to(release, wanted, have, have.__getitem__)
    assert (None if found is None else (found.earlier, found.later)) == step
    if found is not None:
        assert all(d.needs > found.promises for d in found.differences)
        assert f"is a {found.promises.name}" in found.words


PROPOSALS = {
    "nothing published": ({}, PLAIN, {}, "1.0.0"),
    "the same contract": ({"1.2.3": PLAIN}, PLAIN, {}, "1.2.4"),
    "something added": ({"1.2.3": PLAIN}, ADDED, {}, "1.3.0"),
    "something broken": ({"1.2.3": PLAIN}, BROKEN, {}, "2.0.0"),
    "before 1.0.0": ({"0.2.3": PLAIN}, BROKEN, {}, "0.3.0"),
    "before 1.0.0, added": ({"0.2.3": PLAIN}, ADDED, {}, "0.2.4"),
    "pre-releases alone": ({"2.0.0-rc.1": PLAIN}, BROKEN, {}, "2.0.0"),
    "a pre-release above": ({"1.2.3": PLAIN, "2.0.0-rc.1": BROKEN}, PLAIN, {}, "1.2.4"),
    "an older line": ({"1.2.3": PLAIN, "2.0.0": BROKEN}, PLAIN, {"after": "1.2.3"}, "1.2.4"),
    "an older line, what breaks it": ({"1.2.3": PLAIN, "2.0.0": BROKEN}, BROKEN, {"after": "1.2.3"}, "2.0.1"),
    "an older line, taken": ({"1.2.3": PLAIN, "1.3.0": ADDED, "2.0.0": PLAIN}, ADDED, {"after": "1.2.3"}, "1.3.1"),
    "after a pre-release": ({"1.2.0": PLAIN, "1.3.0-rc.1": ADDED}, ADDED, {"after": "1.3.0-rc.1"}, "1.3.0"),
    "a pre-release": ({"1.2.3": PLAIN}, ADDED, {"prerelease": "rc"}, "1.3.0-rc.1"),
    "another pre-release": ({"1.2.3": PLAIN, "1.3.0-rc.1": PLAIN}, ADDED, {"prerelease": "rc"}, "1.3.0-rc.2"),
    "the first pre-release": ({}, PLAIN, {"prerelease": "beta"}, "1.0.0-beta.1"),
    "build metadata": ({"1.2.3+gpu": PLAIN}, PLAIN, {}, "1.2.4"),
}


@pytest.mark.parametrize("name", PROPOSALS)
def test_the_number_that_is_proposed(name: str) -> None:
    """The lowest that does, and it is admitted."""
    have, wanted, options, release = PROPOSALS[name]
    found = propose(wanted, have, have.__getitem__, **options)
    assert found.release == release
    assert object_to(release, wanted, have, have.__getitem__) is None


def test_neighbours_are_releases_in_the_order_of_numbers() -> None:
    """Pre-releases are nobody's neighbours, and 1.10 comes after 1.9."""
    have = ["1.10.0", "1.9.0", "1.9.1-rc.1", "2.0.0-rc.1"]
    assert neighbours("1.9.5", have) == ("1.9.0", "1.10.0")
    assert neighbours("3.0.0", have) == ("1.10.0", None)
    assert neighbours("0.1.0", have) == (None, "1.9.0")


outputs = st.sets(st.sampled_from(sorted(EXTRA)))
wanted_contracts = st.builds(lambda high, more: contract(high, *more), st.sampled_from([0.5, 1.0, 2.0]), outputs)
small = st.integers(0, 2)
asked = st.builds(
    lambda a, b, c, tail: f"{a}.{b}.{c}{tail}", small, small, small, st.sampled_from(["", "", "-rc.1", "-rc.2", "+b"])
)


class Publishing(RuleBasedStateMachine):
    """Releases published with random numbers and contracts, as far as the rules let them."""

    def __init__(self) -> None:
        super().__init__()
        self.have: dict[str, Contract] = {}

    @rule(release=asked, wanted=wanted_contracts)
    def publish(self, release: str, wanted: Contract) -> None:
        """It is admitted if and only if every pair of releases would keep its promise."""
        taken = same_precedence(release, self.have)
        assert (taken is not None) == any(parse(r) == parse(release) for r in self.have)
        if taken is not None:
            return
        objection = object_to(release, wanted, self.have, self.have.__getitem__)
        assert (objection is None) == _all_keep_their_promise({**self.have, release: wanted}, release)
        if objection is None:
            self.have[release] = wanted

    @rule(wanted=wanted_contracts, prerelease=st.sampled_from(["", "rc"]), data=st.data())
    def publish_what_is_proposed(self, wanted: Contract, prerelease: str, data: st.DataObject) -> None:
        """A proposal is free and admitted, whatever it follows."""
        after = data.draw(st.sampled_from([None, *self.have]))
        found = propose(wanted, self.have, self.have.__getitem__, after=after, prerelease=prerelease)
        assert same_precedence(found.release, self.have) is None
        assert object_to(found.release, wanted, self.have, self.have.__getitem__) is None
        assert bool(parse(found.release).prerelease) == bool(prerelease)
        self.have[found.release] = wanted

    @precondition(lambda self: self.have)
    @invariant()
    def whoever_used_a_release_can_use_what_its_caret_takes(self) -> None:
        """For any releases a and b, with b in ^a: b takes and gives what a did; ~a: nothing differs at all."""
        stable = [r for r in self.have if not parse(r).prerelease]
        for one in stable:
            for other in stable:
                if parse(other) < parse(one):
                    continue
                change = needed(compare(self.have[one], self.have[other]))
                if parse_range("^" + one.partition("+")[0]).matches(other):
                    assert change <= Bump.MINOR
                if parse_range("~" + one.partition("+")[0]).matches(other) and parse(one).major > 0:
                    assert change is Bump.PATCH


def _all_keep_their_promise(have: dict[str, Contract], release: str) -> bool:
    """The rules once more, from the other end: look at every pair that the new release is part of."""
    for other, theirs in have.items():
        if other == release or parse(other).prerelease:
            continue
        first, second = sorted((release, other), key=parse)
        if first == release and parse(release).prerelease:
            continue
        a, b = parse(first), parse(second)
        same_line = ((a.major, b.major) != (0, 0) and a.major == b.major) or (
            a.major == b.major == 0 == a.minor - b.minor
        )
        allowed = Bump.MAJOR
        if same_line:
            allowed = Bump.PATCH if a.major > 0 and a.minor == b.minor else Bump.MINOR
        if needed(compare(have[first], have[second])) > allowed:
            return False
        assert theirs is have[other]
    return True


Publishing.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestPublishing = Publishing.TestCase


def test_build_metadata_makes_no_other_release() -> None:
    """Two numbers that differ in it alone are equal, whichever has it."""
    assert same_precedence("1.0.0+a", ["0.9.0", "1.0.0"]) == "1.0.0"
    assert same_precedence("1.0.0", ["1.0.0+a"]) == "1.0.0+a"
    assert same_precedence("1.0.0", ["1.0.0-rc.1", "1.0.1"]) is None
