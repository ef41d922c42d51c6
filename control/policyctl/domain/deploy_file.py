"""Unitree's ``deploy.yaml``, which its runner of Isaac Lab writes next to a policy, read as a `Description`.

Its actions are in the simulation's order of joints, its gains in the order of
the robot's motors; ``joint_ids_map`` says which motor each joint is. It has no
names, so a joint is called by its motor: another map is then another order.

What a contract has no place for is given back by name, and refused where the
command of a robot would be another without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from policyctl.domain.drive import Description, Drive, DriveKind
from policyctl.domain.history import Beginning, History, Newest
from policyctl.errors import UsageError

_KINDS: Final = {
    "JointPositionAction": DriveKind.POSITION,
    "JointVelocityAction": DriveKind.VELOCITY,
    "JointEffortAction": DriveKind.TORQUE,
}
_WIDE: Final = 100.0
"""No joint is commanded to so many radians: limits of a position from here on cut nothing off."""
_REMEDY: Final = "Write the description yourself: policyctl docs export shows its fields joints, drive and histories."


def is_deploy_file(data: Mapping[str, Any]) -> bool:
    """Whether a document is such a file."""
    return {"actions", "step_dt", "joint_ids_map"} <= data.keys()


def read_deploy_file(data: Mapping[str, Any], *, what: str) -> tuple[Description, tuple[str, ...]]:
    """The description, of the policy's only observation, and sentences on what is not in it.

    Args:
        data: The document.
        what: Its name, for messages.

    Raises:
        UsageError: Several actions, limits of a command, or a value of another type.
    """
    try:
        return _read(data, what)
    # Whatever a value of another type than expected leads to.
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{what} looks like Unitree's deploy.yaml and cannot be read as one: {error!r}", remedy=_REMEDY
        ) from error


def _read(data: Mapping[str, Any], what: str) -> tuple[Description, tuple[str, ...]]:
    if len(data["actions"]) != 1 or not data["actions"].keys() <= _KINDS.keys():
        raise UsageError(
            f"{what} commands by {', '.join(data['actions'])}; a contract states one of {', '.join(_KINDS)}",
            remedy=_REMEDY,
        )
    ((name, action),) = data["actions"].items()
    free = _WIDE if _KINDS[name] is DriveKind.POSITION else math.inf
    if any(abs(float(limit)) < free for pair in action.get("clip") or () for limit in pair):
        raise UsageError(f"{what} limits the command ({name}.clip), which no contract states", remedy=_REMEDY)
    motors = [int(data["joint_ids_map"][joint]) for joint in _joints(action, data)]
    if min(motors) < 0 or len(set(motors)) < len(motors):
        raise UsageError(f"{what} maps joints to the motors {motors}, expected one motor each, from 0", remedy=_REMEDY)
    notes, gains = [], {}
    for gain in ("stiffness", "damping"):
        if max(motors) < len(data[gain]):
            gains[gain] = tuple(float(data[gain][motor]) for motor in motors)
        else:
            notes.append(f"{gain} of {what} is left out: it has {len(data[gain])} values, and a motor {max(motors)}")
    if data.get("commands"):
        notes.append(f"the ranges of commands in {what} are not in the contract")
    drive = Drive(
        _KINDS[name],
        scale=_numbers(action["scale"]),
        offset=_numbers(action.get("offset") or 0.0),
        rate_hz=1.0 / float(data["step_dt"]),
        in_graph=False,
        **gains,
    )
    joints = tuple(f"motor_{motor}" for motor in motors)
    features, histories, more = _observed(data.get("observations") or {}, what)
    return Description(features, joints, histories, drive), (*notes, *more)


def _joints(action: Mapping[str, Any], data: Mapping[str, Any]) -> Sequence[int]:
    chosen = action.get("joint_ids")
    return range(len(data["joint_ids_map"])) if chosen is None else [int(joint) for joint in chosen]


def _numbers(value: Any) -> float | tuple[float, ...]:
    return tuple(float(each) for each in value) if isinstance(value, Sequence) else float(value)


def _observed(terms: Mapping[str, Any], what: str) -> tuple[dict[str, tuple[str, ...]], tuple[History, ...], list[str]]:
    """Names or the history of the only observation, and what is left to the caller."""
    notes = []
    if any(term.get("clip") or {*map(float, term["scale"])} != {1.0} for term in terms.values()):
        notes.append(f"scale and clip of the observations are for the caller to apply, as {what} has them")
    sizes = {name: len(term["scale"]) for name, term in terms.items()}
    lengths = {int(term.get("history_length") or 1) for term in terms.values()}
    if lengths == {1}:
        names = tuple(f"{name}_{at}" if size > 1 else name for name, size in sizes.items() for at in range(size))
        return {"": names}, (), notes
    if len(lengths) > 1:
        notes.append(f"the histories of {what} are left out: their lengths differ, and a contract states one")
    if len(lengths) != 1:
        return {}, (), notes
    history = History("", lengths.pop(), tuple(sizes.values()), Newest.LAST, Beginning.FIRST)
    return {}, (history,), notes
