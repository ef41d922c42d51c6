"""What a soak hands to its judge, and how lengths of time are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyctl.cli.values import seconds
from policyctl.domain.verdict import Verdict
from policyctl.errors import ServerError, UsageError
from policyctl.gates.leak import GrowthLimits, SeriesKind, judge
from policyctl.services.experiments.soak import SHARED, Plan, Sample, series_of
from policyctl.serving.memory import ProcessUse, shared_bytes, usage

SERVED = "walker"


def use(pid: int, own_bytes: int) -> ProcessUse:
    return ProcessUse(pid, 2 * own_bytes, own_bytes, own_bytes, 2 * own_bytes, 10, 4)


def samples(count: int, **pids: list[int]) -> list[Sample]:
    """`count` samples of processes that are given by name, with a process id for each sample (0: not there)."""
    found = []
    for at in range(count):
        there = {name.replace("__", "."): use(ids[at], 50_000_000) for name, ids in pids.items() if ids[at]}
        found.append(Sample(float(at), at * 1000, there, 4096))
    return found


def names(found: list) -> set[str]:
    return {each.name for each in found if each.kind is SeriesKind.MEMORY}


def test_a_process_that_was_there_all_along_is_judged() -> None:
    """With its memory and its descriptors; and shared memory once."""
    found = series_of(samples(100, walker_0_0=[7] * 100, tritonserver=[1] * 100), [], SERVED)
    assert names(found) == {"walker_0_0", "tritonserver"}
    assert [each.name for each in found if each.kind is SeriesKind.SHARED_MEMORY] == [SHARED]
    assert len([each for each in found if each.kind is SeriesKind.DESCRIPTORS]) == 2


def test_a_candidate_that_came_and_went_is_left_out() -> None:
    """It was never there for long; nobody waits for a verdict on it."""
    passing = [9 if at % 10 == 0 else 0 for at in range(100)]
    found = series_of(samples(100, walker_0_0=[7] * 100, walker__candidate_0_0=passing), [], SERVED)
    assert names(found) == {"walker_0_0"}


def test_an_instance_that_was_replaced_again_and_again_is_inconclusive_and_not_left_out() -> None:
    """Else a soak with many moves would pass without having looked at the backend."""
    replaced = [100 + at // 8 for at in range(100)]
    found = series_of(samples(100, walker_0_0=replaced), [], SERVED)
    (memory,) = [each for each in found if each.kind is SeriesKind.MEMORY]
    assert len(memory.values) == 8
    assert judge(found, GrowthLimits()).verdict is Verdict.INCONCLUSIVE


def test_without_samples_nothing_passes() -> None:
    """A server that could never be looked at is an error."""
    assert judge(series_of([], [], SERVED), GrowthLimits()).verdict is Verdict.ERROR


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("5ms", 0.005), (" 2m ", 120)]
)
def test_lengths_of_time_are_read(text: str, expected: float) -> None:
    """With a unit, or in seconds."""
    assert seconds("--for", text, example="10m") == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "0", "-5s", "ten", "5 minutes", "1d", "nan"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    """And the message shows one that is."""
    with pytest.raises(UsageError, match="--p99-limit") as refused:
        seconds("--p99-limit", text, example="5ms")
    assert refused.value.remedy == "For example --p99-limit 5ms."


def test_a_soak_too_short_to_show_anything_is_refused() -> None:
    """Seconds prove nothing about hours."""
    with pytest.raises(UsageError, match="shows nothing"):
        Plan(duration_s=5)


def test_this_process_is_measured_as_the_kernel_sees_it() -> None:
    """Own memory is part of the resident, the peak no less than either; an ended one is left out."""
    found = usage(os.getpid(), {"me": os.getpid(), "gone": 2**22 + 1})
    assert set(found) >= {"tritonserver", "me"} and "gone" not in found
    me = found["me"]
    assert 0 < me.own_bytes <= me.rss_bytes <= me.peak_bytes
    assert me.descriptors >= 3 and me.threads >= 1
    with pytest.raises(ServerError):
        usage(2**22 + 1, {})


def test_only_files_with_our_prefix_count_as_shared_memory(tmp_path: Path) -> None:
    """Others' memory does not count as ours."""
    (tmp_path / "policyctl-a").write_bytes(b"x" * 10_000)
    (tmp_path / "other").write_bytes(b"x" * 1_000_000)
    assert 10_000 <= shared_bytes(tmp_path, ("policyctl-",)) < 100_000
