"""Put what was measured of one release into the card of an export that holds the same artifacts.

A release cannot be measured before it is published, and its card cannot change
afterwards. So a card that is to be published with figures takes them from an
earlier release, a pre-release as a rule, whose artifacts are the very same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.card import rewriting
from policyctl.card.check import entry_of
from policyctl.card.figures import SECTIONS, Citation, Measured
from policyctl.card.reading import parse
from policyctl.domain.artifacts import CARD_FILE, FILES, Format
from policyctl.domain.json_values import to_json
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.errors import UsageError
from policyctl.hashing import hash_file
from policyctl.services.cards.draft import cites, read
from policyctl.services.cards.full_card import KeptEvidence, evidence_of
from policyctl.services.control import Control, OpenRelease, open_release, select_release

FOLDER: Final = "evidence"
"""Below a release: evidence that its card cites."""


@dataclass(frozen=True, slots=True)
class Cited:
    """What `cite` did, or would do.

    Attributes:
        figures: How many figures were added, by section.
    """

    card: Path
    evidence: tuple[str, ...]
    figures: Mapping[str, int]
    dry_run: bool


def cite(control: Control, folder: Path, *, model: str, release: str, dry_run: bool = False) -> Cited:
    """Write into the card of an export what was measured of a release that holds the same artifacts.

    The evidence is put next to the card, so that it is published with it.

    Args:
        release: Selects the release (`State.select`).

    Raises:
        UsageError: No such release, other artifacts, or nothing was measured.
        IntegrityError: The release is not as published.
    """
    release = select_release(control, model, release)
    opened = open_release(control.repository, control.repository.journal.state().release(model, release))
    path = folder / CARD_FILE
    content = read(path)
    document = parse(content)
    pieces, problems = evidence_of(control, opened.published)
    for sentence in problems:
        control.say(f"Left out: {sentence}")
    there, added = _collected(folder, opened, pieces, document.data)
    if not there:
        raise UsageError(
            f"nothing was measured of {model} {release} that {path} does not cite already",
            remedy=f"Measure first: policyctl evaluate {model} --env ENV --keep, validate, or bench.",
        )
    text = rewriting.extended(content, {section: entries for section, entries in added.items() if entries})
    if not dry_run:
        for name, written in there.items():
            (folder / name).parent.mkdir(exist_ok=True)
            files.write_atomically(folder / name, written)
        files.write_atomically(path, text.encode())
    return Cited(path, tuple(there), {s: len(entries) for s, entries in added.items()}, dry_run)


def _collected(
    folder: Path, opened: OpenRelease, pieces: Sequence[KeptEvidence], data: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, list[dict[str, Any]]]]:
    """The files to put next to the card, and the entries that cite them, by section."""
    there: dict[str, bytes] = {}
    added: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    for each in pieces:
        if not each.figures:
            continue
        citation = _citation(opened, each)
        _require_same(folder, citation.about)
        name = f"{FOLDER}/{each.digest.removeprefix('sha256:')[:16]}.json"
        if any(cites(entry, name) for section in SECTIONS for entry in data.get(section) or ()):
            continue
        there[name] = canonical_json(to_json(citation))
        for section in SECTIONS:
            entries = each.figures.of(section)
            added[section] += [entry_of(f, file=name, digest=digest_of(there[name])) for f in entries]
    return there, added


def _citation(opened: OpenRelease, piece: KeptEvidence) -> Citation:
    """Evidence bound to the artifacts that answered; to all where it does not say which did."""
    forms = {str(entry.get("format", "")) for section in SECTIONS for entry in piece.figures.of(section)} - {""}
    known = {Format(form) for form in forms & set(Format)} or set(opened.formats)
    wanted = {path for form in known for path in FILES[form]}
    artifacts = {file.path: file.digest for file in opened.files if file.path in wanted}
    published = opened.published
    about = Measured(published.model, published.release, published.manifest_digest, artifacts)
    return Citation(about, file=piece.file, content=piece.content.decode("utf-8"), digest=piece.digest)


def _require_same(folder: Path, about: Measured) -> None:
    for path, digest in about.artifacts.items():
        present = hash_file(folder, path).digest if (folder / path).is_file() else "missing"
        if present != digest:
            raise UsageError(
                f"{folder / path} is {present}, that of {about.model} {about.release} is {digest}:"
                " what was measured of the one says nothing of the other",
                remedy="Cite a release that holds these very artifacts, or publish first and measure then.",
            )
