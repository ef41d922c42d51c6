"""Contracts compared: which difference needs which bump, and the laws of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from domain_strategies import contracts
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain.chunk import Chunk
from policyctl.domain.compatibility import Difference, compare, needed
from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.tensor import Role, TensorSpec
from policyctl.domain.versions import Bump

OBSERVATION = TensorSpec("observation", "float32", (2,), low=-1.0, high=1.0, features=("speed", "angle"))
ACTION = TensorSpec("action", "float32", (1,), low=-1.0, high=1.0)
VALUE = TensorSpec("value", "float32", (1,))
GAUSSIAN = tuple(TensorSpec(name, "float32", (1,)) for name in ("mean", "log_std"))
BASE = Contract((OBSERVATION,), (ACTION, VALUE), ActionKind.CONTINUOUS)
DRAWN = Contract((OBSERVATION,), (ACTION, *GAUSSIAN), ActionKind.CONTINUOUS, Distribution(DistributionKind.GAUSSIAN))


def observing(**changes) -> Contract:
    return replace(BASE, observations=(replace(OBSERVATION, **changes),))


def acting(**changes) -> Contract:
    return replace(BASE, outputs=(replace(ACTION, **changes), VALUE))


def discrete(choices: int, start: int = 0) -> Contract:
    action = TensorSpec("action", "int64", (1,), low=float(start), high=float(start + choices - 1))
    logits = TensorSpec("logits", "float32", (choices,))
    return Contract((OBSERVATION,), (action, logits), ActionKind.DISCRETE, Distribution(DistributionKind.CATEGORICAL))


def many(*choices: int) -> Contract:
    action = TensorSpec("action", "int64", (len(choices),), low=0.0)
    logits = TensorSpec("logits", "float32", (sum(choices),))
    law = Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=choices)
    return Contract((OBSERVATION,), (action, logits), ActionKind.MULTI_DISCRETE, law)


def transformed(transform: Transform) -> Contract:
    return replace(DRAWN, distribution=replace(DRAWN.distribution, transform=transform))


def chunked(chunk: Chunk) -> Contract:
    return replace(acting(shape=(4, 1), low=None, high=None, features=()), chunk=chunk)


MASK = TensorSpec("action_mask", "bool", (2,))
STATE = TensorSpec("state", "float32", (8,))
MAJOR, MINOR, PATCH = Bump.MAJOR, Bump.MINOR, Bump.PATCH
CASES = {
    "nothing": (BASE, BASE, PATCH, ""),
    "an observation is removed": (
        replace(BASE, observations=(OBSERVATION, MASK)),
        BASE,
        MAJOR,
        "observation 'action_mask' was removed",
    ),
    "an observation is added: a mask": (
        BASE,
        replace(BASE, observations=(OBSERVATION, MASK)),
        MAJOR,
        "'action_mask' was added",
    ),
    "an observation is added: a recurrent state": (
        BASE,
        replace(BASE, observations=(OBSERVATION, STATE)),
        MAJOR,
        "observation 'state' was added",
    ),
    "an input has a role for the first time": (
        replace(BASE, observations=(OBSERVATION, MASK)),
        replace(BASE, observations=(OBSERVATION, replace(MASK, role=Role.ACTION_MASK))),
        MINOR,
        "'action_mask' had the role of an observation, has action_mask",
    ),
    "an input has no role any more": (
        replace(BASE, observations=(OBSERVATION, replace(MASK, role=Role.ACTION_MASK))),
        replace(BASE, observations=(OBSERVATION, MASK)),
        MAJOR,
        "'action_mask' had the role action_mask, has none",
    ),
    "an observation is renamed": (BASE, observing(name="obs"), MAJOR, "'observation' was renamed to 'obs'"),
    "an observation is reshaped": (
        BASE,
        observing(shape=(1, 2)),
        MAJOR,
        "had shape (2,), has (1, 2)",
    ),
    "an observation is retyped": (BASE, observing(dtype="float64"), MAJOR, "was float32, is float64"),
    "an observation is bounded more tightly below": (
        BASE,
        observing(low=-0.5),
        MAJOR,
        "observation[0] (speed) was -1 to 1, is -0.5 to 1 (and 1 more)",
    ),
    "an observation is bounded more tightly above": (BASE, observing(high=0.5), MAJOR, "more tightly"),
    "one element is bounded more tightly": (
        BASE,
        observing(high=(1.0, 0.5)),
        MAJOR,
        "observation[1] (angle) was -1 to 1, is -1 to 0.5",
    ),
    "a bound appears": (observing(high=None), BASE, MAJOR, "more tightly"),
    "an observation is bounded more loosely": (
        BASE,
        observing(low=-2.0),
        MINOR,
        "observation 'observation' is bounded more loosely",
    ),
    "a bound disappears": (BASE, observing(low=None), MINOR, "more loosely"),
    "an observation is shifted": (BASE, observing(low=0.0, high=2.0), MAJOR, "more tightly"),
    "bounds are written otherwise": (BASE, observing(low=(-1.0, -1.0)), PATCH, ""),
    "bounds are the dtype's own": (
        observing(low=None, high=None),
        observing(low=-3.4028234663852886e38, high=3.4028234663852886e38),
        PATCH,
        "",
    ),
    "bounds differ beyond what the dtype holds": (observing(high=4.8), observing(high=4.800000190734863), PATCH, ""),
    "a discrete observation has more choices": (
        observing(dtype="int64", shape=(1,), low=0.0, high=3.0, features=()),
        observing(dtype="int64", shape=(1,), low=0.0, high=4.0, features=()),
        MINOR,
        "more loosely",
    ),
    "a discrete observation has fewer choices": (
        observing(dtype="int64", shape=(1,), low=0.0, high=4.0, features=()),
        observing(dtype="int64", shape=(1,), low=0.0, high=3.0, features=()),
        MAJOR,
        "more tightly",
    ),
    "elements change places": (
        BASE,
        observing(features=("angle", "speed")),
        MAJOR,
        "element 0: was 'speed', is 'angle'",
    ),
    "elements are named no longer": (BASE, observing(features=()), MAJOR, "no names"),
    "elements are named for the first time": (observing(features=()), BASE, MINOR, "names for its elements"),
    "an element is in another unit": (
        observing(units=("m/s", "rad")),
        observing(units=("m/s", "deg")),
        MAJOR,
        "has other units: observation[1] (angle) was in rad, is in deg (needs MAJOR)",
    ),
    "an action is in another unit": (acting(units="rad"), acting(units="deg"), MAJOR, "action[0] was in rad"),
    "units are not said any more": (
        observing(units="rad"),
        BASE,
        MAJOR,
        "observation[0] (speed) was in rad, is in none (and 1 more)",
    ),
    "units are said for the first time": (BASE, observing(units="rad"), MINOR, "has units for its elements"),
    "units of another element are said": (
        observing(units=("m/s", "")),
        observing(units=("m/s", "rad")),
        MINOR,
        "has units for its elements",
    ),
    "units are written otherwise": (observing(units="rad"), observing(units=("rad", "rad")), PATCH, ""),
    "observations change places": (
        replace(BASE, observations=(OBSERVATION, MASK)),
        replace(BASE, observations=(MASK, OBSERVATION)),
        PATCH,
        "",
    ),
    "an output is removed": (BASE, replace(BASE, outputs=(ACTION,)), MAJOR, "output 'value' was removed"),
    "an output is added": (replace(BASE, outputs=(ACTION,)), BASE, MINOR, "output 'value' was added"),
    "an output is renamed": (BASE, replace(BASE, outputs=(ACTION, replace(VALUE, name="v"))), MAJOR, "renamed to 'v'"),
    "outputs change places": (
        DRAWN,
        replace(DRAWN, outputs=(ACTION, *reversed(GAUSSIAN))),
        PATCH,
        "",
    ),
    "the action is reshaped": (BASE, acting(shape=(2,)), MAJOR, "output 'action' had shape (1,), has (2,)"),
    "the action is retyped": (BASE, acting(dtype="float64"), MAJOR, "was float32, is float64"),
    "the action is bounded more tightly": (BASE, acting(high=0.5), MAJOR, "output 'action' is bounded more tightly"),
    "the action is bounded more loosely": (BASE, acting(high=2.0), MAJOR, "output 'action' is bounded more loosely"),
    "the action is read otherwise": (
        BASE,
        replace(BASE, action_kind=ActionKind.MULTI_BINARY),
        MAJOR,
        "action kind was continuous",
    ),
    "a discrete action has more choices": (discrete(2), discrete(3), MAJOR, "'logits' had shape (2,), has (3,)"),
    "a discrete action has fewer choices": (discrete(3), discrete(2), MAJOR, "more tightly"),
    "a discrete action starts elsewhere": (discrete(2), discrete(2, start=1), MAJOR, "output 'action'"),
    "choices move from one component to another": (many(2, 3), many(3, 2), MAJOR, "was multi_categorical of [2, 3]"),
    "actions can be drawn for the first time": (
        replace(BASE, outputs=(ACTION,)),
        DRAWN,
        MINOR,
        "distribution was none",
    ),
    "actions can be drawn no longer": (
        DRAWN,
        replace(DRAWN, distribution=Distribution()),
        MAJOR,
        "distribution was gaussian",
    ),
    "drawn actions are transformed otherwise": (
        transformed(Transform.CLIP),
        transformed(Transform.TANH_RESCALE),
        MAJOR,
        "gaussian with transform clip, is gaussian with transform tanh_rescale",
    ),
    "batches are limited": (
        BASE,
        replace(BASE, max_batch=1),
        MAJOR,
        "max batch was any number of rows an inference, is at most 1",
    ),
    "an answer holds several steps": (
        acting(shape=(4, 1), low=None, high=None, features=()),
        chunked(Chunk(4, 2, 0.02)),
        MAJOR,
        "chunk was one action an answer; is 4 actions an answer, 2 carried out; 0.02 s from one to the next",
    ),
    "the time between the steps of a chunk is stated": (
        chunked(Chunk(4, 2)),
        chunked(Chunk(4, 2, 0.02)),
        MINOR,
        "4 actions an answer",
    ),
    "the time between the steps of a chunk is another": (
        chunked(Chunk(4, 2, 0.05)),
        chunked(Chunk(4, 2, 0.02)),
        MAJOR,
        "0.02 s",
    ),
    "more of a chunk is carried out": (chunked(Chunk(4, 2)), chunked(Chunk(4, 3)), MINOR, "3 carried out"),
    "batches are limited more": (replace(BASE, max_batch=8), replace(BASE, max_batch=1), MAJOR, "is at most 1"),
    "batches are limited no longer": (replace(BASE, max_batch=1), BASE, MINOR, "is any number"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_difference_needs_its_bump(name: str) -> None:
    """The documented table, line by line, with the words that a person reads."""
    earlier, later, needs, words = CASES[name]
    found = compare(earlier, later)
    assert needed(found) is needs
    assert words in "; ".join(d.words for d in found)
    assert bool(found) == bool(words)
    assert [d.needs for d in found] == sorted((d.needs for d in found), reverse=True)
    assert all(f"(needs {d.needs.name})" in d.words and d.to_json()["needs"] == d.needs.name.lower() for d in found)


@settings(max_examples=40)
@given(contracts())
def test_a_contract_differs_from_itself_in_nothing(contract: Contract) -> None:
    """Nor from what became of it as JSON."""
    assert compare(contract, contract) == ()
    assert compare(contract, Contract.from_json(contract.to_json())) == ()


@settings(max_examples=40)
@given(contracts(), contracts())
def test_any_two_contracts_can_be_compared(one: Contract, other: Contract) -> None:
    """And where nothing of theirs differs but the order and the writing, nothing is found either way."""
    assert (compare(one, other) == ()) == (compare(other, one) == ())


# A small world, so that any two contracts are often close to each other.
bound = st.sampled_from([None, 1.0, 2.0])
elements = st.sampled_from([(), ("x",), ("y",)])
measures = st.sampled_from(["", "rad", "deg"])


@st.composite
def close(draw) -> Contract:
    observations = [
        TensorSpec(
            name,
            draw(st.sampled_from(["float32", "int64"])),
            (1,),
            high=draw(bound),
            features=draw(elements),
            units=draw(measures),
        )
        for name in draw(st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a")]))
    ]
    action = TensorSpec("action", "float32", (1,), high=draw(bound))
    outputs = [action, *([VALUE] if draw(st.booleans()) else [])]
    law = Distribution()
    if draw(st.booleans()):
        outputs += GAUSSIAN
        law = Distribution(DistributionKind.GAUSSIAN, transform=draw(st.sampled_from([Transform.NONE, Transform.CLIP])))
    return Contract(tuple(observations), tuple(outputs), ActionKind.CONTINUOUS, law)


@given(close(), close(), close())
def test_no_way_round_is_cheaper(a: Contract, b: Contract, c: Contract) -> None:
    """What a to c needs is at most the most of its two halves: many small steps hide no great one."""
    assert needed(compare(a, c)) <= max(needed(compare(a, b)), needed(compare(b, c)))


@given(*[st.tuples(measures, measures)] * 3)
def test_a_stated_unit_stays_what_it_is(one: tuple[str, str], other: tuple[str, str], third: tuple[str, str]) -> None:
    """What is said of one element and not said so any more is MAJOR; what is said first is MINOR; no way is cheaper."""
    a, b, c = (observing(units=units) for units in (one, other, third))
    pairs = [*zip(one, other, strict=True)]
    breaks = any(before not in ("", after) for before, after in pairs)
    assert needed(compare(a, b)) is (MAJOR if breaks else MINOR if one != other else PATCH)
    assert needed(compare(a, c)) <= max(needed(compare(a, b)), needed(compare(b, c)))


differences = st.lists(
    st.builds(Difference, st.just("output"), st.just("x"), st.just("changed"), st.sampled_from(Bump))
)


@given(differences, differences)
def test_one_more_difference_never_lowers_the_bump(some: list[Difference], more: list[Difference]) -> None:
    """The bump of all is the largest of its parts, and PATCH of none."""
    assert needed([*some, *more]) == max(needed(some), needed(more))
    assert needed([]) is Bump.PATCH


@given(close(), close(), close())
def test_a_change_elsewhere_never_lowers_the_bump(base: Contract, one: Contract, other: Contract) -> None:
    """What happens to observations is needed whatever happens to outputs."""
    inputs = replace(base, observations=one.observations)
    both = replace(inputs, outputs=other.outputs, distribution=other.distribution)
    assert needed(compare(base, both)) >= needed(compare(base, inputs))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=2), st.lists(st.floats(-10, 10), min_size=2, max_size=2))
def test_more_room_for_observations_is_minor_and_less_is_major(one: list[float], other: list[float]) -> None:
    """Whichever way round two intervals are compared."""
    low, high = min(one), max(one)
    wide = observing(dtype="float64", low=min(low, *other), high=max(high, *other))
    narrow = observing(dtype="float64", low=low, high=high)
    if compare(narrow, wide):
        assert needed(compare(narrow, wide)) is MINOR
        assert needed(compare(wide, narrow)) is MAJOR


def test_an_infinite_element_is_an_unbounded_one() -> None:
    """``inf`` for one element says what ``None`` says for all."""
    assert compare(observing(high=None), observing(high=(math.inf, math.inf))) == ()
