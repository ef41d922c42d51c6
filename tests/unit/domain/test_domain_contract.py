"""The contract: a lossless JSON form, and refusals that name what is wrong."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
from domain_strategies import contracts
from hypothesis import given, settings

from policyctl.domain.chunk import Chunk
from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind
from policyctl.domain.manifest import canonical_json
from policyctl.domain.tensor import TensorSpec, bound_of
from policyctl.errors import UsageError

OBSERVATION = TensorSpec("observation", "float32", (2,), -1.0, 1.0, ("x", "y"))
GOOD = Contract(
    (OBSERVATION,),
    (TensorSpec("action", "int64", (1,), 0.0, 2.0), TensorSpec("logits", "float32", (3,))),
    ActionKind.DISCRETE,
    Distribution(DistributionKind.CATEGORICAL),
)


@settings(max_examples=60, deadline=None)
@given(contracts())
def test_a_contract_survives_its_json_text(contract: Contract) -> None:
    """Every contract is written as strict JSON (no NaN, no Infinity) and read back as itself."""
    text = canonical_json(contract.to_json())
    assert Contract.from_json(json.loads(text)) == contract
    assert hash(contract) == hash(Contract.from_json(json.loads(text)))


def _changed(path: str, value: object) -> dict:
    data = copy.deepcopy(GOOD.to_json())
    here, *rest = path.split(".")
    target: object = data
    for key in rest:
        target = target[int(here) if here.isdigit() else here]  # type: ignore[index]
        here = key
    target[int(here) if here.isdigit() else here] = value  # type: ignore[index]
    return data


WRONG = [
    ("schema", 2, "schema 2"),
    ("schema", True, "schema True"),
    ("schema", 1.0, r"schema 1\.0"),
    ("schema", "1", "schema '1'"),
    ("extra", 1, "extra unknown"),
    ("action_kind", "sideways", "sideways"),
    ("action_kind", None, "None"),
    ("action_kind", ["discrete"], "discrete"),
    ("observations", [], "at least one observation"),
    ("observations", None, "observations"),
    ("observations", {"name": 1}, "observations"),
    ("observations", ["x"], r"observations\[0\] is 'x', expected an object"),
    ("outputs", [], "first output"),
    ("outputs.0.name", "Action", "first output"),
    ("observations.0.name", "logits", "logits named more than once"),
    ("observations.0.name", None, "name"),
    ("observations.0.name", "a/b", "'a/b'"),
    ("observations.0.name", "a\n", r"'a\\n'"),
    ("observations.0.name", "x" * 64, "xxx"),
    ("observations.0.dtype", "float", "'float'"),
    ("observations.0.dtype", 5, "dtype"),
    ("observations.0.shape", [], "shape"),
    ("observations.0.shape", [0], "shape"),
    ("observations.0.shape", [-1], "shape"),
    ("observations.0.shape", "2", "shape"),
    ("observations.0.shape", [2.5], "shape"),
    ("observations.0.shape", [True, 2], "shape"),
    ("observations.0.shape", [math.inf], "shape"),
    ("observations.0.shape", None, "shape"),
    ("observations.0.low", [0.0], "low has 1 values"),
    ("observations.0.low", "0", "low"),
    ("observations.0.low", True, "low"),
    ("observations.0.low", math.nan, "low"),
    ("observations.0.low", -math.inf, "low"),
    ("observations.0.low", [0.0, math.nan], "low"),
    ("observations.0.high", [0.0, -math.inf], "high"),
    ("observations.0.high", {}, "high"),
    ("observations.0.features", ["x"], "1 feature names"),
    ("observations.0.features", "xy", "features"),
    ("observations.0.features", [1, 2], "features"),
    ("observations.0.units", ["rad"], "1 units, its shape"),
    ("observations.0.units", [], "0 units, its shape"),
    ("observations.0.units", " rad", "the unit ' rad' is not a word"),
    ("observations.0.units", "rad\n", "is not a word"),
    ("observations.0.units", 1, "units"),
    ("observations.0.units", None, "units"),
    ("distribution", None, "distribution is None, expected an object"),
    ("distribution.kind", "poisson", "poisson"),
    ("distribution.nvec", [1.5], "nvec"),
    ("distribution.nvec", "12", "nvec"),
    ("distribution.transform", 7, "7"),
    ("max_batch", 0, "max_batch is 0"),
    ("max_batch", "1", "max_batch"),
    ("max_batch", True, "max_batch"),
]


@pytest.mark.parametrize(("path", "value", "named"), WRONG, ids=lambda v: repr(v)[:30])
def test_a_wrong_contract_is_refused_by_name(path: str, value: object, named: str) -> None:
    """A wrong type or value is never converted into a right one: it is refused, and the message names it."""
    with pytest.raises(UsageError, match=named):
        Contract.from_json(_changed(path, value))


@pytest.mark.parametrize("key", [*GOOD.to_json(), "observations.0.low", "distribution.nvec"])
def test_a_missing_key_is_named(key: str) -> None:
    """Nothing has a silent default."""
    data = GOOD.to_json()
    *way, last = key.split(".")
    target: object = data
    for part in way:
        target = target[int(part) if part.isdigit() else part]  # type: ignore[index]
    del target[last]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=f"{last} missing"):
        Contract.from_json(data)


def test_a_contract_without_a_limit_of_batches_is_written_as_before() -> None:
    """What earlier releases wrote keeps its digest: the key is there only where there is a limit."""
    assert "max_batch" not in GOOD.to_json()
    assert Contract.from_json({**GOOD.to_json(), "max_batch": 1}).to_json() == {**GOOD.to_json(), "max_batch": 1}


def test_units_are_kept_in_their_shortest_form() -> None:
    """One unit an element is one for all where they are alike; a contract without units is written as before."""
    spec = replace(OBSERVATION, units=("rad",) * OBSERVATION.size)
    assert spec == replace(OBSERVATION, units="rad")
    assert spec.to_json()["units"] == "rad"
    assert spec.each_unit == ("rad",) * OBSERVATION.size
    assert "units" not in OBSERVATION.to_json()


def test_units_of_a_chunk_are_those_of_its_first_step_for_an_environment() -> None:
    """An environment is given one step, so it meets the units of one step."""
    action = TensorSpec("action", "float32", (3, 2), units=("rad", "N") * 3)
    contract = Contract((OBSERVATION,), (action,), ActionKind.CONTINUOUS, chunk=Chunk(3, 1))
    assert contract.of_one_step().action.units == ("rad", "N")


def test_further_outputs_are_those_that_the_action_does_not_depend_on() -> None:
    """Scores and parameters of a distribution belong to the action, everything else is the caller's to read."""
    value, mean = TensorSpec("value", "float32", (1,)), TensorSpec("mean", "float32", (1,))
    contract = Contract((OBSERVATION,), (*GOOD.outputs, value, mean), ActionKind.DISCRETE, GOOD.distribution)
    assert contract.further == (value,)
    assert GOOD.further == ()


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_what_is_no_object_is_refused(data: object) -> None:
    """Any JSON document that is not an object is refused as one."""
    with pytest.raises(UsageError, match="expected an object"):
        Contract.from_json(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high"),
    [(math.nan, None), (None, math.nan), (math.inf, None), ((0.0, math.inf), None), (None, (-math.inf, 0.0))],
)
def test_a_bound_that_bounds_nothing_right_is_refused(low: object, high: object) -> None:
    """NaN, or a lower bound of plus infinity, would not survive the JSON text: there is no such tensor."""
    with pytest.raises(UsageError, match=r"tensor x: (low|high)"):
        TensorSpec("x", "float32", (2,), low, high)  # type: ignore[arg-type]


DISTRIBUTIONS = [
    (DistributionKind.CATEGORICAL, (), {}, "logits"),
    (DistributionKind.MULTI_CATEGORICAL, (2, 2), {}, "logits"),
    (DistributionKind.MULTI_CATEGORICAL, (2, 2), {"logits": (5,)}, "logits"),
    (DistributionKind.MULTI_CATEGORICAL, (2, 2, 2), {"logits": (6,)}, "nvec"),
    (DistributionKind.MULTI_CATEGORICAL, (4, 0), {"logits": (4,)}, "nvec"),
    (DistributionKind.BERNOULLI, (), {"logits": (3,)}, "logits"),
    (DistributionKind.GAUSSIAN, (), {"mean": (2,)}, "log_std"),
    (DistributionKind.GAUSSIAN, (), {"mean": (2,), "log_std": (1,)}, "log_std"),
]


@pytest.mark.parametrize(("kind", "nvec", "extra", "named"), DISTRIBUTIONS)
def test_a_distribution_without_its_outputs_is_refused(kind, nvec, extra, named) -> None:
    """A contract never promises draws from an output that is absent or has another size."""
    outputs = (
        TensorSpec("action", "int64", (2,)),
        *(TensorSpec(name, "float32", shape) for name, shape in extra.items()),
    )
    with pytest.raises(UsageError, match=named):
        Contract((OBSERVATION,), outputs, ActionKind.MULTI_DISCRETE, Distribution(kind, nvec))


def test_bound_of_gives_the_shortest_form() -> None:
    """All unbounded is None, all equal is one number, else one an element."""
    assert bound_of([-math.inf, -math.inf], unbounded=-math.inf) is None
    assert bound_of([1, 1], unbounded=math.inf) == 1.0
    assert bound_of([1, math.inf], unbounded=math.inf) == (1.0, math.inf)


def test_a_feature_is_named_in_messages() -> None:
    """People read which element is meant, also where it has no name."""
    assert OBSERVATION.feature(1) == "observation[1] (y)"
    assert TensorSpec("o", "float32", (2,)).feature(1) == "o[1]"
