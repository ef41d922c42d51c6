"""A process that is killed anywhere while it signs leaves a release that can be signed."""

from __future__ import annotations

from signing_people import SignedWorld
from test_crash import run_and_kill_at

from policyctl.services.verify import verify


def test_signing_killed_anywhere_leaves_a_signature_or_none(tmp_path, monkeypatch, people) -> None:
    """After any crash the release is whole, and signed or signed by the same command typed again."""
    point, killed, left = 0, True, set()
    while killed:
        point += 1
        world = SignedWorld(tmp_path / str(point), monkeypatch, people)
        world.publish("1.0.0", 1)
        signer = people.signer("alice")
        killed = run_and_kill_at(world, point, lambda w=world: w.sign("1.0.0"))
        wrong = [f for f in verify(world.control) if not f.intact]
        assert all("is not in the journal" in f.detail for f in wrong), f"crash point {point}"
        left.add(("a file that no record names" if wrong else "nothing") if not world.signed("1.0.0") else "signed")
        assert world.sign("1.0.0").judged.standing == "trusted"
        assert [f for f in verify(world.control) if not f.intact] == [], f"crash point {point}"
        assert world.state.signatures["walker", "1.0.0", "alice"].key == signer.fingerprint
    assert left == {"a file that no record names", "nothing", "signed"}
    assert point > 8
