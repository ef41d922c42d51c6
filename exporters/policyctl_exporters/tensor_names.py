"""What tensors are called in a contract, after whatever a policy or an environment calls them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from policyctl.domain.contract import ACTION, PARAMETERS
from policyctl.errors import UsageError

OUTPUT_NAMES: Final = (ACTION, *PARAMETERS)
"""Outputs whose name says what they are."""

_LONGEST: Final = 60


def legal_name(name: str) -> str:
    """`name` with what no tensor's name may hold replaced; a digit in front gets a letter before it."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", str(name))
    return (name if name[:1].isalpha() else f"obs_{name}")[:_LONGEST]


def observation_name(key: str, taken: set[str]) -> str:
    """What the observation of a Dict space is called; `taken` holds the others, and gets this one.

    Raises:
        UsageError: Another tensor has the name.
    """
    name = legal_name(key)
    if name in taken and f"obs_{name}" not in taken:
        name = f"obs_{name}"
    if name in taken:
        raise UsageError(
            f"observation key {key!r} collides with another tensor's name {name!r}",
            remedy="Rename the key: letters, digits and '_', beginning with a letter.",
        )
    taken.add(name)
    return name


def unique_names(names: Sequence[str], *, taken: set[str], prefix: str) -> list[str]:
    """A legal name for each of a policy's own tensors.

    Args:
        names: What the policy calls them.
        taken: Names of other tensors.
        prefix: What a name that cannot stay as it is gets in front.
    """
    chosen: list[str] = []
    for name in names:
        legal = re.sub(r"[^A-Za-z0-9_]", "_", name)[:_LONGEST]
        if not legal[:1].isalpha():
            legal = f"{prefix}_{legal}"[:_LONGEST]
        while legal in taken or legal in chosen:
            legal = f"{prefix}_{legal}"[:_LONGEST]
        chosen.append(legal)
    return chosen
