"""What an action does to the machine: how its numbers become commands of joints, and who makes them so.

A contract may say it (`Contract.drive`), so that a release that commands
otherwise is known as a breaking one, also where no shape changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from policyctl.domain.chunk import Chunk
from policyctl.domain.history import History
from policyctl.domain.json_values import OMIT_DEFAULT, from_json, to_json
from policyctl.domain.tensor import Role, Units
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PerElement = float | tuple[float, ...]
"""One value for all elements of the action, or one an element (C order)."""


class DriveKind(StrEnum):
    """What is commanded."""

    POSITION = "position"
    VELOCITY = "velocity"
    TORQUE = "torque"


@dataclass(frozen=True, slots=True)
class Drive:
    """How an action becomes a command: ``command = action * scale + offset``. None stands for what nobody stated.

    Attributes:
        kind: What is commanded: a position (rad or m), a velocity (rad/s or m/s) or a torque (N m or N).
        scale: Commanded units for 1 of the action.
        offset: The command for an action of 0, as the default pose of a robot.
        stiffness: Of the controller that follows a position, in N m/rad or N/m.
        damping: Of that controller, in N m s/rad or N s/m.
        rate_hz: How often an action is expected each second.
        in_graph: Whether the policy's graph has applied scale and offset already; else the caller applies them.
    """

    kind: DriveKind | None = field(default=None, metadata=OMIT_DEFAULT)
    scale: PerElement | None = field(default=None, metadata=OMIT_DEFAULT)
    offset: PerElement | None = field(default=None, metadata=OMIT_DEFAULT)
    stiffness: PerElement | None = field(default=None, metadata=OMIT_DEFAULT)
    damping: PerElement | None = field(default=None, metadata=OMIT_DEFAULT)
    rate_hz: float | None = field(default=None, metadata=OMIT_DEFAULT)
    in_graph: bool | None = field(default=None, metadata=OMIT_DEFAULT)

    def require_size(self, size: int) -> None:
        """Refuse values that do not fit an action of `size` elements.

        Raises:
            UsageError: Names the field, how many values it has, and how many it needs.
        """
        for name in ("scale", "offset", "stiffness", "damping"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != size:
                raise UsageError(
                    f"drive: {name} has {len(value)} values, the action has {size} elements",
                    remedy="Give one number, or one for each element.",
                )
        if self.rate_hz is not None and self.rate_hz <= 0:
            raise UsageError(
                f"drive: rate_hz is {self.rate_hz:g}, expected more than 0", remedy="Give actions a second: 50."
            )

    def command(self, action: ArrayLike) -> NDArray[Any]:
        """What to command for an action, of shape (*shape) or (n, *shape): floats of at least 32 bits.

        Raises:
            UsageError: Scale, offset, or who applies them, is not stated; or the action has another size.
        """
        import numpy as np

        values = np.asarray(action)
        if self.in_graph:
            return values
        stated = {"scale": self.scale, "offset": self.offset, "in_graph": self.in_graph}
        if missing := [name for name, value in stated.items() if value is None]:
            raise UsageError(
                f"the contract's drive does not state {', '.join(missing)}",
                remedy="Export the policy again, with --describe FILE.",
            )
        kind = np.result_type(values, np.float32)
        scale, offset = (_laid(value, values.shape).astype(kind) for value in (self.scale, self.offset))
        return np.asarray(values * scale + offset, kind)

    def rest(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The action that commands 0: zeros, or ``-offset / scale`` where the caller applies them; of `shape`.

        Raises:
            UsageError: Scale, offset, or who applies them, is not stated; or a scale is 0.
        """
        import numpy as np

        at_zero = self.command(np.zeros(shape))
        if self.in_graph:
            return at_zero
        scale = np.broadcast_to(_laid(self.scale, shape), shape)
        if not scale.all():
            raise UsageError(
                "the drive has a scale of 0, so no action commands 0", remedy="State the scale that is used."
            )
        return np.asarray(-at_zero / scale)

    @property
    def words(self) -> str:
        """For people: ``position = action * 0.25 + offset; 50 Hz; applied by the caller``."""

        def said(sign: str, value: PerElement | None, name: str) -> str:
            shown = f"{value:g}" if isinstance(value, (int, float)) else name
            return "" if value is None else f" {sign} {shown}"

        parts = [str(self.kind or "command")]
        if self.scale is not None or self.offset is not None:
            parts[0] += f" = action{said('*', self.scale, 'scale')}{said('+', self.offset, 'offset')}"
        gains = [name for name in ("stiffness", "damping") if getattr(self, name) is not None]
        parts += [f"with {' and '.join(gains)}"] if gains else []
        parts += [] if self.rate_hz is None else [f"{self.rate_hz:g} Hz"]
        parts += [] if self.in_graph is None else [f"applied by the {'graph' if self.in_graph else 'caller'}"]
        return "; ".join(parts)

    def over(self, other: Drive) -> Drive:
        """This drive, with what `other` states where this one does not."""
        stated = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) is not None}
        return replace(other, **stated)

    def changes(self, later: Drive) -> tuple[str, ...]:
        """What this drive states and `later` states otherwise, or not any more, a sentence a field."""
        pairs = ((each.name, getattr(self, each.name), getattr(later, each.name)) for each in fields(self))
        return tuple(
            f"{name}: was {to_json(before)}, is {to_json(after)}"
            for name, before, after in pairs
            if before is not None and _shortest(before) != _shortest(after)
        )


def _shortest(value: Any) -> Any:
    """One number where every element has the same."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _laid(value: PerElement | None, shape: tuple[int, ...]) -> NDArray[Any]:
    """A value an element, as the last axes of an action have them; one for all stays one."""
    import numpy as np

    given = np.asarray(value)
    for axis in range(len(shape), -1, -1):
        if not given.ndim or math.prod(shape[axis:]) == given.size:
            return given.reshape(shape[axis:]) if given.ndim else given
    raise UsageError(
        f"the action has shape {shape}, the drive states {given.size} elements",
        remedy="Give one action, or a batch of them, as the policy answered it.",
    )


@dataclass(frozen=True, slots=True)
class Description:
    """What stands next to the weights, as a file says it (`policyctl export --describe`).

    Attributes:
        observations: By tensor, what each element is called, in C order.
        joints: What each element of the action of one step is called, in C order.
        histories: Which observations hold the last steps, and how.
        drive: How an action becomes a command.
        roles: By input, what it is for, where it is more than an observation.
        chunk: How an answer holds the actions of several steps.
        units: By observation or output, what 1 of each element is; of an action with several steps, of one step.
    """

    observations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    joints: tuple[str, ...] = ()
    histories: tuple[History, ...] = ()
    drive: Drive | None = None
    roles: Mapping[str, Role] = field(default_factory=dict)
    chunk: Chunk | None = None
    units: Mapping[str, Units] = field(default_factory=dict)

    @classmethod
    def from_data(cls, data: Any, *, what: str) -> Description:
        """Read a document.

        Raises:
            UsageError: An unknown field, or a value of another type; names the place.
        """
        return from_json(cls, data, what=what)
