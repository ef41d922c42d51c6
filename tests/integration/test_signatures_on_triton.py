"""Signatures that are required, on the real Triton."""

from __future__ import annotations

import pytest
from embedded import Embedded, wait_for

pytestmark = pytest.mark.server


def test_only_what_a_trusted_key_signed_is_promoted_and_served_again(server: Embedded, monkeypatch, tmp_path) -> None:
    """Unsigned is refused; signed is promoted; its key revoked, a server that starts refuses it until Bob signs."""
    monkeypatch.setenv("POLICYCTL_INTEGRITY__SIGNATURES", "required")
    alice, bob = tmp_path / "alice.pem", tmp_path / "bob.pem"
    for key in (alice, bob):
        server.run("trust", "keygen", str(key), "--no-passphrase")
    server.run("trust", "add", str(alice.with_suffix(".pub")), "--name", "alice")
    server.publish("1.0.0", 1)
    server.start()
    refused = server.run("promote", "walker", "1.0.0", check=False)
    assert (refused.returncode, "walker 1.0.0 is not signed" in refused.stderr) == (3, True)
    with monkeypatch.context() as looser:
        looser.setenv("POLICYCTL_INTEGRITY__SIGNATURES", "off")
        around = server.run("promote", "walker", "1.0.0", check=False)
    assert (around.returncode, "the running server asks for it" in around.stderr) == (3, True)
    server.run("sign", "walker", "1.0.0", "--key", str(alice))
    server.run("promote", "walker", "1.0.0")
    assert server.answered_by() == "1.0.0"
    server.run("trust", "revoke", "alice", "--reason", "stolen")
    assert server.answered_by() == "1.0.0"
    server.stop()
    server.start()
    server.has_said("REFUSED walker: walker 1.0.0 is signed by no trusted key: alice: alice is revoked")
    assert server.run("status", "--check", check=False).returncode == 6
    server.run("trust", "add", str(bob.with_suffix(".pub")), "--name", "bob")
    server.run("sign", "walker", "1.0.0", "--key", str(bob))
    wait_for(lambda: server.answered_by() == "1.0.0")
