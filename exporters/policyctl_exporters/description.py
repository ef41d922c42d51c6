"""What stands next to the weights: names of joints and sensors, and how an action becomes a command.

A file may say it itself. Runners of legged robots write it into the metadata of
their ONNX files (mjlab and Isaac Lab: ``joint_names``, ``joint_stiffness``,
``joint_damping``, ``default_joint_pos``, ``action_scale``; others ``dof_names``,
``kp``, ``kd``). What a person says goes before it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from policyctl.domain.chunk import Chunk
from policyctl.domain.contract import Contract
from policyctl.domain.drive import Description, Drive, DriveKind
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError
from policyctl_exporters.source import Source

_JOINTS: Final = ("joint_names", "dof_names")
_FIELDS: Final = {
    "scale": ("action_scale",),
    "offset": ("default_joint_pos",),
    "stiffness": ("joint_stiffness", "kp"),
    "damping": ("joint_damping", "kd"),
}
"""Fields of `Drive`, each with the keys of metadata that say it."""
_SHOWN: Final = 12
_FAR: Final = 1e9
"""No machine is commanded so far; infinity is beyond it."""


def described(policy: Source, description: Description | None) -> Source:
    """The policy with a contract that says what its file says, and what `description` says before it.

    Raises:
        UsageError: `description` names an unknown tensor, or does not fit the shapes.
    """
    given = _placed(description or Description(), policy.contract)
    chunk = given.chunk or policy.contract.chunk
    steps, size = _divided(policy.contract, chunk)
    own, notes = _of_metadata(policy.metadata, size)
    joints = given.joints or own.joints
    if joints and len(joints) != size:
        raise UsageError(
            f"the description names {len(joints)} joints, the action has {size} elements",
            remedy="Name each element of the action once, in its order.",
        )
    action, *others = _measured(policy.contract.outputs, given, steps)
    contract = replace(
        policy.contract,
        observations=_observations(policy.contract, given),
        outputs=(replace(action, features=_each_step(joints, steps) or action.features), *others),
        histories=given.histories or policy.contract.histories,
        drive=_over(given.drive, own.drive or policy.contract.drive),
        chunk=chunk,
    )
    return replace(policy, contract=contract, notes=(*policy.notes, *notes))


def _placed(given: Description, contract: Contract) -> Description:
    """The description with the name of the only observation where it means that one, which has an empty name there."""
    if "" not in given.observations and all(history.observation for history in given.histories):
        return given
    names = [spec.name for spec in contract.environment if spec.role is None]
    if len(names) != 1:
        raise UsageError(
            f"the description is of one observation, the policy takes {', '.join(names)}",
            remedy="Name the observation in the description.",
        )
    return replace(
        given,
        observations={name or names[0]: features for name, features in given.observations.items()},
        histories=tuple(replace(each, observation=each.observation or names[0]) for each in given.histories),
    )


def _over(given: Drive | None, own: Drive | None) -> Drive | None:
    """What a person states, and of the file's own metadata what that leaves out."""
    if given is None or own is None:
        return given or own
    if given.kind not in (None, DriveKind.POSITION):
        own = replace(own, offset=None, stiffness=None, damping=None)  # a pose, and gains of what follows positions
    return given.over(own)


def _divided(contract: Contract, chunk: Chunk | None) -> tuple[int, int]:
    """How many steps an action has, and how many elements each."""
    if chunk is None:
        return 1, contract.action.size
    chunk.require(contract.action)
    return chunk.horizon, contract.action.size // chunk.horizon


def _each_step(joints: tuple[str, ...], steps: int) -> tuple[str, ...]:
    """What each element of the action is called; with the number of its step, where there are several."""
    return joints if steps == 1 else tuple(f"{joint}[{step}]" for step in range(steps) for joint in joints)


def _measured(outputs: Sequence[TensorSpec], given: Description, steps: int) -> tuple[TensorSpec, ...]:
    """The outputs with their units; units of an action are those of each of its steps."""
    action = outputs[0]
    stated = {spec.name: given.units.get(spec.name, spec.units) for spec in outputs}
    each = given.units.get(action.name)
    if isinstance(each, tuple) and len(each) * steps == action.size:
        stated[action.name] = each * steps
    return tuple(replace(spec, units=stated[spec.name]) for spec in outputs)


def _observations(contract: Contract, given: Description) -> tuple[TensorSpec, ...]:
    """The observations, with what their elements are called, their units, and what each is for."""
    have = [spec.name for spec in contract.environment]
    tensors = [*have, *(spec.name for spec in contract.outputs)]
    if unmeasured := sorted(given.units.keys() - {*tensors}):
        raise UsageError(
            f"the description has units of {unmeasured[0]!r}, which the policy neither takes nor gives",
            remedy=f"Its observations and outputs are {', '.join(tensors)}.",
        )
    if unknown := sorted((given.observations.keys() | given.roles.keys()) - set(have)):
        raise UsageError(
            f"the description names the observation {unknown[0]!r}, which the policy does not take",
            remedy=f"Its observations are {', '.join(have)}.",
        )
    return tuple(
        replace(
            spec,
            features=given.observations.get(spec.name, spec.features),
            role=given.roles.get(spec.name, spec.role),
            units=given.units.get(spec.name, spec.units),
        )
        for spec in contract.observations
    )


def _of_metadata(metadata: Mapping[str, str], size: int) -> tuple[Description, tuple[str, ...]]:
    """What the metadata of an ONNX file says; and what of it does not fit an action of `size`, in sentences."""
    notes: list[str] = []
    said: list[str] = []

    def read(keys: Sequence[str], kind: tuple[type, ...]) -> list[Any] | None:
        key = next((key for key in keys if key in metadata), None)
        if key is None:
            return None
        listed = _listed(metadata[key])
        fitting = {size} if kind == (str,) else {1, size}
        if len(listed) in fitting and all(type(v) in kind and (type(v) is str or abs(v) < _FAR) for v in listed):
            said.append(key)
            return listed
        notes.append(f"The metadata {key!r} does not fit an action of {size} elements and is left out.")
        return None

    joints = read(_JOINTS, (str,)) or []
    numbers = {name: read(keys, (int, float)) for name, keys in _FIELDS.items()}
    drive = {name: values[0] if len(values) == 1 else values for name, values in numbers.items() if values}
    found = {"joints": joints, **({"drive": drive} if drive else {})}
    known = {*_JOINTS, *(key for keys in _FIELDS.values() for key in keys)}
    if unread := sorted(metadata.keys() - known):
        shown = ", ".join([*unread[:_SHOWN], *(["..."] if unread[_SHOWN:] else [])])
        notes.append(f"Not read of the file's metadata: {shown}. What of it changes a command, say with --describe.")
    if said:
        notes.append(f"The contract says what the file's metadata says: {', '.join(said)}.")
    return Description.from_data(found, what="the metadata"), tuple(notes)


def _listed(text: str) -> list[Any]:
    """Values in JSON, or between commas."""
    for written in (text, f"[{text}]"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(written, parse_constant=str)  # NaN stays a text, which no number is
            return value if isinstance(value, list) else [value]
    return [name.strip() for name in text.split(",")]
