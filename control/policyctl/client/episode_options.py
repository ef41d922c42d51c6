"""What a caller may want of an episode besides its answers; all of it is off unless the caller says so."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self, TypedDict, TypeVar

from policyctl.errors import UsageError

KindT = TypeVar("KindT", bound=StrEnum)


class OnSwitch(StrEnum):
    """What an episode does when another release is served than the one it began with."""

    FINISH = "finish"
    """Go on asking the release that it began with: under its own number, or the alias once that serves it again.
    Where neither serves it, `EpisodeInterruptedError`."""
    RESET = "reset"
    """Go on with the new release, from its initial memory."""
    REFUSE = "refuse"
    """Raise `EpisodeInterruptedError`."""


class Fallback(StrEnum):
    """What an episode does in a step for which no answer came in time, instead of raising the error."""

    LAST = "last"
    """The action of the step before, once more."""
    ZERO = "zero"
    """An action of zeros; for a discrete action, choice 0."""
    HOLD = "hold"
    """Stand still: the last position again, or a velocity of 0. The contract's `drive` says which of the two."""


class Wanted(TypedDict, total=False):
    """The fields of `EpisodeOptions`, as a caller gives them."""

    on_switch: str | OnSwitch
    frames: bool
    fallback: str | Fallback | None
    most_fallbacks: int
    blend_steps: int
    ahead_steps: int


@dataclass(frozen=True, slots=True)
class EpisodeOptions:
    """What an episode does by itself.

    Attributes:
        on_switch: What it does when the alias moves before it is over.
        frames: Each observation is one step; the episode makes the contract's `histories` of them.
        fallback: What it does where no answer comes in time; None raises the error.
        most_fallbacks: How many steps in a row may fall back, before the error is raised after all.
        blend_steps: Over how many steps the actions of another release take over; 0 for at once.
        ahead_steps: How many steps before a chunk is used up the next one is requested, while the control loop goes
            on; 0 to wait for it.
    """

    on_switch: OnSwitch = OnSwitch.FINISH
    frames: bool = False
    fallback: Fallback | None = None
    most_fallbacks: int = 10
    blend_steps: int = 0
    ahead_steps: int = 0

    @classmethod
    def of(cls, wanted: Wanted) -> Self:
        """What a caller wants, checked.

        Raises:
            UsageError: An unknown word, or a count below the least that means something.
        """
        if unknown := wanted.keys() - {each.name for each in fields(cls)}:
            raise UsageError(f"unknown option {', '.join(sorted(unknown))} of an episode")
        fallback = wanted.get("fallback")
        for name, least in (("most_fallbacks", 1), ("blend_steps", 0), ("ahead_steps", 0)):
            if name in wanted and wanted[name] < least:  # type: ignore[literal-required]
                raise UsageError(f"{name} is {wanted[name]}, expected {least} or more")  # type: ignore[literal-required]
        words = {
            "on_switch": _one_of(OnSwitch, "on_switch", wanted.get("on_switch", OnSwitch.FINISH)),
            "fallback": None if fallback is None else _one_of(Fallback, "fallback", fallback),
        }
        return cls(**{**wanted, **words})  # type: ignore[arg-type]

    @property
    def assists(self) -> bool:
        """Whether an episode does more than carry memory."""
        return self.frames or self.fallback is not None or self.blend_steps > 0 or self.ahead_steps > 0


def _one_of(kind: type[KindT], name: str, value: str) -> KindT:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(kind)}") from None
