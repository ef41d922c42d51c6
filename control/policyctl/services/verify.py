"""Verify: hold the whole repository against the journal.

Every file of every release, every alias's copy of its slot, every generated
configuration, and nothing beside them. Reading only; a server is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyctl.adapters.repository import CONFIG, CONTROL, Repository
from policyctl.domain.names import CANDIDATE, PRODUCTION, served_name, split_served_name
from policyctl.domain.state import State
from policyctl.errors import PolicyctlError
from policyctl.integrity import read_release
from policyctl.services.control import Control


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was held against the journal.

    Attributes:
        what: ``walker 1.0.0 (slot 1)``, ``walker.staging``, ...
        intact: Whether it is as recorded.
        detail: What was found.
    """

    what: str
    intact: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"what": self.what, "intact": self.intact, "detail": self.detail}


def verify(control: Control, *, model: str | None = None) -> tuple[Finding, ...]:
    """Check everything, or everything of one model.

    Raises:
        IntegrityError: The journal itself was tampered with.
        UsageError: No such model, or nothing published at all.
    """
    control.repository.require()
    repository, state = control.repository, control.repository.journal.state()
    names = sorted({r.model for r in state.releases.values()})
    if model is not None:
        state.require(model)
    findings: list[Finding] = []
    for name in names if model is None else [model]:
        findings += _releases(repository, state, name)
        findings += _aliases(repository, state, name)
        findings += _strangers(repository, state, name)
    if model is None:
        findings += _unknown_folders(repository, names)
    return tuple(findings)


def _releases(repository: Repository, state: State, model: str) -> list[Finding]:
    found = []
    for release in state.of_model(model):
        what = f"{model} {release.release} (slot {release.slot})"
        found.append(_check_slot(what, repository.slot(model, release.slot), release.manifest_digest))
    return found


def _check_slot(what: str, folder: Path, digest: str) -> Finding:
    try:
        verified = read_release(folder, expected_digest=digest)
    except PolicyctlError as error:
        return Finding(what, False, error.problem)
    files = verified.manifest.files
    return Finding(what, True, f"{len(files)} files, {sum(f.size_bytes for f in files)} bytes")


def _aliases(repository: Repository, state: State, model: str) -> list[Finding]:
    found = []
    for (owner, alias), named in sorted(state.aliases.items()):
        if owner != model:
            continue
        served, placement = served_name(model, alias), named.placement
        moving = state.unfinished is not None and state.unfinished.move.served == served
        config = repository.config(served)
        texts = {placement.config}
        if moving and state.unfinished is not None:
            texts.add(state.unfinished.move.target.config)
        if config.is_symlink() or not config.is_file():
            found.append(Finding(f"{served}/{CONFIG}", False, f"{config} is missing or not a plain file"))
        elif config.read_bytes() not in {text.encode() for text in texts}:
            found.append(Finding(f"{served}/{CONFIG}", False, f"{config} is not the recorded text"))
        else:
            found.append(Finding(f"{served}/{CONFIG}", True, f"serves {placement.release}, as recorded"))
        if alias != PRODUCTION:
            folder = repository.served_slot(served, placement.slot)
            found.append(_check_slot(f"{served} slot {placement.slot}", folder, placement.manifest_digest))
    return found


def _strangers(repository: Repository, state: State, model: str) -> list[Finding]:
    """What lies in the folders of the model and its aliases and belongs to no release."""
    found = []
    for folder in sorted(p for p in repository.root.iterdir() if p.is_dir()):
        owner, alias = split_served_name(folder.name)
        if owner != model or alias == CANDIDATE:
            continue
        known = _known(state, model, alias)
        if alias != PRODUCTION and not known:
            found.append(Finding(folder.name, False, f"{folder} belongs to no alias of {model}"))
            continue
        extra = sorted(p.name for p in folder.iterdir() if p.name not in known)
        found += [Finding(f"{folder.name}/{n}", False, f"{folder / n} belongs to no release") for n in extra]
    return found


def _known(state: State, model: str, alias: str) -> set[str]:
    """Names that may lie in the folder of an alias; none where there is no such alias."""
    named, unfinished = state.alias(model, alias), state.unfinished
    moving = unfinished is not None and unfinished.move.served == served_name(model, alias)
    known = {CONFIG} if named is not None or moving else set()
    if alias == PRODUCTION:
        return known | {str(r.slot) for r in state.of_model(model)}
    if named is not None:
        known.add(str(named.placement.slot))
    if moving and unfinished is not None:
        known.add(str(unfinished.move.target.slot))
    return known


def _unknown_folders(repository: Repository, models: list[str]) -> list[Finding]:
    found = []
    for folder in sorted(p for p in repository.root.iterdir() if p.is_dir() and p.name != CONTROL):
        model, alias = split_served_name(folder.name)
        if model not in models:
            found.append(Finding(folder.name, False, f"{folder} belongs to no published model"))
        elif alias == CANDIDATE:
            found.append(Finding(folder.name, True, "a candidate under certification, or left by a crash"))
    return found
