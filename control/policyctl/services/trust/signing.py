"""Sign a release, or keep a bundle that was made elsewhere.

A signature never changes the slot, which is read-only and complete: its bundle
is kept next to the journal, and the journal records its digest, so that a
bundle that is removed or swapped is noticed.

The bundle is written first and recorded then. A crash between leaves a file
that no record names: it counts for nothing, and the next signature sets it
aside. A recorded bundle that is intact is never replaced.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policyctl.adapters import files, signature_files, trust_store
from policyctl.adapters.signing import Signer
from policyctl.domain.journal import RecordKind
from policyctl.domain.json_values import OMIT, fields_to_json
from policyctl.domain.manifest import digest_of
from policyctl.domain.names import check_signer_name
from policyctl.domain.signature import LARGEST_BYTES, Bundle, Method, SignatureRecord, covered_by
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import IntegrityError, PolicyctlError, UsageError
from policyctl.integrity import read_release
from policyctl.plain_files import read_plain, unreadable
from policyctl.services.control import Control, select_release
from policyctl.services.trust.signatures import (
    Judgement,
    Signed,
    Standing,
    judge,
    of_release,
    read_manifest,
    trust_path,
)


@dataclass(frozen=True, slots=True)
class Signing:
    """What signing did, or would do.

    Attributes:
        key: Fingerprint of the key or certificate.
        covered_files: How many files it covers, the manifest among them.
        changed: False where the key had signed the release already.
        judged: What it is worth here, now; None for a dry run.
    """

    model: str
    release: str
    name: str
    method: Method
    key: str
    covered_files: int
    file: Path
    changed: bool
    dry_run: bool
    judged: Judgement | None = field(metadata=OMIT)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        standing, reason = (None, "") if self.judged is None else (self.judged.standing.value, self.judged.reason)
        return {**fields_to_json(self), "standing": standing, "reason": reason}


def sign(
    control: Control,
    signer: Signer,
    *,
    model: str,
    release: str,
    name: str = "",
    dry_run: bool = False,
    wait_s: float | None = None,
) -> Signing:
    """Sign a published release: every file of it, and its manifest.

    Args:
        signer: Whose key, see `adapters.signing.open_signer`.
        release: Which release, or what stands for one (``^1.2``, ``latest``, an alias).
        name: Of the signature; empty for the key's name in the trust store.
        wait_s: For another writer; None for the setting.

    Raises:
        UsageError: No such release, or a name that another key has signed under.
        IntegrityError: A file is not what was published: nothing is signed.
        BusyError: Another writer is at work.
    """
    release = select_release(control, model, release)
    published = control.repository.journal.state().release(model, release)
    # Nobody signs what is not whole now.
    folder = control.repository.slot(model, published.slot)
    covered = covered_by(read_release(folder, expected_digest=published.manifest_digest).manifest)
    chosen = name or _default_name(control, signer.method, signer.fingerprint)
    keep = _Keep(control, published, check_signer_name(chosen), signer.method, signer.fingerprint, covered)
    if (there := keep.already()) is not None or dry_run:
        return keep.report(there, dry_run=dry_run)
    content = signer.sign(f"{model}-{release}", covered)
    bundle = Bundle.from_bytes(content, where="the new bundle")
    # Who signs by an identity has a key of minutes, which is known only now.
    return replace(keep, key=signer.fingerprint or bundle.signer).write(content, wait_s)


def attach(
    control: Control,
    content: bytes,
    *,
    model: str,
    release: str,
    name: str = "",
    where: str = "the bundle",
    dry_run: bool = False,
    wait_s: float | None = None,
) -> Signing:
    """Keep a bundle that was made elsewhere: with OpenSSF's own command line, or on another site.

    It must cover the release exactly. Whether its key is trusted here does not
    matter for keeping it.

    Args:
        release: Which release, or what stands for one (``^1.2``, ``latest``, an alias).
        name: Of the signature; empty for the key's name in the trust store.
        where: The bundle's file, for errors.
        wait_s: For another writer; None for the setting.

    Raises:
        IntegrityError: It is not a bundle, not one of this release, or a wrong signature.
        UsageError: No such release, or a name that another key has signed under.
        BusyError: Another writer is at work.
    """
    release = select_release(control, model, release)
    published = control.repository.journal.state().release(model, release)
    covered = covered_by(read_manifest(control, published))
    bundle = Bundle.from_bytes(content, where=where)
    store = trust_store.read(trust_path(control.settings))
    judged = judge(content, covered, datetime.now(UTC), store, where=where)
    if judged.standing is Standing.INVALID:
        raise IntegrityError(
            f"{model} {release}: {judged.reason}",
            remedy=f"Sign exactly this folder, with no file ignored: {control.repository.slot(model, published.slot)}",
        )
    chosen = name or _default_name(control, bundle.method, bundle.signer)
    keep = _Keep(control, published, check_signer_name(chosen), bundle.method, bundle.signer, covered)
    if (there := keep.already()) is not None or dry_run:
        return keep.report(there, dry_run=dry_run)
    return keep.write(content, wait_s)


def read_bundle(path: Path) -> bytes:
    """A bundle in a file of somebody's."""
    try:
        return read_plain(path, most_bytes=LARGEST_BYTES, follow_links=True)
    except OSError as error:
        raise unreadable(path, error, remedy="Name a bundle.") from error


@dataclass(frozen=True, slots=True)
class _Keep:
    """One signature that is to be kept."""

    control: Control
    published: PublishedRelease
    name: str
    method: Method
    key: str
    covered: dict[str, str]

    @property
    def path(self) -> Path:
        return signature_files.signature_file(
            self.control.repository, self.published.model, self.published.release, self.name
        )

    def already(self) -> Signed | None:
        """The signature by this key that is there, unless recording it again would make it count.

        Raises:
            UsageError: The name is taken by another key.
        """
        found = self._whole()
        if found is None or found.standing is not Standing.UNTRUSTED:
            return found
        # Made before its key was valid, for example: recorded now it would count.
        store = trust_store.read(trust_path(self.control.settings))
        content = self.control.repository.read(found.record.file, most_bytes=LARGEST_BYTES) or b""
        again = judge(content, self.covered, datetime.now(UTC), store, where=str(found.path))
        return None if again.standing is Standing.TRUSTED else found

    def _whole(self) -> Signed | None:
        """The signature by this key whose bundle is as it was recorded."""
        state = self.control.repository.journal.state()
        for signed in of_release(self.control, state, self.published):
            record = signed.record
            if signed.standing is Standing.INVALID:
                continue
            if record.name == self.name and record.key != self.key:
                raise UsageError(
                    f"{self.published.model} {self.published.release} has a signature {self.name} by another key"
                    f" ({record.key})",
                    remedy="Choose a name: --name NAME.",
                )
            if self.key and record.key == self.key:
                return signed
        return None

    def report(self, there: Signed | None, *, dry_run: bool) -> Signing:
        """What was found, where nothing is written."""
        return self._result(there, changed=there is None, dry_run=dry_run)

    def write(self, content: bytes, wait_s: float | None) -> Signing:
        """Write the bundle, and record it."""
        model, release, repository = self.published.model, self.published.release, self.control.repository
        wait = self.control.settings.lock_wait_s if wait_s is None else wait_s
        with repository.writer(f"sign {model} {release}", wait_s=wait):
            repository.create()
            if (there := self.already()) is not None:
                return self.report(there, dry_run=False)
            self._set_aside(repository.journal.state())
            whole = self._whole()
            record = self._record(content) if whole is None else whole.record
            before = repository.read(record.file, most_bytes=LARGEST_BYTES)
            if whole is None:
                repository.write(repository.control / record.file, content, mode=0o444)
            try:
                repository.journal.append(RecordKind.SIGNED, record.to_body())
            except PolicyctlError:
                if whole is None:
                    self._take_back(record, before)
                raise
            state = repository.journal.state()
        signed = next(s for s in of_release(self.control, state, self.published) if s.record.name == record.name)
        return self._result(signed, changed=True, dry_run=False)

    def _record(self, content: bytes) -> SignatureRecord:
        return SignatureRecord(
            model=self.published.model,
            release=self.published.release,
            manifest_digest=self.published.manifest_digest,
            name=self.name,
            method=self.method,
            key=self.key,
            file=str(self.path.relative_to(self.control.repository.control)),
            digest=digest_of(content),
            time="",
            actor="",
        )

    def _set_aside(self, state: State) -> None:
        repository = self.control.repository
        known = {repository.control / r.file for r in state.signatures_of(self.published.model, self.published.release)}
        for path in signature_files.list_signature_files(repository, self.published.model, self.published.release):
            if path not in known:
                for aside in repository.set_aside(path, signature_files.name_aside(repository, path)):
                    self.control.say(f"A signature that was not recorded was found and set aside: {aside}")

    def _take_back(self, record: SignatureRecord, before: bytes | None) -> None:
        """Leave the bundle as it was before, where the journal did not take the record."""
        repository = self.control.repository
        recorded = repository.journal.state().signatures.get((record.model, record.release, record.name))
        if recorded is not None and recorded.digest == record.digest:
            return
        with suppress(PolicyctlError, OSError):
            if before is None:
                files.remove_tree(self.path)
            else:
                repository.write(self.path, before, mode=0o444)

    def _result(self, signed: Signed | None, *, changed: bool, dry_run: bool) -> Signing:
        of, count = self.published, len(self.covered)
        name, path = (self.name, self.path) if signed is None else (signed.record.name, signed.path)
        return Signing(of.model, of.release, name, self.method, self.key, count, path, changed, dry_run, signed)


def _default_name(control: Control, method: Method, key: str) -> str:
    entry = trust_store.read(trust_path(control.settings)).with_fingerprint(key)
    if entry is not None:
        return entry.name
    # One name a signature: an identity's key is of this one signature alone.
    suffix = key.removeprefix("sha256:")[:16] or datetime.now(UTC).strftime("%Y%m%dt%H%M%S%f")
    return f"{method}-{suffix}"
