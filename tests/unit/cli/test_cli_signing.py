"""Signatures on the command line: keys, pass phrases, JSON, exit codes."""

from __future__ import annotations

import stat

import pytest
from world import write_export

PHRASE = "correct horse battery staple"


@pytest.fixture
def keys(run, monkeypatch, tmp_path):
    """alice.pem with a pass phrase, in the folder where commands run."""
    monkeypatch.setenv("POLICYCTL_INTEGRITY__PASSPHRASE", PHRASE)
    made = run("trust", "keygen", "alice.pem", "--json")
    assert made.code == 0, made.err
    return made


def test_a_new_private_key_is_its_owners_alone_and_never_overwritten(run, keys, tmp_path) -> None:
    """Mode 0600, encrypted, and the pass phrase is printed nowhere; a second keygen refuses."""
    private = tmp_path / "alice.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert "ENCRYPTED" in private.read_text()
    assert PHRASE not in keys.out + keys.err
    again = run("trust", "keygen", "alice.pem")
    assert (again.code, "never overwritten" in again.err) == (2, True)


def test_a_pass_phrase_that_nobody_can_give_is_asked_for_by_its_variable(run, monkeypatch) -> None:
    """Without a terminal and the variable, keygen and sign say which variable to set."""
    refused = run("trust", "keygen", "bob.pem")
    assert (refused.code, "POLICYCTL_INTEGRITY__PASSPHRASE" in refused.err) == (2, True)
    assert run("trust", "keygen", "bob.pem", "--no-passphrase").code == 0


def test_from_a_key_to_a_promotion_that_demands_it(run, keys, served_world, monkeypatch, tmp_path) -> None:
    """Publish and sign at once, see who signed, promote; revoked, everything says so with exit code 3."""
    monkeypatch.setenv("POLICYCTL_INTEGRITY__SIGNATURES", "required")
    assert run("trust", "add", "alice.pub", "--name", "alice").code == 0
    refused = run("promote", "walker", "1.1.0", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (3, "integrity")
    source = write_export(tmp_path / "export", 3)
    done = run("publish", source, "--model", "walker", "--release", "1.2.0", "--sign-key", "alice.pem", "--json")
    assert (done.code, done.document["signature"]["standing"]) == (0, "trusted"), done.err
    shown = run("signatures", "walker", "1.2.0", "--check", "--json")
    assert (shown.code, shown.document["signed"]) == (0, True)
    (signature,) = shown.document["signatures"]
    assert (signature["signer"], signature["method"], signature["key"]) == (
        "alice",
        "key",
        keys.document["fingerprint"],
    )
    assert run("promote", "walker", "1.2.0").code == 0
    assert "by alice (key)" in run("history", "walker").out
    assert run("trust", "revoke", "alice", "--reason", "stolen").code == 0
    revoked = run("signatures", "walker", "1.2.0", "--check")
    assert (revoked.code, "alice is revoked: stolen" in revoked.err) == (3, True)
    assert run("verify").code == 3
    listed = run("trust", "list", "--json").document["keys"]
    assert listed[0]["revoked"]["reason"] == "stolen"


def test_a_wrong_pass_phrase_is_found_out_before_anything_is_published(run, keys, quiet_world, monkeypatch) -> None:
    """The release number is still free."""
    monkeypatch.setenv("POLICYCTL_INTEGRITY__PASSPHRASE", "wrong")
    source = write_export(quiet_world.folder / "export", 3)
    refused = run("publish", source, "--model", "walker", "--release", "1.2.0", "--sign-key", "alice.pem")
    assert (refused.code, "pass phrase is wrong" in refused.err) == (2, True)
    assert [r["release"] for r in run("status", "--json").document["releases"]] == ["1.0.0"]


def test_signing_needs_exactly_one_way(run, keys, quiet_world) -> None:
    """A key, a bundle or an identity: none or two of them is wrong usage."""
    assert run("sign", "walker", "1.0.0").code == 2
    assert run("sign", "walker", "1.0.0", "--key", "alice.pem", "--keyless").code == 2
    assert run("sign", "walker", "1.0.0", "--bundle", "no.sig").code == 2
    assert run("sign", "walker", "9.9.9", "--key", "alice.pem").code == 2
    dry = run("sign", "walker", "1.0.0", "--key", "alice.pem", "--dry-run", "--json")
    assert (dry.code, dry.document["dry_run"], dry.document["standing"]) == (0, True, None)
    assert run("signatures", "walker", "1.0.0", "--json").document["signatures"] == []


def test_a_key_that_others_can_read_is_told_of(run, keys, quiet_world, tmp_path) -> None:
    """It signs, and says what to type."""
    (tmp_path / "alice.pem").chmod(0o644)
    done = run("sign", "walker", "1.0.0", "--key", "alice.pem", "--name", "alice")
    assert (done.code, "chmod 600" in done.err) == (0, True)
    assert "does not count here yet" in done.err


def test_the_public_key_is_printed_for_other_tools(run, keys, quiet_world, tmp_path) -> None:
    """stdout is the PEM text and nothing else."""
    run("trust", "add", "alice.pub", "--name", "alice")
    assert run("trust", "show", "alice").out == (tmp_path / "alice.pub").read_text()


def test_the_trust_store_is_where_the_setting_says(run, keys, monkeypatch, tmp_path) -> None:
    """Outside the repository, for example, where nobody who publishes can write."""
    monkeypatch.setenv("POLICYCTL_INTEGRITY__TRUST", str(tmp_path / "etc" / "trust.yaml"))
    assert run("trust", "add", "alice.pub", "--name", "alice", "--not-after", "2030-01-01").code == 0
    assert (tmp_path / "etc" / "trust.yaml").is_file()
    assert "2030-01-01" in run("trust", "list").out
    assert run("trust", "add", "alice.pub", "--name", "bob", "--not-after", "soon").code == 2
