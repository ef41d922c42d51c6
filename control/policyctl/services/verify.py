"""Verify: hold the whole repository against the journal.

Every file of every release, every alias's copy of its slot, every generated
configuration, the evidence of every gate, and nothing beside them. Reading
only; a server is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import evidence
from policyctl.adapters.repository import CONFIG, CONTROL, Repository
from policyctl.domain.journal import RecordKind
from policyctl.domain.names import CANDIDATE, PRODUCTION, served_name, split_served_name
from policyctl.domain.state import State
from policyctl.errors import PolicyctlError
from policyctl.integrity import read_release
from policyctl.services.control import Control

_MAY_LIE_IN_ROOT: Final = {CONTROL, "README.md", ".gitignore", ".gitkeep"}


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
        findings += _candidate(repository, state, name)
        findings += _strangers(repository, state, name)
    findings += _evidence(repository, model)
    if model is None:
        findings += _unknown(repository, names)
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


def _candidate(repository: Repository, state: State, model: str) -> list[Finding]:
    """A release under certification, or what a crash left of one."""
    served = served_name(model, CANDIDATE)
    folder = repository.root / served
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        release = next((r for r in state.of_model(model) if str(r.slot) == path.name), None)
        if release is not None:
            found.append(_check_slot(f"{served} slot {release.slot}", path, release.manifest_digest))
        elif path.name != CONFIG:
            found.append(Finding(f"{served}/{path.name}", False, f"{path} belongs to no release"))
    return found


def _evidence(repository: Repository, model: str | None) -> list[Finding]:
    """Whether all evidence is what the journal says; one finding for all that is."""
    wrong, intact = [], 0
    for record in repository.journal.records():
        if record.kind not in {RecordKind.GATE, RecordKind.MEASURED} or model not in (None, record.body["model"]):
            continue
        name, digest = str(record.body["evidence"]), record.body["evidence_digest"]
        found = evidence.digest(repository, name)
        if found == digest:
            intact += 1
        else:
            words = f"{repository.control / name} is {found or 'missing'}, the journal says {digest}"
            wrong.append(Finding(name, False, words))
    return [*wrong, Finding("evidence of gates", True, f"{intact} files")] if intact or wrong else []


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


def _unknown(repository: Repository, models: list[str]) -> list[Finding]:
    """What lies in the repository's root and belongs to no model; a note for people may."""
    found = []
    for path in sorted(p for p in repository.root.iterdir() if p.name not in _MAY_LIE_IN_ROOT):
        model, _ = split_served_name(path.name)
        if path.is_symlink() or not path.is_dir() or model not in models:
            found.append(Finding(path.name, False, f"{path} belongs to no published model"))
    return found
