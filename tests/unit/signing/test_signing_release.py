"""Signing a release, several people, and what is noticed afterwards."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyctl.adapters import trust_store
from policyctl.adapters.signature_files import list_signature_files
from policyctl.domain.manifest import digest_of
from policyctl.domain.retention import RetentionPolicy
from policyctl.domain.signature import Bundle, covered_by
from policyctl.errors import IntegrityError, UsageError
from policyctl.integrity import read_release
from policyctl.services.integrity.report import report
from policyctl.services.integrity.verify import verify
from policyctl.services.releases.gc import gc
from policyctl.services.trust import signing
from policyctl.services.trust.signatures import Standing, judge, of_release


def wrong(world) -> list[str]:
    return [f"{f.what}: {f.detail}" for f in verify(world.control) if not f.intact]


def test_a_signature_covers_every_file_and_the_manifest_and_changes_no_slot(world) -> None:
    """The bundle lists what manifest.json lists and manifest.json; the slot is byte for byte as before."""
    world.publish("1.0.0", 1)
    before = sorted((p.name, p.stat().st_mtime_ns, p.stat().st_mode) for p in world.slot("1.0.0").iterdir())
    done = world.sign("1.0.0")
    assert (done.changed, done.judged.standing, done.judged.signer) == (True, "trusted", "alice")
    assert sorted((p.name, p.stat().st_mtime_ns, p.stat().st_mode) for p in world.slot("1.0.0").iterdir()) == before
    bundle = Bundle.from_bytes(world.bundle("1.0.0").read_bytes(), where="it")
    assert set(bundle.digests) == {name for name, _, _ in before}
    assert bundle.digests == covered_by(read_release(world.slot("1.0.0")).manifest)
    assert wrong(world) == []


def test_several_people_sign_one_release_later(world) -> None:
    """Each signature stands for itself; who is not trusted signs for nothing, and the answer says so."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    done = world.sign("1.0.0", "bob", name="bob")
    assert done.judged.standing == "untrusted"
    assert [s.standing for s in world.signed("1.0.0")] == ["trusted", "untrusted"]
    world.believe("bob")
    assert [s.standing for s in world.signed("1.0.0")] == ["trusted", "trusted"]
    files = list_signature_files(world.control.repository, "walker", "1.0.0")
    assert [f.name for f in files] == ["alice.sig", "bob.sig"]
    assert wrong(world) == []


def test_signing_again_changes_nothing(world) -> None:
    """The same key signs a release once; the journal and the bundle stay as they are."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    bundle, records = world.bundle("1.0.0").read_bytes(), world.control.repository.journal.records()
    assert world.sign("1.0.0").changed is False
    assert world.sign("1.0.0", name="another").changed is False
    assert world.bundle("1.0.0").read_bytes() == bundle
    assert world.control.repository.journal.records() == records


def test_a_dry_run_checks_and_writes_nothing(world) -> None:
    """It names what it would do; journal and folder are as before; a release that is not intact is refused."""
    world.publish("1.0.0", 1)
    records = world.control.repository.journal.records()
    done = world.sign("1.0.0", dry_run=True)
    assert (done.dry_run, done.changed, done.name) == (True, True, "alice")
    assert not done.file.exists()
    assert world.control.repository.journal.records() == records
    _flip(world.slot("1.0.0") / "model.onnx", 3)
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        world.sign("1.0.0", dry_run=True)


def test_a_name_that_another_key_signed_under_is_refused(world) -> None:
    """Nobody replaces another's signature by taking the name."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    with pytest.raises(UsageError, match="by another key"):
        world.sign("1.0.0", "mallory", name="alice")
    with pytest.raises(UsageError, match="not allowed"):
        world.sign("1.0.0", "mallory", name="../alice")


def test_a_removed_signature_is_noticed_and_can_be_made_again(world) -> None:
    """verify names the bundle; signing again heals it."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    world.bundle("1.0.0").unlink()
    (finding,) = wrong(world)
    assert "alice.sig is missing" in finding
    assert world.sign("1.0.0").changed is True
    assert wrong(world) == []


def test_a_swapped_bundle_of_another_release_is_noticed(world) -> None:
    """Also if the journal's digest were right: what it signs is not this release, and the reason names the files."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.sign("1.0.0")
    world.sign("1.1.0")
    world.bundle("1.0.0").unlink()
    world.bundle("1.0.0").write_bytes(world.bundle("1.1.0").read_bytes())
    (finding,) = wrong(world)
    assert "1.0.0/alice.sig is sha256:" in finding
    world.bundle("1.0.0").unlink()
    with pytest.raises(IntegrityError, match=r"manifest\.json is sha256:.*signed was"):
        signing.attach(world.control, world.bundle("1.1.0").read_bytes(), model="walker", release="1.0.0")


def test_a_bundle_that_leaves_a_file_out_is_refused(world, people) -> None:
    """A right signature of less than the release does not count for it."""
    world.publish("1.0.0", 1)
    covered = covered_by(read_release(world.slot("1.0.0")).manifest)
    del covered["model.onnx"]
    content = people.signer("alice").sign("walker-1.0.0", covered)
    with pytest.raises(IntegrityError, match=r"does not cover model\.onnx"):
        signing.attach(world.control, content, model="walker", release="1.0.0")


def test_a_bundle_that_names_a_trusted_key_and_was_made_by_another_is_refused(world, people) -> None:
    """The hint is believed by nobody."""
    world.publish("1.0.0", 1)
    covered = covered_by(read_release(world.slot("1.0.0")).manifest)
    hint = {n: people.signer(n).fingerprint.removeprefix("sha256:").encode() for n in ("alice", "mallory")}
    forged = people.signer("mallory").sign("walker-1.0.0", covered).replace(hint["mallory"], hint["alice"])
    with pytest.raises(IntegrityError, match="not a signature by alice"):
        signing.attach(world.control, forged, model="walker", release="1.0.0")


def test_what_the_journal_does_not_name_is_noticed_and_set_aside_by_the_next_signature(world) -> None:
    """A file among the signatures counts for nothing: a crash left it, or somebody put it there; it is kept."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    stranger = world.bundle("1.0.0", "carol")
    stranger.write_bytes(world.bundle("1.0.0").read_bytes())
    (finding,) = wrong(world)
    assert "carol.sig is not in the journal" in finding
    world.sign("1.0.0", "bob", name="bob")
    assert wrong(world) == []
    assert len(list((world.control.repository.control / "orphans").glob("*carol.sig*"))) == 1


def test_a_link_in_a_bundles_place_is_noticed(world) -> None:
    """Also one to the very same bytes."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    path = world.bundle("1.0.0")
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))
    assert any("alice.sig is missing or not a plain file" in f for f in wrong(world))


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_flipped_bit_is_noticed_and_the_file_named(world, data) -> None:
    """One bit in any covered file, the manifest or the bundle: verify names that file; put back, all is intact."""
    if not world.state.releases:
        world.publish("1.0.0", 1)
        world.sign("1.0.0")
    files = [*sorted(world.slot("1.0.0").iterdir()), world.bundle("1.0.0")]
    path = data.draw(st.sampled_from(files))
    bit = data.draw(st.integers(0, 8 * path.stat().st_size - 1))
    good = _flip(path, bit)
    try:
        found = wrong(world)
        assert any(path.name in f for f in found), found
        if path.suffix == ".sig":
            assert world.standing("1.0.0") == "invalid"
    finally:
        path.chmod(0o644)
        path.write_bytes(good)
    assert wrong(world) == []


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_flipped_bit_makes_a_bundle_cover_anything_else(world, data) -> None:
    """Without the journal's digest too: a changed bundle counts only if it says exactly the same by the same key."""
    if not world.state.releases:
        world.publish("1.0.0", 1)
        world.sign("1.0.0")
    good = world.bundle("1.0.0").read_bytes()
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    changed = bytearray(good)
    changed[bit // 8] ^= 1 << bit % 8
    covered = covered_by(read_release(world.slot("1.0.0")).manifest)
    store = trust_store.read(world.trust)
    judged = judge(bytes(changed), covered, datetime.now(UTC), store, where="it")
    if judged.standing is Standing.TRUSTED:
        assert Bundle.from_bytes(bytes(changed), where="it") == Bundle.from_bytes(good, where="it")
    else:
        assert judged.reason


def test_the_signature_of_a_release_that_gc_removed_is_still_right(world) -> None:
    """Its manifest is kept among its papers, so who signed what is known for ever."""
    for number in range(1, 6):
        world.publish(f"1.{number}.0", number)
    world.sign("1.1.0")
    done = gc(world.control, delete=True, policy=RetentionPolicy(rollbacks=0, days=0, newest=1))
    assert "1.1.0" in [r.release for r in done.collect]
    state = world.state
    (found,) = of_release(world.control, state, state.releases["walker", "1.1.0"])
    assert (found.standing, found.signer) == ("trusted", "alice")
    assert wrong(world) == []
    assert all(f.intact for f in verify(world.asking("required")))


def test_a_release_is_signed_by_what_stands_for_it(world) -> None:
    """latest, a range, or an alias: resolved once, and said."""
    world.publish("1.0.0", 1)
    world.publish("1.2.0", 2)
    assert world.sign("latest").release == "1.2.0"
    assert "latest of walker is 1.2.0." in world.said
    assert [len(world.signed(r)) for r in ("1.0.0", "1.2.0")] == [0, 1]


def test_the_report_tells_who_signed_since_when_and_what_that_is_worth(world) -> None:
    """A name alone would be believed."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    world.sign("1.0.0", "mallory", name="eve")
    found = report(world.control)
    assert all("alice (trusted, 20" in row[-1] and "eve (untrusted, 20" in row[-1] for row in found.rows())
    (release,) = found.to_json()["releases"]
    assert [s["standing"] for s in release["signatures"]] == ["trusted", "untrusted"]


def test_the_journal_takes_no_record_and_the_bundle_is_taken_back(world, monkeypatch) -> None:
    """A full disk at the record leaves the release unsigned, and nothing in the folder."""
    from policyctl.adapters import files

    world.publish("1.0.0", 1)

    def full(path, line) -> None:
        raise files.storage_error(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(files, "append_durably", full)
    with pytest.raises(UsageError, match="No space left"):
        world.sign("1.0.0")
    monkeypatch.undo()
    assert list_signature_files(world.control.repository, "walker", "1.0.0") == ()
    assert world.signed("1.0.0") == ()


def test_bundles_are_read_only_and_recorded_by_digest(world) -> None:
    """The record names the bundle's digest, the key's fingerprint, who and when."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    record = world.control.repository.journal.records()[-1]
    assert record.kind == "signed"
    assert record.body["signature_digest"] == digest_of(world.bundle("1.0.0").read_bytes())
    assert record.body["key"] == digest_of(world.people.public("alice").read_bytes())
    assert record.body["manifest_digest"] == world.state.release("walker", "1.0.0").manifest_digest
    assert world.bundle("1.0.0").stat().st_mode & 0o777 == 0o444


def _flip(path, bit: int) -> bytes:
    good = path.read_bytes()
    changed = bytearray(good)
    changed[bit // 8] ^= 1 << bit % 8
    path.chmod(0o644)
    path.write_bytes(bytes(changed))
    return good
