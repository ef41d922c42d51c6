"""Gate `golden`: only right answers, from the right slot, in batches and alone, pass."""

from __future__ import annotations

import json

import numpy as np
import pytest

from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.golden import Golden
from policyctl.domain.json_values import to_json
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec
from policyctl.domain.verdict import Verdict
from policyctl.errors import ServerError
from policyctl.gates import golden as gate

CONTRACT = Contract(
    (TensorSpec("observation", "float32", (2,)),),
    (TensorSpec("action", "float32", (1,)), TensorSpec("value", "float32", (1,))),
    ActionKind.CONTINUOUS,
)


def _golden(rows: int = 10) -> Golden:
    observation = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    return Golden({"observation": observation}, _answer(observation), Tolerance(1e-3, 0.0, 0.0))


def _answer(observation):
    return {"action": observation.sum(axis=1, keepdims=True), "value": observation[:, :1]}


class Server:
    """Answers right, unless it is told how to be wrong; remembers the batches that it saw."""

    def __init__(self, spoil=lambda rows, outputs: (7, outputs)) -> None:
        self.spoil, self.batches = spoil, []

    def __call__(self, observations, outputs):
        observation = observations["observation"]
        self.batches.append([int(row[0]) // 2 for row in observation])
        answer = _answer(observation)
        return self.spoil(observation, {name: answer[name] for name in outputs})


def _run(server: Server, rows: int = 10, max_batch_size: int = 4):
    return gate.run(CONTRACT, _golden(rows), server, slot=7, max_batch_size=max_batch_size)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 64), (4, 4), (5, 4), (10, 1), (10, 3), (64, 64), (65, 64)])
def test_every_row_is_asked_in_a_batch_and_the_first_also_alone(rows: int, size: int) -> None:
    """No batch is larger than allowed, no row is left out, and batch size one is always tried."""
    server = Server()
    result = _run(server, rows, size)
    assert result.verdict is Verdict.PASSED
    alone = min(4, rows)
    batches, singles = server.batches[:-alone], server.batches[-alone:]
    assert [row for batch in batches for row in batch] == list(range(rows))
    assert max(len(batch) for batch in batches) <= size
    assert singles == [[row] for row in range(alone)]
    assert result.evidence["inferences"] == len(server.batches)


def test_the_wrong_slot_fails_even_with_the_right_answer() -> None:
    """Who answers is part of the answer."""
    result = _run(Server(lambda _, outputs: (8, outputs)))
    assert result.verdict is Verdict.FAILED
    assert "slot 8, expected 7" in result.reason


@pytest.mark.parametrize("row", range(10))
@pytest.mark.parametrize("name", ["action", "value"])
def test_one_wrong_value_anywhere_fails_and_is_named(row: int, name: str) -> None:
    """The row, the output and the observation are in the verdict."""

    def spoil(observation, outputs):
        outputs[name] = np.where(observation[:, :1] == 2 * row, outputs[name] + 0.01, outputs[name])
        return 7, outputs

    result = _run(Server(spoil))
    assert result.verdict is Verdict.FAILED
    assert f"golden row {row}: output {name}" in result.reason
    assert result.evidence["worst_observation"] == {"observation": [2.0 * row, 2.0 * row + 1]}
    json.dumps(to_json(result), allow_nan=False)


@pytest.mark.parametrize("batched", [True, False])
def test_a_server_that_is_wrong_in_one_batch_size_only_fails(batched: bool) -> None:
    """Right alone and wrong in a batch, or the other way round, is wrong."""
    result = _run(Server(lambda o, out: (7, {k: v + ((len(o) > 1) is batched) for k, v in out.items()})))
    assert result.verdict is Verdict.FAILED


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_fails_with_evidence_that_is_json(value: float) -> None:
    """NaN and infinities are wrong answers, and what is kept of them is strict JSON."""
    result = _run(Server(lambda _, out: (7, {**out, "action": np.full_like(out["action"], value)})))
    assert result.verdict is Verdict.FAILED
    json.dumps(to_json(result), allow_nan=False)


def _raise(*_: object):
    raise ServerError("connection refused")


@pytest.mark.parametrize(
    ("spoil", "verdict", "said"),
    [
        (_raise, Verdict.ERROR, "rows 0 to 3: connection refused"),
        (lambda _, out: (7, {"action": out["action"]}), Verdict.FAILED, "output value is missing"),
        (lambda _, out: (7, {k: v[:-1] for k, v in out.items()}), Verdict.FAILED, "has shape"),
        (lambda _, out: (7, {k: v[:, 0] for k, v in out.items()}), Verdict.FAILED, "has shape"),
        (lambda _, out: (7, {k: v.astype(int) for k, v in out.items()}), Verdict.FAILED, "int64"),
    ],
)
def test_a_server_that_does_not_answer_what_was_asked_does_not_pass(spoil, verdict: Verdict, said: str) -> None:
    """No answer is an error, another answer a failure: two different verdicts."""
    result = _run(Server(spoil))
    assert result.verdict is verdict
    assert said in result.reason


def test_an_error_after_right_answers_is_an_error() -> None:
    """Half a certification is none."""
    calls = []

    def spoil(observation, outputs):
        calls.append(observation)
        return (7, outputs) if len(calls) < 5 else _raise()

    assert _run(Server(spoil)).verdict is Verdict.ERROR
