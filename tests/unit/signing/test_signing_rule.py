"""Signatures that are asked for: by promote, rollback, the start of a server, and verify."""

from __future__ import annotations

import pytest

from policyctl.adapters import endpoint as endpoints
from policyctl.domain.moves import Placement
from policyctl.errors import IntegrityError, UnsupportedError
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.integrity.verify import verify
from policyctl.services.moves.aliases import load_alias
from policyctl.services.moves.recovery import recover_all
from policyctl.services.moves.rollback import rollback
from policyctl.services.observed import Observed
from policyctl.services.rollout.pins import pin
from policyctl.services.rollout.promote import promote
from policyctl.services.supervise.prober import Prober
from policyctl.services.trust import signatures
from policyctl.services.trust import store as trust
from policyctl.settings import load


def _promote(world, release: str, rule: str = "required", **kwargs):
    return promote(world.asking(rule), model="walker", release=release, alias="production", **kwargs)


def test_an_unsigned_release_is_refused_before_anything_is_touched(world) -> None:
    """No record, no gate, no request to the server; a dry run says the same."""
    world.publish("1.0.0", 1)
    records = world.control.repository.journal.records()
    for dry_run in (False, True):
        with pytest.raises(IntegrityError, match=r"walker 1\.0\.0 is not signed") as refused:
            _promote(world, "1.0.0", dry_run=dry_run)
        assert "policyctl sign walker 1.0.0 --key" in refused.value.remedy
    assert world.control.repository.journal.records() == records
    assert world.server.calls == []


def test_a_release_that_a_trusted_key_signed_is_promoted(world) -> None:
    """The signature is all that is asked."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    assert _promote(world, "1.0.0").changed
    assert world.answered() == "1.0.0"


def test_a_signature_by_somebody_else_is_none(world) -> None:
    """Mallory signs well, and is trusted by nobody."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0", "mallory")
    with pytest.raises(IntegrityError, match=r"signed by no trusted key: .*which the trust store does not hold"):
        _promote(world, "1.0.0")
    world.sign("1.0.0")
    assert _promote(world, "1.0.0").changed


def test_the_rule_off_asks_nothing_and_warn_only_says_so(world) -> None:
    """Off is the default; warn promotes and says so."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0", "off")
    assert not any("signed" in line for line in world.said)
    _promote(world, "1.1.0", "warn")
    assert any("WARNING: walker 1.1.0 is not signed" in line for line in world.said)
    assert world.answered() == "1.1.0"


def test_a_rollback_asks_for_a_signature_too(world) -> None:
    """Else a rollback would be the way around; signed later, the release can be gone back to."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0", "off")
    world.sign("1.1.0")
    _promote(world, "1.1.0")
    with pytest.raises(IntegrityError, match=r"1\.0\.0 is not signed"):
        rollback(world.asking("required"), model="walker", alias="production")
    assert world.answered() == "1.1.0"
    world.sign("1.0.0")
    assert rollback(world.asking("required"), model="walker", alias="production").changed
    assert world.answered() == "1.0.0"


def test_a_move_that_fails_keeps_an_unsigned_incumbent(world) -> None:
    """What served before the rule goes on serving when a signed release turns out to be wrong."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0", "off")
    world.sign("1.1.0")
    world.server.wrong_slots.add(("walker", 2))
    with pytest.raises(Exception, match=r"still serves 1\.0\.0"):
        _promote(world, "1.1.0")
    assert world.answered() == "1.0.0"


def test_a_server_refuses_an_alias_whose_key_was_revoked_until_it_is_signed_anew(world) -> None:
    """At its start it names the reason; once Bob signed, the prober loads it without a restart."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    _promote(world, "1.0.0")
    world.server.unload("walker")
    world.revoke("alice")
    control, key = world.asking("required"), ("walker", "production")
    state = world.state.aliases[key]
    with pytest.raises(IntegrityError, match="alice is revoked: stolen"):
        load_alias(control, world.server, key, state)
    assert world.answered() is None
    refused: dict[tuple[str, str], Placement] = {key: state.placement}
    clock = [0.0]
    prober = Prober(control, world.server, Observed(refused), KnownJournal(control), clock=lambda: clock[0])
    for _ in range(3):
        clock[0] += 10
        assert prober.probe()
    assert world.answered() is None
    assert sum("still refused" in line and "revoked" in line for line in world.said) == 1
    world.believe("bob")
    world.sign("1.0.0", "bob")
    clock[0] += 10
    assert prober.probe()
    assert (refused, world.answered()) == ({}, "1.0.0")


def test_an_alias_that_died_after_its_key_was_revoked_is_refused_and_costs_no_other_its_service(world) -> None:
    """It is not loaded again, the server is not started again, and a signature by Bob brings it back."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    _promote(world, "1.0.0")
    world.revoke("alice")
    world.server.unload("walker")
    refused: dict[tuple[str, str], Placement] = {}
    clock = [0.0]
    control = world.asking("required")
    prober = Prober(control, world.server, Observed(refused), KnownJournal(control), clock=lambda: clock[0])
    for _ in range(6):
        clock[0] += 10
        assert prober.probe()
    assert list(refused) == [("walker", "production")]
    assert sum("REFUSED walker: " in line and "revoked" in line for line in world.said) == 1
    world.believe("bob")
    world.sign("1.0.0", "bob")
    clock[0] += 10
    assert prober.probe()
    assert (refused, world.answered()) == ({}, "1.0.0")


def test_verify_demands_a_signature_of_what_is_served_and_tells_of_the_rest(world) -> None:
    """Under the rule an unsigned incumbent is not intact; an unsigned release that nobody names is reported."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0", "off")
    assert all(f.intact for f in verify(world.control))
    found = {f.what: f for f in verify(world.asking("required")) if "signature" in f.what}
    assert (found["walker 1.0.0 signatures"].intact, found["walker 1.1.0 signatures"].intact) == (False, True)
    assert "no alias names it" in found["walker 1.1.0 signatures"].detail
    assert all(f.intact for f in verify(world.asking("warn")))
    world.sign("1.0.0")
    assert all(f.intact for f in verify(world.asking("required")))
    world.revoke("alice")
    wrong = [f.detail for f in verify(world.asking("required")) if not f.intact]
    assert len(wrong) == 1
    assert "alice is revoked" in wrong[0]


def test_without_the_library_a_required_signature_is_refused_with_the_command_to_type(world, monkeypatch) -> None:
    """And nothing else needs it."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    monkeypatch.setitem(__import__("sys").modules, "model_signing", None)
    with pytest.raises(UnsupportedError) as refused:
        _promote(world, "1.0.0")
    assert "pip install 'policyctl[sign]'" in refused.value.remedy
    assert world.standing("1.0.0") == "unchecked"
    assert all(f.intact for f in verify(world.control))
    _promote(world, "1.0.0", "off")
    assert world.answered() == "1.0.0"


def test_a_rule_that_cannot_be_read_lets_nothing_pass(world) -> None:
    """A trust store that is damaged reads neither as empty nor as full."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    world.trust.write_text("schema: 1\nkeys: everybody\n")
    with pytest.raises(Exception, match=r"trust\.yaml"):
        _promote(world, "1.0.0")
    assert world.answered() is None


def test_a_manifest_that_is_not_the_published_one_is_signed_by_nobody(world) -> None:
    """The digest that the journal pins stands between the signature and the files."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")
    path = world.slot("1.0.0") / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"walker", b"talker"))
    state = world.state
    (found,) = signatures.of_release(world.control, state, state.release("walker", "1.0.0"))
    assert (found.standing, "manifest.json is not what was published" in found.reason) == ("invalid", True)


def _serving_under(world, rule: str, trust: object = None) -> None:
    """What a running server has written of its settings."""
    in_force = {"integrity.signatures": rule, "integrity.trust": None if trust is None else str(trust)}
    repository = world.control.repository
    running.write(
        repository, running.Running(endpoints.THIS_PROCESS, "", (), in_force, dict.fromkeys(in_force, "its.yaml:1"))
    )


@pytest.mark.parametrize("rule", ["off", "warn"])
def test_a_command_that_asks_for_less_than_the_running_server_moves_nothing_past_it(world, rule) -> None:
    """Promotion, pin, rollback and a dry run; a server that is gone asks for nothing."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    for release in ("1.0.0", "1.1.0"):
        _promote(world, release, "off")
    _serving_under(world, "required")
    control = world.asking(rule)
    for move in (
        lambda: promote(control, model="walker", release="1.0.0", alias="staging"),
        lambda: promote(control, model="walker", release="1.0.0", alias="production", dry_run=True),
        lambda: pin(control, model="walker", release="1.0.0"),
        lambda: rollback(control, model="walker", alias="production"),
    ):
        with pytest.raises(IntegrityError, match=r"is not signed \(the running server asks for it\)"):
            move()
    assert (world.answered(), world.named("staging")) == ("1.1.0", None)
    running.clear(world.control.repository)
    assert rollback(control, model="walker", alias="production").changed


def test_a_trust_store_of_ones_own_believes_nobody_for_the_running_server(world, tmp_path) -> None:
    """Mallory's signature counts by the command's store, and not by the server's."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0", "mallory")
    own = tmp_path / "own.yaml"
    trust.add(own, name="mallory", public=world.people.public("mallory"))
    control = Control.of(
        load(repository=world.root, integrity={"signatures": "required", "trust": own}), world.said.append
    )
    _serving_under(world, "required", world.trust)
    with pytest.raises(IntegrityError, match="which the trust store does not hold"):
        promote(control, model="walker", release="1.0.0", alias="production")
    world.sign("1.0.0")
    assert promote(control, model="walker", release="1.0.0", alias="production").changed


class KilledError(BaseException):
    """The mover ends here, as if it were killed."""


@pytest.mark.parametrize("where", ["load walker", "loaded walker", "infer walker", "unload walker.candidate"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("by", ["the server", "a command that asks for nothing"])
def test_a_move_whose_key_was_revoked_after_the_crash_is_not_finished(world, where, both, by) -> None:
    """The incumbent is brought back, also one that the same key signed: it had served before, and serves on."""
    world.believe("bob")
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.sign("1.0.0", "alice" if both else "bob")
    world.sign("1.1.0")
    _promote(world, "1.0.0")

    def die(call: str) -> None:
        if call == where:
            raise KilledError

    world.server.before_call = die
    with pytest.raises(KilledError):
        _promote(world, "1.1.0")
    world.server.before_call = lambda _: None
    assert world.state.unfinished["walker"].phase == "switching"
    world.revoke("alice")
    if by == "the server":
        control = world.asking("required")
    else:
        _serving_under(world, "required")
        control = world.asking("off")
    with control.repository.writer("recovery"):
        (said,) = recover_all(control, world.server)
    assert "reverted" in said and "alice is revoked" in said
    assert world.answered() == world.named() == "1.0.0"
    assert not world.state.unfinished
    assert not (world.root / "walker.candidate").exists()


def test_a_first_promotion_whose_key_was_revoked_leaves_nothing_in_service(world) -> None:
    """There is no incumbent to bring back."""
    world.publish("1.0.0", 1)
    world.sign("1.0.0")

    def die(call: str) -> None:
        if call == "loaded walker":
            raise KilledError

    world.server.before_call = die
    with pytest.raises(KilledError):
        _promote(world, "1.0.0")
    world.server.before_call = lambda _: None
    world.revoke("alice")
    control = world.asking("required")
    with control.repository.writer("recovery"):
        recover_all(control, world.server)
    assert (world.answered(), world.named(), world.server.serving()) == (None, None, {})
