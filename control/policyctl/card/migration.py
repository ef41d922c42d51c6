"""From the first, loose schema of cards to the second, and back, without losing a word.

Schema 1 is whatever `policyctl export` wrote before cards had a schema, with
whatever people added: a mapping without ``schema_version``. What is known moves
to its place in schema 2; what is not, or is not of the kind that its place
takes, is kept under ``extensions.schema_1``. The way back puts everything where
it was; what schema 1 has no place for it keeps under ``schema_2``. A card for
which that way is not its own inverse (an empty mapping that nothing fills, a
name that stands where ours would) is kept as a whole instead.

Laws: ``downgrade(upgrade(d)) == d`` for every mapping ``d`` of schema 1 and
``upgrade(downgrade(d)) == d`` for every card ``d`` of schema 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from policyctl.card.document import Document, Path, paths
from policyctl.card.schema import SCHEMA_VERSION, Card
from policyctl.errors import UsageError

KEPT: Final = "schema_1"
"""Under ``extensions``: what schema 2 has no place for."""

NEWER: Final = "schema_2"
"""At the top of a card of schema 1: what schema 1 has no place for."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """One field: where it stands in schema 1, where in schema 2, and what it must be to move."""

    old: Path
    new: Path
    fits: Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return type(value) is int


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _list(value: Any) -> bool:
    return isinstance(value, list)


RULES: Final = (
    _Rule(("created",), ("provenance", "created"), _text),
    _Rule(("source", "kind"), ("provenance", "source", "kind"), _text),
    _Rule(("source", "file"), ("provenance", "source", "file"), _text),
    _Rule(("source", "digest"), ("provenance", "source", "digest"), _text),
    _Rule(("source", "normalizer"), ("provenance", "source", "normalizer"), _text),
    _Rule(("source", "algorithm"), ("training", "algorithm"), _text),
    _Rule(("source", "stable_baselines3"), ("training", "libraries", "stable-baselines3"), _text),
    _Rule(("observations",), ("contract", "observations"), _list),
    _Rule(("outputs",), ("contract", "outputs"), _list),
    _Rule(("action_kind",), ("contract", "action_kind"), _text),
    _Rule(("distribution",), ("contract", "distribution"), _text),
    _Rule(("tolerance",), ("parity", "tolerance"), _mapping),
    _Rule(("parity",), ("parity", "formats"), _mapping),
    _Rule(("golden_rows",), ("parity", "golden_rows"), _whole),
    _Rule(("seed",), ("parity", "seed"), _whole),
    _Rule(("frameworks",), ("provenance", "exported_with"), _mapping),
    _Rule(("service_level",), ("service_level",), _mapping),
)


def newest(document: Document) -> Document:
    """`document` in the newest schema; lines are those of where a value came from.

    Raises:
        UsageError: Its schema is newer than this policyctl.
    """
    version = document.version
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"the model card has schema_version {version}, this policyctl reads up to {SCHEMA_VERSION}",
            remedy="It was written by a newer policyctl: update this one.",
        )
    if version == SCHEMA_VERSION and "schema_version" in document.data:
        return document
    new = upgrade(document.data)
    if _misfits(new):
        new = _wrapped_new(document.data)
    lines = {rule.new + path: document.line(rule.old + path) for rule in RULES for path, _ in _below(new, rule.new)}
    return Document(new, {(): 1} | lines, document.complaints)


def upgrade(old: Mapping[str, Any]) -> dict[str, Any]:
    """A card of schema 1 as one of schema 2."""
    if (found := _natural_new(old)) is not None:
        return found
    newer = old.get(NEWER)
    if len(old) == 1 and isinstance(newer, Mapping) and "schema_version" not in newer:
        # What the way back wrapped as a whole, if it did.
        wrapped = {"schema_version": SCHEMA_VERSION, **copy.deepcopy(dict(newer))}
        if _natural_old(wrapped) is None and downgrade(wrapped) == old:
            return wrapped
    return _wrapped_new(old)


def downgrade(new: Mapping[str, Any]) -> dict[str, Any]:
    """A card of schema 2 as one of schema 1."""
    if (found := _natural_old(new)) is not None:
        return found
    kept = _get(new, ("extensions", KEPT))
    if isinstance(kept, Mapping) and new == _wrapped_new(kept) and _natural_new(kept) is None and upgrade(kept) == new:
        return copy.deepcopy(dict(kept))
    return {NEWER: {key: copy.deepcopy(value) for key, value in new.items() if key != "schema_version"}}


def _natural_new(old: Mapping[str, Any]) -> dict[str, Any] | None:
    """Field by field, where the way back is known."""
    lifted = _lift(old)
    return lifted if _lower(lifted) == old else None


def _natural_old(new: Mapping[str, Any]) -> dict[str, Any] | None:
    lowered = _lower(new)
    return lowered if _lift(lowered) == new else None


def _wrapped_new(old: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "extensions": {KEPT: copy.deepcopy(dict(old))}}


def _lift(old: Mapping[str, Any]) -> dict[str, Any]:
    """What is known to its place, as far as it fits there; the rest kept."""
    found = _lifted(old, frozenset())
    if misfits := _misfits(found):
        found = _lifted(old, misfits)
    return found


def _lifted(old: Mapping[str, Any], without: frozenset[str]) -> dict[str, Any]:
    rest = copy.deepcopy(dict(old))
    newer = rest.pop(NEWER) if isinstance(rest.get(NEWER), Mapping) else {}
    found: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    for rule in RULES:
        value = _get(rest, rule.old)
        if value is not _ABSENT and rule.fits(value) and rule.new[0] not in without:
            _put(found, rule.new, _take(rest, rule.old))
    if rest:
        _put(found, ("extensions", KEPT), rest)
    return _merged(found, newer)


def _lower(new: Mapping[str, Any]) -> dict[str, Any]:
    rest = copy.deepcopy(dict(new))
    rest.pop("schema_version", None)
    kept = _get(rest, ("extensions", KEPT))
    found = dict(_take(rest, ("extensions", KEPT))) if isinstance(kept, Mapping) else {}
    for rule in RULES:
        value = _get(rest, rule.new)
        if value is not _ABSENT and rule.fits(value) and _free(found, rule.old):
            _put(found, rule.old, _take(rest, rule.new))
    if rest:
        found[NEWER] = rest
    return found


def _misfits(new: Mapping[str, Any]) -> frozenset[str]:
    """Sections that are not what schema 2 takes."""
    try:
        Card.model_validate(dict(new))
    except ValidationError as error:
        return frozenset(str(detail["loc"][0]) for detail in error.errors(include_url=False) if detail["loc"])
    return frozenset()


_ABSENT: Final = object()


def _get(data: Any, path: Path) -> Any:
    for part in path:
        if not isinstance(data, Mapping) or part not in data:
            return _ABSENT
        data = data[part]
    return data


def _take(data: dict[str, Any], path: Path) -> Any:
    """Remove what stands at `path`, and what it leaves empty around it."""
    *parents, last = path
    around: list[Any] = [data]
    for part in parents:
        around.append(around[-1][part])
    value = around[-1].pop(last)
    for index in range(len(parents) - 1, -1, -1):
        if around[index + 1]:
            break
        del around[index][parents[index]]
    return value


def _free(data: Mapping[str, Any], path: Path) -> bool:
    """Whether something can be put at `path` without replacing anything."""
    here: Any = data
    for part in path[:-1]:
        if part not in here:
            return True
        here = here[part]
        if not isinstance(here, Mapping):
            return False
    return path[-1] not in here


def _put(data: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        data = data.setdefault(str(part), {})
    data[str(path[-1])] = value


def _merged(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in other.items():
        if isinstance(one.get(key), dict) and isinstance(value, Mapping):
            _merged(one[key], value)
        elif key not in one:
            one[key] = copy.deepcopy(value)
    return one


def _below(data: Any, path: Path) -> list[tuple[Path, Any]]:
    found = _get(data, path)
    return [] if found is _ABSENT else list(paths(found))
