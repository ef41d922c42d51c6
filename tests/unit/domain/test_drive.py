"""How an action becomes a command: computed, compared, and never guessed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.compatibility import compare, needed
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.drive import Drive, DriveKind
from policyctl.domain.tensor import TensorSpec
from policyctl.domain.versions import Bump
from policyctl.errors import UsageError

CONTRACT = Contract(
    (TensorSpec("obs", "float32", (4,)),), (TensorSpec("action", "float32", (2,)),), ActionKind.CONTINUOUS
)

numbers = st.floats(-100, 100, width=32)
values = st.one_of(numbers, st.tuples(numbers, numbers))
drives = st.builds(
    Drive,
    kind=st.sampled_from([None, *DriveKind]),
    scale=st.none() | values,
    offset=st.none() | values,
    stiffness=st.none() | values,
    damping=st.none() | values,
    rate_hz=st.none() | st.floats(0.1, 1000),
    in_graph=st.none() | st.booleans(),
)


@given(drives)
def test_a_contract_with_a_drive_survives_its_json(drive) -> None:
    """And it differs from itself in nothing."""
    contract = replace(CONTRACT, drive=drive)
    assert Contract.from_json(contract.to_json()) == contract
    assert compare(contract, contract) == ()
    assert drive.words


@given(drives, drives)
def test_another_drive_is_a_breaking_change_though_no_shape_changes(earlier, later) -> None:
    """A first one breaks nothing; one that goes, or that differs anywhere, does."""
    before, after = (replace(CONTRACT, drive=drive) for drive in (earlier, later))
    assert needed(compare(CONTRACT, after)) is Bump.MINOR
    assert needed(compare(before, CONTRACT)) is Bump.MAJOR
    fields = ("kind", "scale", "offset", "stiffness", "damping", "rate_hz", "in_graph")
    pairs = [(_same(getattr(earlier, name)), _same(getattr(later, name))) for name in fields]
    changed = any(was is not None and was != now for was, now in pairs)
    stated = any(was is None and now is not None for was, now in pairs)
    assert needed(compare(before, after)) is (Bump.MAJOR if changed else Bump.MINOR if stated else Bump.PATCH)


def _same(value):
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def test_a_changed_scale_is_named_with_both_values() -> None:
    """Whoever promotes it reads what moves otherwise."""
    before, after = (replace(CONTRACT, drive=Drive(scale=scale)) for scale in (0.25, 0.5))
    assert [difference.words for difference in compare(before, after)] == [
        "drive has changed: scale: was 0.25, is 0.5 (needs MAJOR)"
    ]


def test_a_command_is_scaled_and_offset_unless_the_graph_did_it() -> None:
    """For one action and for a batch, in the action's type."""
    drive = Drive(scale=0.5, offset=(1.0, -1.0), in_graph=False)
    action = np.array([[2.0, 4.0], [0.0, 0.0]], np.float32)
    assert drive.command(action).tolist() == [[2.0, 1.0], [1.0, -1.0]]
    assert drive.command(action[0]).tolist() == [2.0, 1.0]
    assert drive.command(action).dtype == np.float32
    assert replace(drive, in_graph=True).command(action) is action
    assert drive.command([2, 0]).tolist() == [2.0, -1.0], "choices are no command"
    square = replace(drive, scale=(1.0, 2.0, 3.0, 4.0), offset=0.0)
    assert square.command([[1.0, 1.0], [1.0, 1.0]]).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert square.command(np.ones((3, 2, 2))).tolist() == [[[1.0, 2.0], [3.0, 4.0]]] * 3
    with pytest.raises(UsageError, match=r"shape \(3,\), the drive states 4 elements"):
        square.command([1.0, 1.0, 1.0])


@pytest.mark.parametrize("missing", ["scale", "offset", "in_graph"])
def test_a_command_is_not_guessed(missing) -> None:
    """What nobody stated is asked for by name."""
    drive = replace(Drive(scale=0.5, offset=0.0, in_graph=False), **{missing: None})
    with pytest.raises(UsageError, match=f"does not state {missing}"):
        drive.command([1.0, 2.0])
