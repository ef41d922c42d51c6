"""Recordings: what is kept, what is left out, and which rows follow one another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.npz import pack, unpack
from policyctl.domain.protocol import CONTROL_REQUEST_ID
from policyctl.domain.recording import Recording, RecordingOrigin, Traced, build
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

CONTRACT = Contract(
    (TensorSpec("observation", "float32", (2,)),),
    (TensorSpec("action", "float32", (1,), -1.0, 1.0), TensorSpec("value", "float32", (1,))),
    ActionKind.CONTINUOUS,
)
ORIGIN = RecordingOrigin("walker", "production", {1: "1.0.0", 2: "1.1.0"}, 1, False, "2026-01-01T00:00:00+00:00", 5.0)


def _traced(number: int, *, name: str | None = None, rows: int = 1, outputs=("action",), slot: int = 1) -> Traced:
    observation = np.full((rows, 2), number, dtype=np.float32)
    known = {"action": observation[:, :1] / 100, "value": observation[:, 1:]}
    return Traced(
        "walker",
        slot,
        f"robot/{number}" if name is None else name,
        1000 + number,
        {"observation": observation},
        {each: known[each] for each in outputs},
    )


def _build(*traced: Traced, origin: RecordingOrigin = ORIGIN) -> Recording:
    return build(CONTRACT, traced, origin, clock_offset_ns=5000)


def test_rows_are_in_the_order_in_which_the_server_took_them() -> None:
    """However the files came, time decides, and a batch gives a row for each observation."""
    found = _build(_traced(3), _traced(1, rows=2), _traced(2, slot=2))
    assert found.observations["observation"][:, 0].tolist() == [1, 1, 2, 3]
    assert found.request.tolist() == [0, 0, 1, 2]
    assert found.time_ns.tolist() == [6001, 6002, 6003]
    assert found.answered_by == {"1.0.0": 2, "1.1.0": 1}
    found.check()


def test_what_is_left_out_is_counted_by_its_reason() -> None:
    """Probes, refusals, strangers and other contracts are no observations of a client's."""
    odd = replace(_traced(9), inputs={"observation": np.zeros((1, 3), np.float32)})
    double = replace(_traced(10), inputs={"observation": np.zeros((1, 2), np.float64)})
    found = _build(
        _traced(1),
        _traced(2, name=CONTROL_REQUEST_ID),
        _traced(3, outputs=()),
        _traced(4, slot=7),
        _traced(5, outputs=("value",)),
        odd,
        double,
    )
    assert found.requests == 1
    assert found.dropped == {
        "another contract": 2,
        "asked by policyctl itself": 1,
        "not answered": 1,
        "slot of no release": 1,
        "without action": 1,
    }


def test_clients_that_draw_their_actions_are_recorded_without_them() -> None:
    """Where nobody asks for the action, the observations are worth keeping."""
    found = _build(_traced(1, outputs=("value",)), _traced(2, outputs=("value",)))
    assert (found.rows, set(found.outputs)) == (2, {"value"})


def test_only_outputs_that_everybody_asked_for_are_kept() -> None:
    """Every kept output has a row for every observation."""
    assert set(_build(_traced(1, outputs=("action", "value")), _traced(2)).outputs) == {"action"}


def test_a_recording_survives_its_file() -> None:
    """Array by array, and the same recording gives the same bytes."""
    found = _build(_traced(1, rows=3), _traced(2, slot=2), _traced(3, name=CONTROL_REQUEST_ID))
    again = Recording.from_bytes(found.to_bytes())
    assert again.to_bytes() == found.to_bytes()
    assert (again.origin, again.request_ids, again.dropped) == (found.origin, found.request_ids, found.dropped)
    for name, array in found.observations.items():
        np.testing.assert_array_equal(again.observations[name], array)


def test_steps_follow_the_numbers_in_request_ids() -> None:
    """Loops that interleave are told apart; a gap or a new start is no step."""
    names = ["a/0", "b/0", "a/1", "b/1", "a/3", "a/4", "a/0", "plain", "plain"]
    before, after = _build(*(_traced(i, name=n) for i, n in enumerate(names))).steps()
    assert list(zip(before.tolist(), after.tolist(), strict=True)) == [(0, 2), (1, 3), (4, 5)]


def test_batches_of_a_loop_follow_row_by_row_and_only_at_the_same_size() -> None:
    """Which environment a row belongs to is known only while the batch keeps its size."""
    found = _build(_traced(0, rows=2), _traced(1, rows=2), _traced(2, rows=3))
    before, after = found.steps()
    assert (before.tolist(), after.tolist()) == ([0, 1], [2, 3])


@pytest.mark.parametrize(("rate", "pairs"), [(1, 3), (2, 0)])
def test_one_stream_has_an_order_only_if_every_request_was_recorded(rate: int, pairs: int) -> None:
    """One of two requests says nothing about the step in between."""
    origin = replace(ORIGIN, one_stream=True, rate=rate)
    found = _build(*(_traced(i, name="") for i in range(4)), origin=origin)
    assert len(found.steps()[0]) == pairs


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("request", np.array([0, 2], dtype=np.int64)),
        ("request", np.array([1, 0], dtype=np.int64)),
        ("request", np.array([0.0, 1.0])),
        ("request", np.array([[0, 1]], dtype=np.int64)),
        ("slots", np.array([1, 9], dtype=np.int64)),
        ("slots", np.array([1], dtype=np.int64)),
        ("time_ns", np.array([1], dtype=np.int64)),
        ("observation/observation", np.zeros((3, 2), np.float32)),
        ("output/action", np.zeros((1, 1), np.float32)),
        ("about", np.frombuffer(b'{"schema": 2}', dtype=np.uint8)),
        ("about", np.frombuffer(b"[1]", dtype=np.uint8)),
        ("about", np.frombuffer(b"\xff", dtype=np.uint8)),
    ],
)
def test_a_recording_that_contradicts_itself_is_refused(name: str, array) -> None:
    """A damaged file is an error that says so, never figures."""
    arrays = unpack(_build(_traced(1), _traced(2)).to_bytes(), what="test", most_bytes=1 << 20)
    with pytest.raises(UsageError, match="recording"):
        Recording.from_bytes(pack({**arrays, name: array}))


def test_a_recording_of_another_contract_is_refused() -> None:
    """The name, the shape and the dtype of every input have to fit."""
    found = _build(_traced(1))
    found.require_fit(CONTRACT)
    for spec in (
        TensorSpec("observation", "float32", (3,)),
        TensorSpec("observation", "float64", (2,)),
        TensorSpec("goal", "float32", (2,)),
    ):
        with pytest.raises(UsageError, match="the release takes"):
            found.require_fit(Contract((spec,), CONTRACT.outputs, ActionKind.CONTINUOUS))
