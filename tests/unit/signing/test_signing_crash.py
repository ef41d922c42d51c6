"""A process that is killed anywhere while it signs leaves a release that can be signed."""

from __future__ import annotations

from functools import partial

from crash_states import crash_states
from signing_people import SignedWorld
from world import left

from policyctl.services.integrity.verify import verify


def test_signing_killed_anywhere_leaves_a_signature_or_none(tmp_path, monkeypatch, people) -> None:
    """After any crash the release is whole, and signed or signed by the same command typed again."""
    begun = SignedWorld(tmp_path / "begun", monkeypatch, people)
    begun.publish("1.0.0", 1)
    signer = people.signer("alice")
    found = set()
    for state in crash_states(begun, tmp_path / "states", lambda: begun.sign("1.0.0")):
        world = left(state, monkeypatch, partial(SignedWorld, people=people))
        wrong = [f for f in verify(world.control) if not f.intact]
        assert all("is not in the journal" in f.detail for f in wrong), state
        found.add(("a file that no record names" if wrong else "nothing") if not world.signed("1.0.0") else "signed")
        assert world.sign("1.0.0").judged.standing == "trusted"
        assert [f for f in verify(world.control) if not f.intact] == [], state
        assert world.state.signatures["walker", "1.0.0", "alice"].key == signer.fingerprint
    assert found == {"a file that no record names", "nothing", "signed"}
