"""Where a command is set more loosely than the running server, the server's rule counts.

A server asks for signatures, gates and a bake because its owner decided
so. A command reads its own settings, from its own folder and environment, and
so may ask for less by accident or on purpose. What the server's owner set
counts then, as far as it is stricter; what the server has by default binds
nobody. What a person types as an option of the command is that person's
decision, and goes before both, but for what a profile forbids.

Signatures have another rule (`services.trust.signatures`), because the trust
store belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from policyctl.config import rules
from policyctl.config.keys import value_at
from policyctl.config.reading import refusal
from policyctl.documents.document import Problem
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.settings import Settings

_Choose = Callable[[Any, Any], Any]


def _both(mine: Any, theirs: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*theirs, *mine)))


def _rollback(mine: Any, theirs: Any) -> str:
    return "rollback" if "rollback" in {str(mine), str(theirs)} else "keep"


def _reserve(mine: Any, theirs: Any) -> int | None:
    """More is stricter; None looks at nothing."""
    return max((value for value in (mine, theirs) if value is not None), default=None)


STRICTER: Final[Mapping[str, _Choose]] = {
    "gates.promote_with": _both,
    **dict.fromkeys((f"gates.service_level.{limit}" for limit in ("p50_ms", "p95_ms", "p99_ms", "memory_mb")), min),
    "gates.service_level.throughput_per_s": max,
    **dict.fromkeys(
        (f"gates.non_inferiority.{margin}" for margin in ("p50", "p99", "throughput", "alpha_passed")), min
    ),
    "bake.for_s": max,
    "bake.on_inconclusive": _rollback,
    **dict.fromkeys(("bake.error_ratio", "bake.latency_ratio", "bake.latency_floor_us", "bake.wrong_probes"), min),
    "serving.memory_reserve_mib": _reserve,
}
"""Which of two values is the stricter one, for each setting that decides what a promotion must pass."""


def in_force(control: Control) -> tuple[Settings, str]:
    """The settings by which something is promoted: the command's, or the running server's where those are stricter.

    Returns:
        The settings, and what is another in them, in words; empty where nothing is.
    """
    server = running.read(control.repository)
    settings, changed = control.settings, []
    if server is None:
        return settings, ""
    for name, choose in STRICTER.items():
        path = tuple(name.split("."))
        mine = value_at(settings, path)
        if name not in server.places or name not in server.settings:
            continue
        merged = _with(settings, path, choose(mine, server.settings[name]))
        if value_at(merged, path) != mine:
            changed.append(f"{name} is {_shown(value_at(merged, path))} ({_shown(mine)} here)")
            settings = merged
    return settings, f"The running server is stricter, and that counts: {'; '.join(changed)}." if changed else ""


_Group = TypeVar("_Group", bound=BaseModel)


def _with(group: _Group, path: tuple[str, ...], value: Any) -> _Group:
    """`group` with another value, validated in the smallest group that holds it."""
    first, *rest = path
    if rest:
        return group.model_copy(update={first: _with(getattr(group, first), tuple(rest), value)})
    return type(group).model_validate({**dict(group), first: value})


def require_profile(control: Control, settings: Settings) -> None:
    """Refuse what the running server's profile forbids of a promotion, whatever option asked for it.

    Raises:
        UsageError: It does; names the setting.
    """
    server = running.read(control.repository)
    profile = "" if server is None else server.profile
    broken = [each for each in rules.broken(profile, settings) if each.key.name in STRICTER]
    if broken:
        where = f"(profile {profile} of the running server)"
        raise refusal(Problem(0, each.key.name, str(each.value), f"{each.expected} {where}") for each in broken)


def _shown(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple | list) else str(value)
