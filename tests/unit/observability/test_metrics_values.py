"""The numbers: held against plain counts, and the catalogue against what was agreed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World

from policyctl.domain.journal import RecordKind
from policyctl.domain.journal_metrics import JournalCount
from policyctl.domain.metrics import CATALOGUE, PROBE_BUCKETS_S, Histogram, Sample, measured
from policyctl.errors import MoveError
from policyctl.services.moves.rollback import rollback
from policyctl.services.moves.validate import validate
from policyctl.services.rollout.pins import pin, unpin
from policyctl.services.rollout.promote import promote
from policyctl.services.supervise.reload import ReloadCounts

PRODUCTION = ("walker", "production")


@given(st.lists(st.floats(0, 2)), st.lists(st.floats(0.001, 1), unique=True, min_size=1).map(sorted))
def test_a_histogram_counts_every_value_in_the_first_bucket_that_holds_it(values, bounds) -> None:
    """Cumulative counts are those of a plain comparison, a bound included, and the last is all of them."""
    histogram = Histogram.empty(tuple(bounds))
    for value in values:
        histogram = histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in bounds]
    assert [count for _, count in histogram.cumulative] == [*expected, len(values)]
    assert histogram.cumulative[-1][0] == "+Inf"
    assert histogram.count == len(values)
    assert histogram.total == pytest.approx(sum(values))


def test_the_probe_buckets_tell_policies_apart_that_answer_in_less_than_a_millisecond() -> None:
    """50 us to 1 s, rising, and at least eight below a millisecond."""
    assert PROBE_BUCKETS_S[0] == 50e-6
    assert PROBE_BUCKETS_S[-1] == 1.0
    assert list(PROBE_BUCKETS_S) == sorted(set(PROBE_BUCKETS_S))
    assert sum(bound < 1e-3 for bound in PROBE_BUCKETS_S) >= 8


def test_a_name_that_is_not_in_the_catalogue_is_refused() -> None:
    """So is a sample with other labels than its family's."""
    with pytest.raises(KeyError):
        measured({"policyctl_surprise": (Sample((), 1.0),)})
    with pytest.raises(ValueError, match="has the labels"):
        measured({"policyctl_server_up": (Sample(("x",), 1.0),)})
    assert [m.family.name for m in measured({})] == list(CATALOGUE)


def test_moves_are_counted_by_kind_and_outcome_from_zero(watched) -> None:
    """A reverted promotion and a rollback are counted apart; series exist before their first event."""
    world = watched.world
    assert watched.value("policyctl_moves_total", *PRODUCTION, "promotion", "done") == 1
    assert watched.value("policyctl_moves_total", *PRODUCTION, "rollback", "reverted") == 0
    world.server.wrong_slots.add(("walker", 2))
    with pytest.raises(MoveError):
        promote(world.control, model="walker", release="1.1.0", alias="production")
    world.server.wrong_slots.clear()
    promote(world.control, model="walker", release="1.1.0", alias="production")
    rollback(world.control, model="walker", alias="production")
    pin(world.control, model="walker", release="1.1.0")
    counted = {s.labels[1:]: s.value for s in watched.samples("policyctl_moves_total") if s.value}
    assert counted == {
        ("production", "promotion", "done"): 2,
        ("production", "promotion", "reverted"): 1,
        ("production", "rollback", "done"): 1,
        ("1.1.0", "pin", "done"): 1,
    }
    durations = {s.labels[0]: s.value.count for s in watched.samples("policyctl_move_duration_seconds")}
    assert durations == {"promotion": 3, "rollback": 1, "pin": 1, "removal": 0}


def test_an_alias_is_told_with_what_it_names_and_when_that_was_certified(watched) -> None:
    """Release, slot and format change with the move; the certification is the last of exactly that."""
    before = time.time()
    (info,) = watched.samples("policyctl_alias_info")
    assert info == Sample((*PRODUCTION, "walker", "1.0.0", "1", "onnx"), 1.0)
    assert watched.value("policyctl_alias_certified_timestamp_seconds", *PRODUCTION) < before
    promote(watched.world.control, model="walker", release="1.1.0", alias="production")
    (info,) = watched.samples("policyctl_alias_info")
    assert info.labels[3:5] == ("1.1.0", "2")
    assert before <= watched.value("policyctl_alias_certified_timestamp_seconds", *PRODUCTION) <= time.time()
    assert watched.value("policyctl_alias_refused", *PRODUCTION) == 0


def test_verdicts_of_gates_are_counted(watched) -> None:
    """Each run counts, also where the verdict is the same; the others are there at zero."""
    before = watched.value("policyctl_gate_verdicts_total", "walker", "golden", "passed")
    validate(watched.world.control, model="walker", release="1.1.0")
    assert watched.value("policyctl_gate_verdicts_total", "walker", "golden", "passed") == before + 1
    assert watched.value("policyctl_gate_verdicts_total", "walker", "golden", "failed") == 0


def test_a_move_that_was_cut_short_is_told_with_the_time_of_its_intent(watched) -> None:
    """Until its outcome is written."""
    assert watched.samples("policyctl_move_unfinished_timestamp_seconds") == ()
    journal = watched.world.control.repository.journal
    intent = next(r for r in journal.records() if r.kind is RecordKind.INTENT)
    before = time.time()
    journal.append(RecordKind.INTENT, {**intent.body, "move": "x"})
    since = watched.value("policyctl_move_unfinished_timestamp_seconds", *PRODUCTION, "promotion")
    assert before <= since <= time.time()
    journal.append(RecordKind.OUTCOME, {"move": "x", "result": "aborted"})
    assert watched.samples("policyctl_move_unfinished_timestamp_seconds") == ()
    assert watched.value("policyctl_moves_total", *PRODUCTION, "promotion", "aborted") == 1


@pytest.mark.parametrize("damage", ["edited", "lost", "garbled"])
def test_a_broken_journal_is_told_and_what_it_said_last_stays(watched, damage: str) -> None:
    """`policyctl_journal_intact` is 0, nothing else is missing, it is said once, and mending it is noticed."""
    path = watched.world.control.repository.journal.path
    whole, said = path.read_bytes(), watched.world.said
    assert watched.value("policyctl_journal_intact") == 1
    before = watched.samples("policyctl_alias_info")
    match damage:
        case "edited":
            path.write_bytes(whole.replace(b"walker", b"runner", 1))
        case "lost":
            path.unlink()
        case _:
            path.write_bytes(b"{\n")
    said.clear()
    for _ in range(3):
        assert watched.value("policyctl_journal_intact") == 0
        assert watched.samples("policyctl_alias_info") == before
        assert watched.prober.probe()
    assert sum("cannot be relied on" in line for line in said) == 1
    path.write_bytes(whole)
    assert watched.value("policyctl_journal_intact") == 1
    assert watched.probes()["answered"] == 3


def test_reloads_of_the_settings_are_told(watched) -> None:
    """By result, from zero; the time of the last that changed something only once there was one."""
    assert {s.labels: s.value for s in watched.samples("policyctl_settings_reloads_total")} == {
        ("applied",): 0,
        ("refused",): 0,
        ("unchanged",): 0,
    }
    assert watched.samples("policyctl_settings_reload_timestamp_seconds") == ()
    watched.metrics.reloads = lambda: ReloadCounts(applied=2, refused=1, last_applied_s=1.5)
    assert watched.value("policyctl_settings_reloads_total", "applied") == 2
    assert watched.value("policyctl_settings_reload_timestamp_seconds") == 1.5


def test_an_unchanged_journal_is_counted_once(watched, monkeypatch) -> None:
    """A scrape a second reads nothing again; after a new record it does."""
    counted, update = [], JournalCount.update
    monkeypatch.setattr(JournalCount, "update", lambda self, r: counted.append(len(r)) or update(self, r))
    for _ in range(3):
        watched.metrics.collect()
    promote(watched.world.control, model="walker", release="1.1.0", alias="production")
    watched.metrics.collect()
    assert len(counted) == 2


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A journal with moves of every kind and outcome."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("long"), patch)
        for seed, release in enumerate(("1.0.0", "1.1.0"), start=1):
            world.publish(release, seed)
            promote(world.control, model="walker", release=release, alias="production")
        rollback(world.control, model="walker", alias="production")
        pin(world.control, model="walker", release="1.1.0")
        unpin(world.control, model="walker", release="1.1.0")
        return world.control.repository.journal.records()


@given(cuts=st.lists(st.integers(0, 60), max_size=5).map(sorted))
def test_counting_a_journal_in_pieces_is_counting_it_at_once(records, cuts) -> None:
    """However it grew; and one that was replaced by another is counted from its beginning."""
    count = JournalCount()
    for cut in cuts:
        count.update(records[:cut])
    assert count.update(records) == JournalCount().update(records)
    assert count.update(records[:3]) == JournalCount().update(records[:3])


def test_a_scrape_does_not_wait_for_another_reader_of_a_long_journal(watched) -> None:
    """It exports what was counted before."""
    before = watched.samples("policyctl_alias_info")
    promote(watched.world.control, model="walker", release="1.1.0", alias="production")
    with watched.known._lock:
        assert watched.samples("policyctl_alias_info") == before
    assert watched.samples("policyctl_alias_info") != before
