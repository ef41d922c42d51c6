"""Verify: hold the whole repository against the journal.

Every file of every release, every alias's copy of its slot, every generated
configuration, the evidence of every gate, every signature, and nothing else.
Reading only; a server is not needed. All files are hashed together, on all cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.adapters import files, signature_files
from policyctl.adapters.control_folder import CONTROL
from policyctl.adapters.repository import CONFIG, Repository
from policyctl.domain.choices import Engine
from policyctl.domain.journal import RecordKind
from policyctl.domain.names import CANDIDATE, PRODUCTION, served_name, split_served_name
from policyctl.domain.state import PublishedRelease, State
from policyctl.integrity import CheckedRelease, check_releases
from policyctl.services.control import Control
from policyctl.services.trust import signatures
from policyctl.serving.backend_directory import code_problems
from policyctl.settings import SignatureRule

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


@dataclass(frozen=True, slots=True)
class ReleaseCheck:
    """A published release, and what is on disk in its slot."""

    published: PublishedRelease
    checked: CheckedRelease


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was held against the journal."""

    findings: tuple[Finding, ...]
    releases: tuple[ReleaseCheck, ...]


@dataclass(frozen=True, slots=True)
class _Slot:
    """A folder that must be a release; looked at together with all others."""

    what: str
    folder: Path
    digest: str
    published: PublishedRelease | None = None


def verify(control: Control, *, model: str | None = None) -> tuple[Finding, ...]:
    """Check everything, or everything of one model.

    Raises:
        IntegrityError: The journal itself was tampered with.
        UsageError: No such model, or nothing published at all.
    """
    return examine(control, model=model).findings


def examine(control: Control, *, model: str | None = None) -> Examination:
    """`verify`, with every file of every release.

    Raises:
        IntegrityError: The journal itself was tampered with.
        UsageError: No such model, or nothing published at all.
    """
    repository, state = control.repository, control.known(model)
    names = sorted({r.model for r in state.releases.values()})
    found: list[Finding | _Slot] = []
    for name in names if model is None else [model]:
        found += _releases(repository, state, name)
        found += _aliases(repository, state, name)
        found += _candidate(repository, state, name)
        found += _strangers(repository, state, name)
        found += _signatures(control, state, name)
    found += _evidence(repository, model)
    found += _unrecorded(control, state, model)
    if model is None:
        found += _unknown(repository, names)
        found += _code(control)
    slots = [each for each in found if isinstance(each, _Slot)]
    checked = dict(zip(slots, check_releases([(s.folder, s.digest) for s in slots]), strict=True))
    return Examination(
        tuple(_finding(each, checked[each]) if isinstance(each, _Slot) else each for each in found),
        tuple(ReleaseCheck(s.published, checked[s]) for s in slots if s.published is not None),
    )


def _finding(slot: _Slot, checked: CheckedRelease) -> Finding:
    if checked.problem is not None:
        return Finding(slot.what, False, checked.problem.problem)
    size = sum(f.found.size_bytes for f in checked.files if f.found is not None)
    return Finding(slot.what, True, f"{len(checked.files)} files, {size} bytes")


def _releases(repository: Repository, state: State, model: str) -> list[Finding | _Slot]:
    return [
        _Slot(f"{model} {r.release} (slot {r.slot})", repository.slot(model, r.slot), r.manifest_digest, r)
        for r in state.of_model(model)
        if not r.collected
    ]


def _aliases(repository: Repository, state: State, model: str) -> list[Finding | _Slot]:
    found: list[Finding | _Slot] = []
    for (owner, alias), named in sorted(state.aliases.items()):
        if owner != model:
            continue
        served, placement = served_name(model, alias), named.placement
        moving = state.moving(model, alias)
        config = repository.config(served)
        texts = {placement.config}
        if moving is not None:
            texts.add(moving.move.target.config)
        if any(repository.is_configured(served, text) for text in texts):
            found.append(Finding(f"{served}/{CONFIG}", True, f"serves {placement.release}, as recorded"))
        elif config.is_symlink() or not config.is_file():
            found.append(Finding(f"{served}/{CONFIG}", False, f"{config} is missing or not a plain file"))
        else:
            found.append(Finding(f"{served}/{CONFIG}", False, f"{config} is not the recorded text"))
        if alias != PRODUCTION:
            folder = repository.served_slot(served, placement.slot)
            found.append(_Slot(f"{served} slot {placement.slot}", folder, placement.manifest_digest))
    return found


def _candidate(repository: Repository, state: State, model: str) -> list[Finding | _Slot]:
    """A release under certification, or what a crash left of one."""
    served = served_name(model, CANDIDATE)
    folder = repository.root / served
    found: list[Finding | _Slot] = []
    for path in files.entries(folder):
        release = next((r for r in state.of_model(model) if str(r.slot) == path.name), None)
        if release is not None:
            found.append(_Slot(f"{served} slot {release.slot}", path, release.manifest_digest))
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
        found = repository.digest(name)
        if found == digest:
            intact += 1
        else:
            words = f"{repository.control / name} is {found or 'missing'}, the journal says {digest}"
            wrong.append(Finding(name, False, words))
    return [*wrong, Finding("evidence of gates", True, f"{intact} files")] if intact or wrong else []


def _signatures(control: Control, state: State, model: str) -> list[Finding]:
    """Each recorded signature, and whether what an alias names is signed as the settings say."""
    rule, found = control.settings.integrity.signatures, []
    named = {s.placement.release for (owner, _), s in state.aliases.items() if owner == model}
    for release in state.of_model(model):
        what = f"{model} {release.release}"
        signed = signatures.of_release(control, state, release)
        for one in signed:
            intact = one.standing is not signatures.Standing.INVALID
            found.append(Finding(f"{what} signature {one.record.name}", intact, f"{one.standing}: {one.reason}"))
        if rule is not SignatureRule.OFF and not release.collected and not any(one.counts for one in signed):
            served = release.release in named
            words = signatures.shortfall(release, signed) + ("" if served else "; no alias names it")
            found.append(Finding(f"{what} signatures", not served or rule is SignatureRule.WARN, words))
    return found


def _unrecorded(control: Control, state: State, model: str | None) -> list[Finding]:
    """What lies among the signatures and was never recorded."""
    root = control.repository.control / signature_files.FOLDER
    found = []
    for path in signatures.unrecorded(control, state):
        name = path.relative_to(root)
        if model in (None, name.parts[0]):
            found.append(
                Finding(f"signatures/{name}", False, f"{path} is not in the journal, so it counts for nothing")
            )
    return found


def _strangers(repository: Repository, state: State, model: str) -> list[Finding]:
    """What lies in the folders of the model and its aliases and belongs to no release."""
    found = []
    for folder in (p for p in files.entries(repository.root) if p.is_dir()):
        owner, alias = split_served_name(folder.name)
        if owner != model or alias == CANDIDATE:
            continue
        known = _known(state, model, alias)
        if alias != PRODUCTION and not known:
            found.append(Finding(folder.name, False, f"{folder} belongs to no alias of {model}"))
            continue
        extra = [p.name for p in files.entries(folder) if p.name not in known]
        found += [Finding(f"{folder.name}/{n}", False, f"{folder / n} belongs to no release") for n in extra]
    return found


def _known(state: State, model: str, alias: str) -> set[str]:
    """Names that may lie in the folder of an alias; none where there is no such alias."""
    named, moving = state.alias(model, alias), state.moving(model, alias)
    known = {CONFIG} if named is not None or moving is not None else set()
    if alias == PRODUCTION:
        return known | {str(r.slot) for r in state.of_model(model) if not r.collected}
    if named is not None:
        known.add(str(named.placement.slot))
    if moving is not None:
        known.add(str(moving.move.target.slot))
    return known


def _unknown(repository: Repository, models: list[str]) -> list[Finding]:
    """What lies in the repository's root and belongs to no model; a note for people may."""
    found = []
    for path in (p for p in files.entries(repository.root) if p.name not in _MAY_LIE_IN_ROOT):
        model, _ = split_served_name(path.name)
        if path.is_symlink() or not path.is_dir() or model not in models:
            found.append(Finding(path.name, False, f"{path} belongs to no published model"))
    return found


def _code(control: Control) -> list[Finding]:
    """Code that the server runs and is not as installed."""
    if control.settings.server.engine is not Engine.EMBEDDED:
        return []
    return [Finding("backend code", False, problem) for problem in code_problems(control.settings.serving.native)]
