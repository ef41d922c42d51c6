"""The prober judges answers: what is wrong is counted, put right, or taken out of service."""

from __future__ import annotations

import pytest

from policyctl.domain.journal import RecordKind
from policyctl.errors import ServerError
from policyctl.services.moves.aliases import WrongAnswersError, load_alias
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote
from policyctl.services.supervise.prober import WRONG_AGAIN_S

KEY = ("walker", "production")


def _probe(watched, rounds: int = 1, *, seconds: float = 1.0) -> None:
    for _ in range(rounds):
        watched.now += seconds
        assert watched.prober.probe()


def test_every_row_of_the_golden_set_is_asked_in_turn(watched) -> None:
    """One a round, and after the last the first again; each takes its place in the histogram."""
    asked, infer = [], watched.world.server.infer

    def note(name, observations, outputs, **more):
        asked.append(observations["observation"].tobytes())
        return infer(name, observations, outputs, **more)

    watched.world.server.infer = note
    _probe(watched, 6)
    assert len(set(asked)) == 5
    assert asked[5] == asked[0]
    assert watched.probes() == {"answered": 6, "wrong": 0, "failed": 0}
    assert watched.value("policyctl_probe_duration_seconds", *KEY).count == 6


def test_a_wrong_answer_is_counted_and_the_alias_withdrawn_where_loading_does_not_help(watched) -> None:
    """After the reload it does not certify, so nobody is answered, and no reload is tried again."""
    server, said = watched.world.server, watched.world.said
    server.wrong_slots.add(("walker", 1))
    server.calls.clear()
    _probe(watched)
    assert watched.probes() == {"answered": 0, "wrong": 1, "failed": 0}
    assert watched.world.answered() is None
    _probe(watched, 20)
    assert [c for c in server.calls if c.startswith("load")] == ["load walker"]
    assert watched.value("policyctl_alias_refused", *KEY) == 1
    assert watched.value("policyctl_model_reloads_total", *KEY) == 1
    assert watched.probes()["failed"] == 0
    assert any("WRONG walker: output action of 1.0.0 differs by" in line for line in said)
    assert sum(line.startswith("REFUSED walker") for line in said) == 1


def test_an_alias_that_answers_rightly_after_its_reload_serves_on(watched) -> None:
    """As where a backend's memory was spoilt."""
    server = watched.world.server
    server.wrong_slots.add(("walker", 1))
    server.before_call = lambda what: server.wrong_slots.clear() if what == "loaded walker" else None
    _probe(watched, 3)
    assert watched.probes() == {"answered": 2, "wrong": 1, "failed": 0}
    assert watched.world.answered() == "1.0.0"
    assert watched.value("policyctl_alias_refused", *KEY) == 0


@pytest.mark.parametrize(("later", "served"), [(2.0, None), (WRONG_AGAIN_S + 1, "1.0.0")])
def test_an_alias_that_is_wrong_again_soon_is_withdrawn(watched, later: float, served: str | None) -> None:
    """A reload helps once an hour; twice within it is a machine that cannot be trusted with this release."""
    server = watched.world.server
    server.before_call = lambda what: server.wrong_slots.clear() if what == "loaded walker" else None
    server.wrong_slots.add(("walker", 1))
    _probe(watched)
    server.wrong_slots.add(("walker", 1))
    _probe(watched, seconds=later)
    assert watched.world.answered() == served
    assert watched.probes()["wrong"] == 2


def test_a_withdrawn_alias_comes_back_by_a_move(watched) -> None:
    """Another release serves at once; and one that somebody loaded himself is accepted once it answers rightly."""
    server, world = watched.world.server, watched.world
    server.wrong_slots.add(("walker", 1))
    _probe(watched)
    promote(world.control, model="walker", release="1.1.0", alias="production")
    _probe(watched)
    assert (world.answered(), watched.value("policyctl_alias_refused", *KEY)) == ("1.1.0", 0)
    server.wrong_slots = {("walker", 2)}
    _probe(watched)
    assert world.answered() is None
    server.wrong_slots.clear()
    load_alias(world.control, server, KEY, world.state.aliases[KEY], afresh=True)
    _probe(watched)
    assert watched.observed.refused == {}
    assert watched.observed.withdrawn == {}


def test_a_withdrawn_alias_that_somebody_loads_wrong_is_withdrawn_again(watched) -> None:
    """A load behind the control plane's back is refused a second time."""
    server = watched.world.server
    server.wrong_slots.add(("walker", 1))
    _probe(watched)
    server.load("walker", 1)
    _probe(watched)
    assert watched.world.answered() is None


def test_a_wrong_alias_is_left_to_whoever_holds_the_writer_lock(watched) -> None:
    """And is looked at again the second after."""
    watched.world.server.wrong_slots.add(("walker", 1))
    with watched.world.control.repository.writer("a long measurement"):
        _probe(watched, 2)
    assert watched.world.answered() == "1.0.0"
    _probe(watched)
    assert watched.world.answered() is None


def test_an_answer_in_the_middle_of_a_switch_is_not_wrong(watched) -> None:
    """Whichever slot answers between the records `switching` and `outcome`, and just after."""
    world, seen = watched.world, []

    def probe(what: str) -> None:
        if what == "loaded walker" and not seen:
            seen.append(what)
            assert watched.prober.probe()

    promote(world.control, model="walker", release="1.1.0", alias="staging")
    world.server.before_call = probe
    promote(world.control, model="walker", release="1.1.0", alias="production")
    stale = watched.known.state().aliases[KEY]
    rollback(world.control, model="walker", alias="production")
    assert seen
    from policyctl.services.supervise.prober import Health

    assert watched.prober.ask(KEY, stale, Health()) == "answered"
    assert {s.labels[1:]: s.value for s in watched.samples("policyctl_probe_requests_total")}[
        "production", "wrong"
    ] == 0


def test_an_answer_by_a_slot_that_nothing_explains_is_wrong(watched) -> None:
    """Somebody loaded another release behind the journal's back: the alias is loaded again, as the journal says."""
    server, world = watched.world.server, watched.world
    config = world.control.repository.config("walker")
    own = config.read_text()
    promote(world.control, model="walker", release="1.1.0", alias="staging")
    config.write_text(world.control.repository.config("walker.staging").read_text())
    server.load("walker", 2)
    _probe(watched)
    assert config.read_text() == own
    assert world.answered() == "1.0.0"
    assert watched.value("policyctl_probe_requests_total", *KEY, "wrong") == 1


def test_silence_is_no_wrong_answer(watched) -> None:
    """It is counted as failed, has no duration, and after two of them the alias is loaded again."""
    infer = watched.world.server.infer

    def silent(*_args, **_more):
        raise ServerError("Deadline Exceeded")

    watched.world.server.infer = silent
    _probe(watched)
    watched.world.server.infer = infer
    _probe(watched)
    assert watched.probes() == {"answered": 1, "wrong": 0, "failed": 1}
    assert watched.value("policyctl_probe_duration_seconds", *KEY).count == 1
    assert watched.value("policyctl_model_reloads_total", *KEY) == 0


def test_what_does_not_certify_is_never_left_in_service(watched) -> None:
    """Loading it says why, and takes it out again; the journal knows no certification of it."""
    world = watched.world
    world.server.unload("walker")
    world.server.wrong_slots.add(("walker", 1))
    before = world.control.repository.journal.records()
    with pytest.raises(WrongAnswersError, match="walker answers wrongly and is withdrawn: golden row"):
        load_alias(world.control, world.server, KEY, world.state.aliases[KEY])
    assert world.answered() is None
    assert RecordKind.CERTIFIED not in {r.kind for r in world.control.repository.journal.records()[len(before) :]}


def test_a_server_that_is_silent_is_told_from_a_model_that_is(watched) -> None:
    """The first is killed at once; the second's server answers for others, and ends in an orderly way."""
    server, prober = watched.world.server, watched.prober
    server.infer = _silent
    _probe(watched, 3)  # and is loaded again twice, in vain
    assert (prober.probe(), prober.silent) == (False, False)
    server.is_live = lambda: False
    assert (prober.probe(), prober.silent) == (False, True)


def _silent(*_args, **_more):
    raise ServerError("no answer")
