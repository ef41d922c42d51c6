"""What a load adds up to, and which answers it calls right."""

from __future__ import annotations

import numpy as np
import pytest

from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind
from policyctl.domain.golden import Golden
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError
from policyctl.measuring.load_records import (
    AliasSpan,
    Request,
    answers_older_than_seen,
    answers_outside_aliases,
    report,
)
from policyctl.measuring.load_rows import Expected, rows_of

REQUESTS = [
    Request(start_ns=0, end_ns=1_000, slot=1, release="1.0.0", checked=True),
    Request(start_ns=2_000, end_ns=5_000, slot=2, release="1.1.0", checked=True, wrong=True),
    Request(start_ns=3_000, end_ns=4_000, error="deadline: late"),
    Request(start_ns=5_000, end_ns=7_000, slot=2, release="1.1.0"),
]


def test_a_report_adds_up() -> None:
    """Failed, wrong and unchecked are counted apart, and latencies are of answers only."""
    found = report(REQUESTS, unfit=2)
    assert (found.requests, found.failed, found.wrong, found.unchecked, found.unfit) == (4, 1, 1, 1, 2)
    assert found.by_release == {"1.0.0": 1, "1.1.0": 2}
    assert (found.p50_us, found.max_us) == (2.0, 3.0)
    assert found.throughput_per_s == pytest.approx(3 / 7e-6)
    assert found.errors == (("deadline: late", 1),)


def test_a_load_without_requests_is_not_clean() -> None:
    """Nothing asked is nothing shown."""
    assert not report([]).clean
    assert report(REQUESTS[:1]).clean
    assert not report(REQUESTS[:2]).clean
    assert not report([REQUESTS[0], REQUESTS[2]]).clean


@pytest.mark.parametrize(
    ("spans", "outside"),
    [
        ([], 1),
        ([AliasSpan("a", 0, None)], 0),
        ([AliasSpan("b", 0, None)], 1),
        ([AliasSpan("a", 0, 99)], 1),
        ([AliasSpan("a", 0, 100)], 0),
        ([AliasSpan("a", 150, 160)], 0),
        ([AliasSpan("a", 200, None)], 0),
        ([AliasSpan("a", 201, None)], 1),
        ([AliasSpan("a", 0, 50), AliasSpan("b", 51, 180), AliasSpan("a", 190, None)], 0),
    ],
)
def test_an_answer_is_rightful_if_its_release_was_named_while_it_was_under_way(
    spans: list[AliasSpan], outside: int
) -> None:
    """A request from 100 to 200 answered by `a`, at each limit; ends are included."""
    request = Request(start_ns=100, end_ns=200, slot=1, release="a")
    assert answers_outside_aliases([request], spans) == outside


@pytest.mark.parametrize(
    ("answers", "older"),
    [
        ([(0, 3), (0, 3), (0, 7), (1, 3)], 0),
        ([(0, 7), (0, 3), (0, 5), (0, 7)], 2),
        ([(0, 7), (1, 7), (1, 0)], 1),
        ([(0, 0), (1, 0)], 0),
    ],
)
def test_an_answer_of_an_older_generation_counts_for_the_client_that_had_seen_a_later_one(
    answers: list[tuple[int, int]], older: int
) -> None:
    """What another client has seen does not count."""
    requests = [Request(0, 1, 1, "1.0.0", client=client, generation=number) for client, number in answers]
    assert answers_older_than_seen(requests) == older


def test_failed_requests_are_not_answers_outside_aliases() -> None:
    """They have no release."""
    assert answers_outside_aliases([REQUESTS[2]], []) == 0


def contract(inputs: int = 2, *, more: tuple[TensorSpec, ...] = ()) -> Contract:
    return Contract(
        (TensorSpec("observation", "float32", (inputs,)),),
        (TensorSpec("action", "int64", (1,)), TensorSpec("logits", "float32", (2,)), *more),
        ActionKind.DISCRETE,
        Distribution(DistributionKind.CATEGORICAL),
    )


def golden(observations: list[list[float]], logits: list[list[float]], **more: np.ndarray) -> Golden:
    scores = np.array(logits, dtype=np.float32)
    outputs = {"action": scores.argmax(axis=1)[:, None].astype(np.int64), "logits": scores, **more}
    return Golden({"observation": np.array(observations, dtype=np.float32)}, outputs, Tolerance())


ONE = Expected(contract(), golden([[0, 0], [1, 1]], [[1, 0], [0, 1]]))
TWO = Expected(contract(), golden([[1, 1], [2, 2]], [[3, 0], [0, 3]]))


def test_observations_that_releases_share_are_checked_for_each() -> None:
    """Three different observations of two golden sets of two: the shared one knows both answers."""
    rows = rows_of({"1": ONE, "2": TWO})
    assert [len(pool) for pool in rows.pools] == [3]
    known = {tuple(row.observation["observation"]): sorted(row.answers) for row in rows.pools[0]}
    assert known == {(0, 0): ["1"], (1, 1): ["1", "2"], (2, 2): ["2"]}


def test_an_answer_is_judged_by_the_release_that_gave_it() -> None:
    """Right for one release is wrong for the other, and of an unknown pair nothing is said."""
    rows = rows_of({"1": ONE, "2": TWO})
    shared = next(row for row in rows.pools[0] if len(row.answers) == 2)
    by_one = {"action": np.array([1]), "logits": np.array([0, 1], np.float32)}
    assert rows.check(shared, "1", by_one) is True
    assert rows.check(shared, "2", by_one) is False
    assert rows.check(shared, "3", by_one) is None


def test_the_tolerance_and_near_ties_of_the_golden_set_apply() -> None:
    """A difference within tolerance is right, one beyond is wrong; a broken tie is right, a lost lead wrong."""
    tied = Expected(contract(), golden([[0, 0], [1, 1]], [[0.5, 0.5], [1, 0]]))
    rows = rows_of({"1": tied})
    tie, lead = rows.pools[0]
    assert rows.check(tie, "1", {"action": np.array([1]), "logits": np.array([0.5, 0.5001], np.float32)})
    assert rows.check(lead, "1", {"action": np.array([1]), "logits": np.array([1, 0], np.float32)}) is False
    assert rows.check(lead, "1", {"action": np.array([0]), "logits": np.array([1.01, 0], np.float32)}) is False
    assert rows.check(lead, "1", {"action": np.array([0]), "logits": np.array([np.nan, 0], np.float32)}) is False


def test_releases_of_different_contracts_keep_their_observations_apart() -> None:
    """Each takes its own, and only outputs that both have are fetched."""
    value = TensorSpec("value", "float32", (1,))
    other = Expected(
        contract(3, more=(value,)),
        golden([[0, 0, 0]], [[1, 0]], value=np.zeros((1, 1), np.float32)),
    )
    rows = rows_of({"1": ONE, "2": other})
    assert [len(pool) for pool in rows.pools] == [2, 1]
    assert rows.outputs == ("action", "logits")
    assert rows.check(rows.pools[1][0], "2", {"action": np.array([0]), "logits": np.array([1, 0], np.float32)})


def test_a_load_without_a_golden_set_is_refused() -> None:
    """It could not tell right from wrong."""
    with pytest.raises(UsageError, match="golden"):
        rows_of({})
