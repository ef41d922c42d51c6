"""Publish: give exported files a release, a slot and a manifest, for ever.

The files are copied to a staging folder on the repository's file system,
synced, hashed from the copy, renamed into the next slot and made read-only. A
large file that a release holds already is stored once (`adapters.sharing`).
Only then does the journal name the release, so a crash leaves either nothing
or an unnamed slot that the next writer sets aside.

A number is given once. Publishing the same bytes under it again changes nothing
and gives the same answer; other bytes are refused, and so is a number that
promises less than the contract changes (`services.releases.numbers`). Both are looked at
before anything is copied, and once more under the writer lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.adapters.sharing import share
from policyctl.domain.artifacts import MANIFEST_FILE, Format
from policyctl.domain.journal import RecordKind
from policyctl.domain.log_event import LogLevel
from policyctl.domain.manifest import Manifest
from policyctl.domain.names import check_model_name, check_release
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import IntegrityError, PolicyctlError, UsageError
from policyctl.integrity import build_manifest, read_release
from policyctl.plain_files import open_reader
from policyctl.release_files import LARGEST_FILE_BYTES, list_files
from policyctl.services.control import Control, operation
from policyctl.services.releases.exported import _unreadable, check_export, read_contract
from policyctl.services.releases.numbers import admit


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing did, or would do."""

    model: str
    release: str
    slot: int
    manifest_digest: str
    formats: tuple[Format, ...]
    size_bytes: int
    dry_run: bool


PATIENCE_S: Final = 30.0
"""How long publishing waits for another writer by default: it takes no alias from anybody."""


def patience(control: Control, wait_s: float | None) -> float:
    """How long to wait for another writer where a caller says nothing, or says so."""
    return max(PATIENCE_S, control.settings.lock_wait_s) if wait_s is None else wait_s


@operation("publish")
def publish(
    control: Control,
    source: Path,
    *,
    model: str,
    release: str,
    dry_run: bool = False,
    wait_s: float | None = None,
) -> Published:
    """Publish the export in `source` as `release` of `model`.

    Args:
        model: The model's name; it comes into being with its first release.
        release: Semantic version; never used for two things.
        wait_s: For another writer; None for `PATIENCE_S`, or the setting where that is longer.

    Raises:
        UsageError: A name, number or file that cannot be used; a number that promises
            less than the contract changes, or has other bytes already; the disk refuses.
        IntegrityError: A link, device or hidden file in `source`.
        BusyError: Another writer is at work.
    """
    model, release = check_model_name(model), check_release(release)
    formats = check_export(source)
    repository = control.repository
    state = repository.journal.state()
    found = state.releases.get((model, release))
    if found is None:
        admit(state, model, release, read_contract(source))
        files.require_room(repository.root, sum((source / path).lstat().st_size for path in list_files(source)))
    if dry_run or found is not None:
        manifest = build_manifest(source, model=model, release=release)
        if found is not None:
            _require_same_bytes(control, found, manifest)
        slot = _next_slot(state, model) if found is None else found.slot
        return _published(manifest, slot, formats, dry_run=dry_run)
    repository.create()
    with repository.staging() as folder:
        staged = folder / "slot"
        _copy(source, staged)
        check_export(staged)
        manifest = build_manifest(staged, model=model, release=release)
        files.write_atomically(staged / MANIFEST_FILE, manifest.to_bytes(), mode=0o444)
        slot = commit(control, staged, manifest, wait_s=patience(control, wait_s))
    return _published(manifest, slot, formats, dry_run=False)


def commit(
    control: Control, staged: Path, manifest: Manifest, *, wait_s: float, more: Mapping[str, Any] | None = None
) -> int:
    """Give a staged release its slot and its record.

    Args:
        staged: The release in the repository's scratch folder, its manifest written.
        more: What else the record says, for example where the release came from.

    Returns:
        The slot; that of the same bytes, where they are published already.

    Raises:
        UsageError: The number has other bytes, or promises less than the contract
            changes, or its files were collected; the disk refuses.
        BusyError: Another writer is at work.
    """
    repository, model, release = control.repository, manifest.model, manifest.release
    share(
        repository,
        repository.journal.state(),
        staged,
        manifest,
        from_bytes=control.settings.storage.share_from_bytes,
    )
    with repository.writer(f"publish {model} {release}", wait_s=wait_s):
        state = repository.journal.state()
        if found := state.releases.get((model, release)):
            _require_same_bytes(control, found, manifest)
            return found.slot
        contract = read_contract(staged)
        admit(state, model, release, contract)
        known = [r.slot for r in state.of_model(model)]
        for orphan in repository.set_orphans_aside(model, known):
            control.tell(f"An unfinished publish was found and set aside: {orphan}", level=LogLevel.WARNING)
        slot = _next_slot(state, model)
        repository.journal.begin()
        put_slot(repository, staged, RecordKind.PUBLISHED, manifest, slot, contract=contract.to_json(), **(more or {}))
    return slot


def put_slot(
    repository: Repository, staged: Path, kind: RecordKind, manifest: Manifest, slot: int, **more: Any
) -> None:
    """Put a staged release into its slot and record it; where the journal takes no record, the slot is as before."""
    model, release = manifest.model, manifest.release
    repository.commit_slot(staged, model, slot)
    body = {"model": model, "release": release, "slot": slot, "manifest_digest": manifest.digest, **more}
    try:
        repository.journal.append(kind, body)
    except PolicyctlError:
        found = repository.journal.state().releases.get((model, release))
        if found is None or found.collected:
            repository.take_back_slot(model, slot)
        raise


def _published(manifest: Manifest, slot: int, formats: tuple[Format, ...], *, dry_run: bool) -> Published:
    size = sum(f.size_bytes for f in manifest.files)
    return Published(manifest.model, manifest.release, slot, manifest.digest, formats, size, dry_run)


def _require_same_bytes(control: Control, found: PublishedRelease, manifest: Manifest) -> None:
    """Refuse a number that has other bytes already, naming the files; say so where it has these."""
    said = f"{found.model} {found.release} was published already (slot {found.slot}, {found.time}, {found.actor})"
    if manifest.digest != found.manifest_digest:
        raise UsageError(
            f"{said} with other bytes: {_other_bytes(control.repository, found, manifest)}",
            remedy="A release number is never used again. Choose the next one:"
            f" policyctl release next {found.model} DIR",
        )
    if found.collected:
        raise UsageError(
            f"{said} with these very bytes, and its files were removed at {found.collected}",
            remedy="Bring it back from where it was exported to: policyctl release import SRC",
        )
    control.say(f"{said} with these very bytes. Nothing was changed.")


def _other_bytes(repository: Repository, found: PublishedRelease, manifest: Manifest) -> str:
    try:
        folder = repository.slot(found.model, found.slot)
        published = read_release(folder, expected_digest=found.manifest_digest).manifest
    except IntegrityError as error:
        return f"manifest {manifest.digest}, published {found.manifest_digest} ({error.problem})"
    return "; ".join(published.differences(manifest.files))


def _next_slot(state: State, model: str) -> int:
    return max((r.slot for r in state.of_model(model)), default=0) + 1


def _copy(source: Path, staged: Path) -> None:
    staged.mkdir()
    for path in list_files(source):
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            reader = open_reader(source / path, most_bytes=LARGEST_FILE_BYTES)
        except OSError as error:
            raise _unreadable(source / path, error) from error
        with reader:
            files.copy_durably(reader, target, most_bytes=LARGEST_FILE_BYTES)
