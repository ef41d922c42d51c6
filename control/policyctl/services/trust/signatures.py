"""Judge the signatures of a release: who signed it, since when, and whether that counts.

A signature counts if

1. its bundle is, byte for byte, what the journal recorded,
2. it covers exactly the files of the release's manifest and the manifest,
3. it is right, by a key (or an identity, or somebody with a certificate) that
   the trust store holds *now*, and
4. the journal recorded it while that key was valid and not revoked
   (`domain.trust`).

The files themselves are not read again here: the manifest's digest is pinned
by the journal, and `integrity` holds the files against the manifest.

Whether a signature must count is a setting. Where a server runs, its setting
and its trust store count as well as those of the command: a command that asks
for less, or believes others, moves nothing past them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from policyctl.adapters import signature_files, signing, signing_keys, trust_store
from policyctl.adapters.papers import papers
from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.log_event import LogLevel
from policyctl.domain.manifest import Manifest, digest_of
from policyctl.domain.signature import LARGEST_BYTES, Bundle, Method, SignatureRecord, covered_by
from policyctl.domain.state import PublishedRelease, State
from policyctl.domain.trust import Trusted, TrustKind, TrustStore, moment
from policyctl.errors import IntegrityError, UnsupportedError
from policyctl.integrity import read_file
from policyctl.services import running
from policyctl.services.control import Control
from policyctl.settings import Settings, SignatureRule


class Standing(StrEnum):
    """What a signature is worth."""

    TRUSTED = "trusted"
    """It counts."""
    UNTRUSTED = "untrusted"
    """Nothing speaks against the bundle, but nobody vouches for its key, or no longer."""
    INVALID = "invalid"
    """The bundle is missing, changed, of something else, or no right signature."""
    UNCHECKED = "unchecked"
    """The library that checks it is not installed."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a bundle is worth.

    Attributes:
        signer: Who vouches for it, by the trust store's name; empty where nobody does.
    """

    standing: Standing
    signer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Signed(Judgement):
    """One recorded signature of a release, in the bundle `path`, and what it is worth now."""

    record: SignatureRecord
    path: Path

    @property
    def counts(self) -> bool:
        """Whether it is a signature by a trusted key."""
        return self.standing is Standing.TRUSTED

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "name": self.record.name,
            "signer": self.signer,
            "method": self.record.method.value,
            "key": self.record.key,
            "since": self.record.time,
            "by": self.record.actor,
            "standing": self.standing.value,
            "reason": self.reason,
            "file": str(self.path),
            "digest": self.record.digest,
        }


def trust_path(settings: Settings) -> Path:
    """Where the trust store is."""
    return settings.integrity.trust or settings.repository.resolve() / ".policyctl" / "trust.yaml"


def of_release(
    control: Control, state: State, published: PublishedRelease, *, trust: Path | None = None
) -> tuple[Signed, ...]:
    """Every recorded signature of a release, judged now.

    Args:
        trust: The trust store; None for that of the settings.

    Raises:
        UsageError: The file is not a trust store.
    """
    records = state.signatures_of(published.model, published.release)
    if not records:
        return ()
    store = trust_store.read(trust or trust_path(control.settings))
    try:
        covered: Mapping[str, str] | str = covered_by(read_manifest(control, published))
    except IntegrityError as error:
        covered = error.problem
    found = []
    for record in records:
        path = control.repository.control / record.file
        judged = _judge_record(control, published, record, covered, store)
        found.append(Signed(judged.standing, judged.signer, judged.reason, record, path))
    return tuple(found)


class _Asks(NamedTuple):
    """What somebody asks of signatures, and who that is."""

    rule: SignatureRule
    trust: Path
    who: str = ""


def require_signed(control: Control, state: State, published: PublishedRelease) -> None:
    """Refuse, or tell of, a release that no trusted key signed, as the settings and the running server say.

    Raises:
        IntegrityError: Signatures are required, and none counts.
        UnsupportedError: Signatures are required, and cannot be checked here.
        UsageError: The file is not a trust store.
    """
    for asks in _who_asks(control):
        _require_signed(control, state, published, asks)


def _who_asks(control: Control) -> tuple[_Asks, ...]:
    """The settings of this process, and those of the running server where they are others."""
    mine = _Asks(control.settings.integrity.signatures, trust_path(control.settings))
    server = running.read(control.repository)
    if server is None:
        return (mine,)
    trust = server.settings.get("integrity.trust")
    theirs = _Asks(
        SignatureRule(server.settings.get("integrity.signatures", SignatureRule.OFF)),
        Path(trust) if trust else control.repository.control / "trust.yaml",
        " (the running server asks for it)",
    )
    return (mine,) if (mine.rule, mine.trust) == (theirs.rule, theirs.trust) else (mine, theirs)


def _require_signed(control: Control, state: State, published: PublishedRelease, asks: _Asks) -> None:
    if asks.rule is SignatureRule.OFF:
        return
    found = of_release(control, state, published, trust=asks.trust)
    if any(s.counts for s in found):
        return
    problem = f"{shortfall(published, found)}{asks.who}"
    if asks.rule is SignatureRule.WARN:
        control.tell(f"WARNING: {problem}.", level=LogLevel.WARNING)
        return
    if any(s.standing is Standing.UNCHECKED for s in found):
        signing_keys.require_library()
    raise IntegrityError(
        problem,
        remedy=f"Have it signed by somebody who is trusted: policyctl sign {published.model} {published.release}"
        f" --key KEY. Who is: policyctl trust list ({asks.trust}).",
    )


def shortfall(published: PublishedRelease, found: tuple[Signed, ...]) -> str:
    """Why no signature of a release counts, in words."""
    what = f"{published.model} {published.release}"
    if not found:
        return f"{what} is not signed"
    return f"{what} is signed by no trusted key: {'; '.join(f'{s.record.name}: {s.reason}' for s in found)}"


def unrecorded(control: Control, state: State) -> tuple[Path, ...]:
    """Files among the signatures that the journal does not name: put there by hand, or left by a crash."""
    known = {control.repository.control / record.file for record in state.signatures.values()}
    return tuple(path for path in signature_files.list_all(control.repository) if path not in known)


def read_manifest(control: Control, published: PublishedRelease) -> Manifest:
    """The manifest of a release, which must be the published one; its files are not read, and may be collected."""
    folder = control.repository.slot(published.model, published.slot)
    if published.collected:
        folder = papers(control.repository, published.model, published.release)
    content = read_file(folder / MANIFEST_FILE)
    if digest_of(content) != published.manifest_digest:
        raise IntegrityError(f"{folder / MANIFEST_FILE} is not what was published ({published.manifest_digest})")
    return Manifest.from_bytes(content)


def judge(
    content: bytes, covered: Mapping[str, str], recorded: datetime, store: TrustStore, *, where: str
) -> Judgement:
    """What a bundle is worth as a signature of `covered`.

    Args:
        covered: Path to ``sha256:hex``: the files of the release and its manifest.
        recorded: When the journal recorded it.
        store: Whom to believe.
    """
    try:
        bundle = Bundle.from_bytes(content, where=where)
        if problems := bundle.differences(covered):
            return Judgement(Standing.INVALID, "", f"{where}: {'; '.join(problems)}")
        signing_keys.require_library()
        if bundle.method is Method.KEY:
            return _judge_key(content, bundle, covered, recorded, store, where)
        return _judge_certificate(content, bundle, covered, recorded, store, where)
    except UnsupportedError as error:
        return Judgement(Standing.UNCHECKED, "", f"{error.problem}. {error.remedy}")
    except IntegrityError as error:
        return Judgement(Standing.INVALID, "", error.problem)


def _judge_record(
    control: Control,
    published: PublishedRelease,
    record: SignatureRecord,
    covered: Mapping[str, str] | str,
    store: TrustStore,
) -> Judgement:
    where = str(control.repository.control / record.file)
    content = control.repository.read(record.file, most_bytes=LARGEST_BYTES)
    if content is None:
        problem = f"{where} is missing or not a plain file, the journal recorded it at {record.time}"
    elif digest_of(content) != record.digest:
        problem = f"{where} is {digest_of(content)}, the journal says {record.digest}"
    elif record.manifest_digest != published.manifest_digest:
        problem = f"{where} signs {record.manifest_digest}, published was {published.manifest_digest}"
    elif isinstance(covered, str):
        problem = covered
    else:
        return judge(content, covered, datetime.fromisoformat(record.time), store, where=where)
    return Judgement(Standing.INVALID, "", problem)


def _judge_key(
    content: bytes, bundle: Bundle, covered: Mapping[str, str], recorded: datetime, store: TrustStore, where: str
) -> Judgement:
    entry = store.with_fingerprint(bundle.key)
    if entry is None:
        return Judgement(Standing.UNTRUSTED, "", f"made with the key {bundle.key}, which the trust store does not hold")
    if entry.kind is TrustKind.NONE:
        return Judgement(Standing.UNTRUSTED, "", entry.objection(recorded))
    try:
        signing.check(content, where, covered, entry)
    except IntegrityError as error:
        raise IntegrityError(f"{where} is {error.problem}") from error
    return _weigh(entry, recorded, "")


def _judge_certificate(
    content: bytes, bundle: Bundle, covered: Mapping[str, str], recorded: datetime, store: TrustStore, where: str
) -> Judgement:
    leaf = signing_keys.describe_certificate(bundle.certificates[0])
    entry = store.with_fingerprint(leaf.fingerprint, leaf.key)
    if entry is not None and (why := entry.objection(recorded)):
        return Judgement(Standing.UNTRUSTED, "", why)
    keyless = bundle.method is Method.KEYLESS
    if not keyless and not leaf.not_before <= recorded < leaf.not_after:
        valid = f"{moment(leaf.not_before)} to {moment(leaf.not_after)}"
        why = f"the certificate of {leaf.subject} was valid {valid}, this was recorded {moment(recorded)}"
        return Judgement(Standing.UNTRUSTED, "", why)
    judged = Judgement(
        Standing.UNTRUSTED, "", f"nobody in the trust store vouches for {leaf.subject or leaf.fingerprint}"
    )
    for root in (e for e in store if e.kind is (TrustKind.IDENTITY if keyless else TrustKind.CERTIFICATE)):
        try:
            signing.check(content, where, covered, root)
        except signing.NotVouchedError as error:
            if keyless:  # also what a network that cannot be reached says
                judged = Judgement(Standing.UNTRUSTED, "", error.problem)
            continue
        except IntegrityError as error:
            raise IntegrityError(f"{where} is {error.problem}") from error
        judged = _weigh(root, recorded, leaf.subject)
        if judged.standing is Standing.TRUSTED:
            return judged
    return judged


def _weigh(entry: Trusted, recorded: datetime, subject: str) -> Judgement:
    if why := entry.objection(recorded):
        return Judgement(Standing.UNTRUSTED, entry.name, why)
    return Judgement(Standing.TRUSTED, entry.name, f"signed by {entry.name}" + f" ({subject})" * bool(subject))
