"""The full card of a release: what it was published with, and what was measured of it since.

The card of a release never changes: its manifest covers it. What is measured
later stands in the journal's evidence. Where a card is shown, both are put
together. So every figure of a full card names a file and its digest; a figure
whose file is missing or was changed is listed as a problem and not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyctl.adapters.papers import papers
from policyctl.card import derive
from policyctl.card.check import entry_of
from policyctl.card.figures import SECTIONS, Figures, figures_of
from policyctl.card.reading import check_schema, parse
from policyctl.card.schema import SCHEMA_VERSION, Card
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, GOLDEN_FILE, MANIFEST_FILE, PARITY_FILE
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.manifest import FileEntry, Manifest, digest_of
from policyctl.domain.state import PublishedRelease
from policyctl.errors import IntegrityError, UsageError
from policyctl.integrity import read_file
from policyctl.services import kept_results
from policyctl.services.cards.draft import with_derived
from policyctl.services.control import Control, open_release, select_release
from policyctl.services.trust.signatures import of_release


@dataclass(frozen=True, slots=True)
class KeptEvidence:
    """One piece of evidence about a release, intact.

    Attributes:
        file: Below the repository's ``.policyctl``.
        kept_in: ``journal``, which has its digest, or ``bench``.
    """

    file: str
    digest: str
    kept_in: str
    content: bytes
    figures: Figures


def evidence_of(control: Control, published: PublishedRelease) -> tuple[tuple[KeptEvidence, ...], tuple[str, ...]]:
    """What was measured of a release; and a sentence for each piece of evidence that is missing or was changed."""
    pieces = [*_in_journal(control, published), *_in_bench(control, published)]
    return (
        tuple(piece for piece in pieces if isinstance(piece, KeptEvidence)),
        tuple(piece for piece in pieces if isinstance(piece, str)),
    )


def _in_journal(control: Control, published: PublishedRelease) -> Iterator[KeptEvidence | str]:
    for record in _measured(control, published):
        name, digest = str(record.body["evidence"]), str(record.body["evidence_digest"])
        content = control.repository.read(name)
        if content is None or digest_of(content) != digest:
            now = "missing" if content is None else digest_of(content)
            yield f"{name} is {now}, the journal says {digest}: its figures are not shown"
        else:
            yield KeptEvidence(name, digest, "journal", content, figures_of(content))


def _in_bench(control: Control, published: PublishedRelease) -> Iterator[KeptEvidence | str]:
    for kept in kept_results.kept(control.repository, model=published.model):
        try:
            content, result = kept.read()
        except UsageError as error:
            yield f"{kept.path.name}: {error.problem}: its figures are not shown"
            continue
        if result.release == published.release:
            name = str(kept.path.relative_to(control.repository.control))
            yield KeptEvidence(name, digest_of(content), "bench", content, figures_of(content))


def _measured(control: Control, published: PublishedRelease) -> Iterator[Record]:
    """The journal's records of what was measured of a release."""
    about = (published.model, published.release, published.manifest_digest)
    for record in control.repository.journal.records():
        if record.kind in {RecordKind.GATE, RecordKind.MEASURED}:
            body = record.body
            if (body["model"], body["release"], body["manifest_digest"]) == about:
                yield record


def full(control: Control, *, model: str, release: str) -> Card:
    """The card of a release with everything that was measured since, also of one whose files were collected.

    Args:
        release: Selects the release (`State.select`).

    Raises:
        UsageError: No such release, or a card that cannot be read.
        IntegrityError: The release is not as published, or the journal was edited.
    """
    known = _known(control, model, release)
    stated = parse(known.contents[CARD_FILE])
    card, wrong = check_schema(stated)
    data: dict[str, Any] = dict(stated.data) if card is not None else {"schema_version": SCHEMA_VERSION}
    if GOLDEN_FILE in known.contents:
        files = (known.contents[name] for name in (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE))
        data = with_derived(data, derive.sections(*files))
    pieces, missing = evidence_of(control, known.published)
    for section in SECTIONS:
        added = [
            entry_of(figure, file=piece.file, digest=piece.digest, kept_in=piece.kept_in)
            for piece in pieces
            for figure in piece.figures.of(section)
        ]
        if added:
            data[section] = [*data.get(section, []), *added]
    problems = (*(f"the published card: {problem.words}" for problem in wrong), *missing)
    return Card.model_validate({**data, "release": _release(control, known, problems)})


def bill_of_materials(control: Control, *, model: str, release: str) -> str:
    """The CycloneDX document of a release, from its full card.

    Raises:
        UsageError: No such release, or a card that cannot be read.
        IntegrityError: The release is not as published, or the journal was edited.
        UnsupportedError: The library that writes it is not installed.
    """
    from policyctl.adapters import bom

    card = full(control, model=model, release=release)
    if card.release is None:
        raise AssertionError("a full card says of which release it is")
    return bom.render(card, card.release)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a published release: all of its files by digest, and the content of some."""

    published: PublishedRelease
    files: tuple[FileEntry, ...]
    contents: Mapping[str, bytes]


def _known(control: Control, model: str, release: str) -> _Known:
    """A release that is here, or the papers of one whose files were collected.

    Raises:
        UsageError: There never was such a release.
        IntegrityError: It is not as published.
    """
    repository = control.repository
    repository.require()
    state = repository.journal.state()
    published = state.releases.get((model, release))
    if published is None or not published.collected:
        opened = open_release(repository, state.release(model, select_release(control, model, release)))
        return _Known(opened.published, opened.files, opened.contents)
    folder = papers(repository, model, release)
    manifest = Manifest.from_bytes(_paper(folder / MANIFEST_FILE, published.manifest_digest))
    digests = {file.path: file.digest for file in manifest.files}
    names = (CONTRACT_FILE, PARITY_FILE, CARD_FILE)
    return _Known(published, manifest.files, {name: _paper(folder / name, digests.get(name)) for name in names})


def _paper(path: Path, digest: str | None) -> bytes:
    """One paper of a collected release, if it has its digest, where that is known."""
    content = read_file(path)
    if digest is not None and digest_of(content) != digest:
        raise IntegrityError(
            f"{path} is {digest_of(content)}, expected {digest}", remedy="Restore the file from a copy."
        )
    return content


def _release(control: Control, known: _Known, problems: tuple[str, ...]) -> dict[str, Any]:
    """The section ``release``."""
    published = known.published
    gates = {
        str(record.body["gate"]): {
            "gate": record.body["gate"],
            "verdict": record.body["verdict"],
            "time": record.time,
            "evidence": _kept(record.body["evidence"], record.body["evidence_digest"]),
        }
        for record in _measured(control, published)
        if record.kind is RecordKind.GATE
    }
    section: dict[str, Any] = {
        "model": published.model,
        "release": published.release,
        "slot": published.slot,
        "manifest_digest": published.manifest_digest,
        "published": published.time,
        "by": published.actor,
        "files": [{"path": f.path, "size_bytes": f.size_bytes, "digest": f.digest} for f in known.files],
    }
    lists = {
        "gates": [gates[name] for name in sorted(gates)],
        "signatures": _signatures(control, published),
        "problems": list(problems),
    }
    return section | {name: entries for name, entries in lists.items() if entries}


def _signatures(control: Control, published: PublishedRelease) -> list[dict[str, Any]]:
    """Recorded signatures, and what each is worth here; of a collected release that is not judged."""
    state = control.repository.journal.state()
    judged = {} if published.collected else {s.record.name: s for s in of_release(control, state, published)}
    section = []
    for record in state.signatures_of(published.model, published.release):
        entry = {
            "name": record.name,
            "method": record.method.value,
            "key": record.key,
            "since": record.time,
            "evidence": _kept(record.file, record.digest),
        }
        if (worth := judged.get(record.name)) is not None:
            entry["standing"] = worth.standing.value
            if worth.signer:
                entry["signer"] = worth.signer
        section.append(entry)
    return section


def _kept(file: str, digest: str) -> dict[str, str]:
    return {"file": file, "digest": digest, "kept_in": "journal"}
