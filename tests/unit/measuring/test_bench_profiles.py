"""What a profile measures, in which order, and for how long at most."""

from __future__ import annotations

import pytest

from policyctl.domain.protocol import Protocol
from policyctl.errors import UsageError
from policyctl.measuring.measurement import LoadMode, SharedMemory
from policyctl.measuring.perf_analyzer import WINDOWS
from policyctl.measuring.profiles import PROFILES, Profile, plan, plan_rates, point_limit_s

BOTH = (Protocol.GRPC, Protocol.HTTP)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_a_profile_fits_into_its_own_time(profile: Profile) -> None:
    """With a second a point for starting, and an answer in a millisecond, half of the limit is left."""
    points = len(plan(profile)) + len(profile.rate_shares)
    each_s = 1.0 + WINDOWS * profile.interval_ms / 1e3 + 1e-3 * profile.warmup_requests
    assert points * each_s < profile.time_limit_s / 2


def test_what_is_compared_is_measured_side_by_side() -> None:
    """Protocols and shared memory of one load are neighbours, and no point comes twice."""
    profile = Profile(name="x", protocols=BOTH, shared_memory=tuple(SharedMemory), concurrency=(1, 8), batches=(1, 64))
    points = plan(profile)
    assert len(set(points)) == len(points) == 16
    for at in range(0, 16, 4):
        assert len({(p.batch_size, p.level) for p in points[at : at + 4]}) == 1


def test_other_batches_are_measured_with_one_client_and_at_most_eight() -> None:
    """More of them only queue."""
    profile = Profile(name="x", concurrency=(1, 2, 8, 32), batches=(1, 64))
    assert [p.level for p in plan(profile) if p.batch_size == 64] == [1, 8]
    assert [p.level for p in plan(Profile(name="x", concurrency=(32,), batches=(1, 64)))] == [32, 32]


def test_rates_follow_from_what_the_closed_loop_reached() -> None:
    """Each protocol from its own, in two digits; rates that were given replace them."""
    profile = Profile(name="x", rate_shares=(0.25, 0.5))
    reached = {(Protocol.GRPC, SharedMemory.NONE): 4321.0, (Protocol.HTTP, SharedMemory.NONE): 0.0}
    assert [(p.mode, p.level) for p in plan_rates(profile, reached)] == [
        (LoadMode.REQUEST_RATE, 1100.0),
        (LoadMode.REQUEST_RATE, 2200.0),
    ]
    given = Profile(name="x", rates=(10.0,), rate_shares=(0.5,))
    assert plan_rates(given, reached) == ()
    assert [(p.mode, p.level) for p in plan(given)] == [(LoadMode.REQUEST_RATE, 10.0)]


def test_the_limit_of_a_point_grows_with_what_is_asked_of_it() -> None:
    """A slow policy and long windows get their time; a quick one does not hold a stopped server for long."""
    quick = Profile(name="x", interval_ms=500)
    assert point_limit_s(quick, answer_s=0.001) < 15
    assert point_limit_s(quick, answer_s=1.0) > quick.warmup_requests
    assert point_limit_s(Profile(name="x", interval_ms=60_000), answer_s=0.001) > 180


@pytest.mark.parametrize(
    "changes",
    [
        {"protocols": ()},
        {"protocols": (Protocol.GRPC,) * 2},
        {"concurrency": (0,)},
        {"batches": (1, 1)},
        {"rates": (-1.0,)},
    ],
    ids=str,
)
def test_a_profile_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    """Nothing to measure, twice the same, or a load of nothing."""
    with pytest.raises(UsageError):
        Profile(name="x", **changes)
