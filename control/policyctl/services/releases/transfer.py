"""Move a release between sites: to a folder or a registry, and back, byte for byte.

What travels is an OCI artifact (`domain.oci`): every file as it is, the
release's manifest, and its signatures. It arrives verified, file by file, and
under the digest that was named, or not at all: blobs are gathered in a
separate folder, where a second try finds them, and a release that is whole is
published from there as any other is. Evidence of gates does not travel: it is
about the servers of one site.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.adapters import files, lock, signature_files
from policyctl.adapters.repository import Repository
from policyctl.adapters.sharing import is_intact, share
from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.journal import RecordKind
from policyctl.domain.manifest import FileEntry, Manifest, digest_of, is_digest
from policyctl.domain.names import check_model_name, check_release
from policyctl.domain.oci import Artifact, ReleaseOrigin, artifact_of, check_release_manifest, read_artifact
from policyctl.domain.signature import LARGEST_BYTES, Bundle
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import IntegrityError, UsageError
from policyctl.hashing import hash_file
from policyctl.integrity import check_releases, read_file, read_release
from policyctl.plain_files import open_reader
from policyctl.release_files import LARGEST_FILE_BYTES
from policyctl.services.control import Control, Note
from policyctl.services.releases.copies import Store, destination_store, source_store
from policyctl.services.releases.exported import check_export
from policyctl.services.releases.publish import commit, patience, put_slot
from policyctl.services.trust.signing import attach

_IMPORTS: Final = "imports"


@dataclass(frozen=True, slots=True)
class Transferred:
    """What an export or import did, or would do.

    Attributes:
        digest: Of the OCI artifact: what to pin it by.
        place: Where it went, or came from.
        files: How many files, signatures included.
        sent: How many blobs had to be carried; the others were there.
        done: ``exported``, ``published``, ``restored``, ``here already``.
    """

    model: str
    release: str
    digest: str
    manifest_digest: str
    place: str
    slot: int
    files: int
    size_bytes: int
    sent: int
    done: str
    dry_run: bool = False


def export_release(
    control: Control, *, model: str, release: str, destination: str, dry_run: bool = False
) -> Transferred:
    """Write a release, its manifest and its signatures to a folder or a registry.

    The same release with the same signatures is the same artifact, byte for
    byte, wherever and whenever it is exported. What is there already is not
    sent again, so an export that was cut short goes on.

    Args:
        destination: A folder (made, or one that an export made), or ``oci://HOST/NAME[:TAG]``.
        dry_run: Read and check the release; write nothing.

    Raises:
        UsageError: No such release, or it cannot be written there.
        IntegrityError: A file is not what was published; nothing names the artifact then.
        ServerError: The registry does not answer.
    """
    repository, state = control.repository, control.known()
    published = state.release(model, release)
    folder = repository.slot(model, published.slot)
    manifest = read_release(folder, expected_digest=published.manifest_digest).manifest
    signatures = _recorded(repository, state, published)
    artifact = artifact_of(manifest, _origin(repository, published), signatures)
    store = destination_store(control, destination)
    sent = 0
    if not dry_run:
        store.create()
        sources = {f.digest: folder / f.path for f in artifact.files}
        sources |= {
            f.digest: signature_files.signature_file(repository, model, release, _signed_as(f)) for f in signatures
        }
        sources[artifact.config.digest] = folder / MANIFEST_FILE
        for blob in artifact.blobs:
            if not store.has(blob):
                with control.working(f"Sending {blob.path} ({blob.size_bytes} bytes)") as note:
                    store.put(blob, sources[blob.digest], _percent(blob, note))
                sent += 1
        store.put_manifest(artifact.to_bytes(), store.tag(model, release))
    return _told(artifact, destination, published.slot, sent, "exported", dry_run=dry_run)


def import_release(
    control: Control, source: str, *, digest: str | None = None, dry_run: bool = False, wait_s: float | None = None
) -> Transferred:
    """Publish here what was exported elsewhere: the same bytes, the same manifest, its signatures.

    A release that is here already, byte for byte, is left as it is (signatures
    that are new are added). One whose files gc removed comes back into its
    slot. Whatever was fetched before a failure is used by the next try.

    Args:
        source: A folder that an export wrote (``FOLDER@TAG`` where it holds several), or ``oci://HOST/NAME:TAG``.
        digest: What the artifact must hash to, noted at the export; None takes what is there.
        dry_run: Fetch the manifests alone; change nothing.
        wait_s: For another writer; None for the usual patience.

    Raises:
        UsageError: Nothing there, the release number was used for other bytes, or the disk refuses.
        IntegrityError: Anything is not what its digest says.
        ServerError: The registry does not answer.
        BusyError: Another writer is at work.
    """
    if digest is not None and not is_digest(digest):
        raise UsageError(
            f"{digest!r} is not a digest", remedy="Give sha256:<64 hex digits>, as policyctl release export printed it."
        )
    repository = control.repository
    store, reference = source_store(control, source)
    content = store.manifest(reference)
    if digest is not None and digest_of(content) != digest:
        raise IntegrityError(
            f"{source} is {digest_of(content)}, expected {digest}",
            remedy="It is not what was exported, or not the release that was meant. Nothing was changed.",
        )
    artifact = read_artifact(content)
    model, release = check_model_name(artifact.model), check_release(artifact.release)
    known = repository.journal.state().releases.get((model, release))
    if known is not None and known.manifest_digest != artifact.config.digest:
        raise UsageError(
            f"{model} {release} was published here with other bytes ({known.manifest_digest}, slot {known.slot})",
            remedy="A release number is never used again. Nothing was changed.",
        )
    if known is not None and not known.collected:
        _require_intact(repository, known, source)
    done = "published" if known is None else "restored" if known.collected else "here already"
    if dry_run:
        return _told(artifact, source, 0 if known is None else known.slot, 0, done, dry_run=True)
    repository.create()
    wait_s = patience(control, wait_s)
    slot = 0 if known is None else known.slot
    gathered = repository.control / _IMPORTS / artifact.digest.removeprefix("sha256:")
    with lock.hold(gathered.with_suffix(".lock"), doing=f"import of {model} {release}", wait_s=wait_s):
        sent = _gather(control, store, artifact, gathered, skip_files=done == "here already")
        if done != "here already":
            slot = _publish(control, artifact, gathered, known, wait_s=wait_s)
        for entry in artifact.signatures:
            content, where = read_file(gathered / _name(entry), most_bytes=LARGEST_BYTES), f"{source}: {entry.path}"
            name = _free_name(
                repository.journal.state(), model, release, entry, Bundle.from_bytes(content, where=where)
            )
            attach(control, content, model=model, release=release, name=name, where=where, wait_s=wait_s)
        with suppress(OSError):  # what cannot be removed now is collected later
            files.remove_tree(gathered)
            gathered.with_suffix(".lock").unlink()
    return _told(artifact, source, slot, sent, done, dry_run=False)


def _recorded(repository: Repository, state: State, published: PublishedRelease) -> tuple[FileEntry, ...]:
    """The signatures that travel: those that the journal names, as it recorded them."""
    found = []
    for record in state.signatures_of(published.model, published.release):
        path = repository.control / record.file
        entry = hash_file(path.parent, path.name)
        if entry.digest != record.digest:
            raise IntegrityError(
                f"{path} is {entry.digest}, the journal says {record.digest}",
                remedy="Put the signature back, or have it made again: policyctl sign",
            )
        found.append(entry)
    return tuple(found)


def _free_name(state: State, model: str, release: str, entry: FileEntry, bundle: Bundle) -> str:
    """The name of a signature that arrives; none, so that one is made, where another key has it here."""
    name = _signed_as(entry)
    taken = state.signatures.get((model, release, name))
    return name if taken is None or taken.key == bundle.signer else ""


def _signed_as(entry: FileEntry) -> str:
    """The name of the signature that travels as `entry`."""
    return entry.path.removesuffix(signature_files.SUFFIX)


def _require_intact(repository: Repository, known: PublishedRelease, source: str) -> None:
    (found,) = check_releases([(repository.slot(known.model, known.slot), known.manifest_digest)])
    if found.problem is not None:
        raise IntegrityError(
            found.problem.problem,
            remedy=f"It is here, but not intact. Rebuild it from what was exported: policyctl repair --from {source}",
        )


def _gather(control: Control, store: Store, artifact: Artifact, folder: Path, *, skip_files: bool) -> int:
    """Fetch every blob to a folder that the next try finds again; how many had to be fetched."""
    with files.storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = artifact.signatures if skip_files else artifact.blobs
    lacking = [blob for blob in {b.digest: b for b in wanted}.values() if not is_intact((folder, _name(blob)), blob)]
    files.require_room(folder, sum(blob.size_bytes for blob in lacking))
    for blob in lacking:
        with control.working(f"Fetching {blob.path} ({blob.size_bytes} bytes)") as note:
            store.fetch(blob, folder / _name(blob), _percent(blob, note))
    return len(lacking)


def _percent(blob: FileEntry, note: Note) -> Callable[[int], None]:
    return lambda done: note(f"{100 * done // max(1, blob.size_bytes)} %")


def _publish(
    control: Control, artifact: Artifact, gathered: Path, known: PublishedRelease | None, *, wait_s: float
) -> int:
    repository = control.repository
    manifest = check_release_manifest(artifact, read_file(gathered / _name(artifact.config)))
    with repository.staging() as folder:
        staged = folder / "slot"
        for entry in artifact.files:
            _take(gathered / _name(entry), staged / entry.path)
        check_export(staged)
        files.write_atomically(staged / MANIFEST_FILE, manifest.to_bytes(), mode=0o444)
        read_release(staged, expected_digest=artifact.config.digest)
        if known is not None:
            return _restore(control, staged, manifest, known, wait_s=wait_s)
        origin = {"time": artifact.origin.time, "publisher": artifact.origin.publisher, "artifact": artifact.digest}
        return commit(control, staged, manifest, wait_s=wait_s, more={"origin": origin})


def _restore(control: Control, staged: Path, manifest: Manifest, known: PublishedRelease, *, wait_s: float) -> int:
    """Bring the files of a collected release back into its own slot."""
    repository = control.repository
    share_from = control.settings.storage.share_from_bytes
    share(repository, repository.journal.state(), staged, manifest, from_bytes=share_from)
    with repository.writer(f"restore {known.model} {known.release}", wait_s=wait_s):
        if not repository.journal.state().releases[known.model, known.release].collected:
            raise UsageError(f"{known.model} {known.release} was brought back by somebody else meanwhile")
        if repository.slot(known.model, known.slot).exists():  # a gc that was cut short
            repository.take_back_slot(known.model, known.slot)
        put_slot(repository, staged, RecordKind.RESTORED, manifest, known.slot)
    return known.slot


def _take(source: Path, target: Path) -> None:
    """Give a gathered blob its name in the release; a blob may have several."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
        target.chmod(0o444)
    except OSError:
        with open_reader(source, most_bytes=LARGEST_FILE_BYTES) as reader:
            files.copy_durably(reader, target, most_bytes=LARGEST_FILE_BYTES)


def _origin(repository: Repository, published: PublishedRelease) -> ReleaseOrigin:
    """Who published a release first: here, or where it came from."""
    for record in repository.journal.records():
        key = (record.body.get("model"), record.body.get("release"))
        if record.kind is RecordKind.PUBLISHED and key == (published.model, published.release):
            origin = record.body.get("origin")
            if origin is not None:
                return ReleaseOrigin(origin["time"], origin["publisher"])
    return ReleaseOrigin(published.time, published.actor)


def _name(blob: FileEntry) -> str:
    return blob.digest.removeprefix("sha256:")


def _told(artifact: Artifact, place: str, slot: int, sent: int, done: str, *, dry_run: bool) -> Transferred:
    carried = (*artifact.files, *artifact.signatures, artifact.config)
    return Transferred(
        model=artifact.model,
        release=artifact.release,
        digest=artifact.digest,
        manifest_digest=artifact.config.digest,
        place=place,
        slot=slot,
        files=len(carried),
        size_bytes=sum(f.size_bytes for f in carried),
        sent=sent,
        done=done,
        dry_run=dry_run,
    )
