"""Whose signatures count, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.adapters import trust_store
from policyctl.domain.fold import fold
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.manifest import digest_of
from policyctl.domain.trust import Revocation, Trusted, TrustKind, TrustStore, fingerprint
from policyctl.errors import UsageError
from policyctl.services.trust import store as trust

_DAY = timedelta(days=1)
_NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
_times = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))


def test_a_key_that_is_not_trusted_any_more_counts_for_nothing(world) -> None:
    """Taken out of the file, or revoked: what it signed earlier does not count either."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    assert world.standing("1.0.0") == "trusted"
    world.revoke("alice")
    assert world.standing("1.0.0") == "untrusted"
    assert "alice is revoked: stolen" in world.reason("1.0.0")
    trust_store.write(world.trust, TrustStore())
    assert "which the trust store does not hold" in world.reason("1.0.0")


def test_a_revocation_since_a_time_spares_what_was_recorded_before(world) -> None:
    """What the journal recorded until then goes on counting, and nothing after it."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.sign("1.0.0")
    since = datetime.now(UTC)
    world.sign("1.1.0")
    world.revoke("alice", since=since)
    assert (world.standing("1.0.0"), world.standing("1.1.0")) == ("trusted", "untrusted")


def test_a_rotated_key_vouches_for_what_it_signed_and_the_new_one_from_then_on(world, people) -> None:
    """Old signatures count on; new ones by the old key do not; the new key's do."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.sign("1.0.0")
    trust.rotate(world.trust, old="alice", name="alice-2027", public=people.public("bob"), at=datetime.now(UTC))
    world.sign("1.1.0")
    world.sign("1.1.0", "bob")
    assert world.standing("1.0.0") == "trusted"
    assert world.standing("1.1.0") == "untrusted"
    assert world.standing("1.1.0", "alice-2027") == "trusted"
    entry = trust_store.read(world.trust).named("alice-2027")
    assert entry.replaces == "alice"
    assert entry.not_before == trust_store.read(world.trust).named("alice").not_after


def test_a_signature_that_came_too_early_counts_once_it_is_made_again(world) -> None:
    """The same bundle is recorded again; the journal's later time is what counts."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0", "bob", name="bob")
    world.believe("bob", not_before=datetime.now(UTC))
    assert world.standing("1.0.0", "bob") == "untrusted"
    bundle = world.bundle("1.0.0", "bob").read_bytes()
    assert world.sign("1.0.0", "bob").changed is True
    assert world.standing("1.0.0", "bob") == "trusted"
    assert world.bundle("1.0.0", "bob").read_bytes() == bundle


def test_a_fingerprint_can_be_revoked_that_was_never_trusted(world, people) -> None:
    """For a key under a trusted certificate, or one that is known to be bad."""
    key = people.signer("mallory").fingerprint
    entry = trust.revoke(world.trust, which=key, reason="seen in a leak", now=_NOON)
    assert (entry.kind, entry.fingerprint) == (TrustKind.NONE, key)
    with pytest.raises(UsageError, match=r"in the trust store already, as revoked-.*, which is revoked"):
        world.believe("mallory")


def test_a_revocation_reaches_further_back_and_is_never_taken_back(world) -> None:
    """Revoking again for less is refused; for more it is taken."""
    world.revoke("alice", since=_NOON)
    with pytest.raises(UsageError, match="revoked already"):
        world.revoke("alice", since=_NOON + _DAY)
    world.revoke("alice", since=_NOON - _DAY)
    world.revoke("alice")
    assert trust_store.read(world.trust).named("alice").revoked.since is None
    with pytest.raises(UsageError, match="revoked already"):
        world.revoke("alice")


def test_a_dry_run_leaves_the_trust_store_as_it_is(world, people) -> None:
    """Adding, revoking and rotating are checked and not done."""
    before = world.trust.read_bytes()
    world.believe("bob", dry_run=True)
    trust.revoke(world.trust, which="alice", reason="x", now=_NOON, dry_run=True)
    trust.rotate(world.trust, old="alice", name="next", public=people.public("bob"), at=_NOON, dry_run=True)
    assert world.trust.read_bytes() == before
    with pytest.raises(UsageError, match="holds alice already"):
        world.believe("alice", dry_run=True)


def test_a_private_key_is_not_taken_for_a_public_one(world, people) -> None:
    """It is refused, and does not get into the file."""
    with pytest.raises(UsageError, match="is a private key"):
        trust.add(world.trust, name="bob", public=people.private("bob"))
    assert b"PRIVATE" not in world.trust.read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.replace("kind: key", "kind: kex"), r"keys\[0\]\.kind|keys\[0\]: .*'kex'"),
        (lambda t: t.replace("schema: 1", "schema: 2"), "schema"),
        (lambda t: t + "more: 1\n", "more"),
        (lambda t: t.replace("name: alice", "name: ../alice"), "not allowed"),
        (lambda t: t.replace("sha256:", "sha256:0", 1), "fingerprint"),
        (lambda t: t.replace("  kind", "  not_before: '2026-01-01T00:00:00'\n  kind"), "its zone"),
        (lambda t: t.replace("\n    M", "\n    N", 1), "fingerprint"),
        (lambda t: t + t.partition("keys:\n")[2], "stands there twice"),
        (lambda t: t.replace("  kind", "  replaces: eve\n  kind"), "replaces eve"),
        (lambda t: "", "schema missing"),
        (lambda t: "- [", "the trust store is not YAML"),
        (lambda t: t + "keys: []\n", r"keys \(line \d+\): it stands here twice"),
    ],
)
def test_a_trust_store_that_is_not_understood_is_refused(world, change, words: str) -> None:
    """Nothing of it is guessed, and the error names the file and the place."""
    text = world.trust.read_text()
    changed = change(text)
    assert changed != text
    world.trust.write_text(changed)
    with pytest.raises(UsageError, match=words) as refused:
        trust_store.read(world.trust)
    assert str(world.trust) in refused.value.problem


def test_a_time_in_the_trust_store_may_stand_without_quotes(world) -> None:
    """As people write it by hand."""
    world.trust.write_text(world.trust.read_text() + "  not_after: 2030-01-01T00:00:00Z\n")
    assert trust_store.read(world.trust).named("alice").not_after == datetime(2030, 1, 1, tzinfo=UTC)


@given(
    before=st.none() | _times, after=st.none() | _times, since=st.none() | _times, revoked=st.booleans(), time=_times
)
def test_a_key_counts_exactly_within_its_limits(before, after, since, revoked, time) -> None:
    """From its beginning on, before its end, and before what it is revoked since."""
    revocation = Revocation(_NOON, "why", since) if revoked else None
    entry = Trusted("k", TrustKind.KEY, not_before=before, not_after=after, revoked=revocation)
    counts = (before is None or time >= before) and (after is None or time < after)
    counts = counts and not (revoked and (since is None or time >= since))
    assert (entry.objection(time) == "") is counts


@given(entries=st.lists(st.tuples(st.none() | _times, st.none() | _times, st.none() | st.none() | _times), max_size=4))
def test_what_was_written_to_the_trust_store_is_read(tmp_path_factory, entries) -> None:
    """Reading is the inverse of writing."""
    path = tmp_path_factory.mktemp("trust") / "trust.yaml"
    store = TrustStore(
        tuple(
            Trusted(
                f"key-{number}",
                TrustKind.IDENTITY,
                identity=f"{number}@example.org",
                issuer="https://example.org",
                not_before=before,
                not_after=after,
                revoked=None if since is None else Revocation(_NOON, "why: not", since),
                replaces="key-0" if number else "",
            )
            for number, (before, after, since) in enumerate(entries)
        )
    )
    trust_store.write(path, store)
    assert trust_store.read(path) == store


def test_a_clock_that_was_turned_back_signs_nothing_earlier_than_the_journal(world) -> None:
    """The time of a record is no earlier than that of any record before it."""
    signed = {
        "model": "walker",
        "release": "1.0.0",
        "manifest_digest": GENESIS,
        "name": "alice",
        "method": "key",
        "key": GENESIS,
        "signature": "x",
        "signature_digest": GENESIS,
    }
    published = {"model": "walker", "release": "1.0.0", "slot": 1, "manifest_digest": GENESIS, "contract": {}}
    later, earlier = "2026-11-20T10:00:00.000000+00:00", "2026-11-01T10:00:00.000000+00:00"
    state = fold(
        [
            Record(0, GENESIS, later, "a@b", RecordKind.PUBLISHED, published),
            Record(1, GENESIS, earlier, "a@b", RecordKind.SIGNED, signed),
        ]
    )
    assert state.signatures["walker", "1.0.0", "alice"].time == later


def test_the_fingerprint_is_what_sha256sum_says_of_the_public_file(people) -> None:
    """So that people can compare it by telephone, without this program."""
    path = people.public("alice")
    assert fingerprint(path.read_text()) == digest_of(path.read_bytes())
