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
from policyctl.card.document import parse
from policyctl.card.figures import SECTIONS, Citation
from policyctl.card.schema import SCHEMA_VERSION
from policyctl.domain.artifacts import CARD_FILE, FILES, Format
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.errors import UsageError
from policyctl.hashing import hash_file
from policyctl.services.cards import Seen, read, seen_of, write
from policyctl.services.control import Control, OpenRelease, open_release, select_release

FOLDER: Final = "evidence"
"""Below a release: evidence that its card cites."""


@dataclass(frozen=True, slots=True)
class Cited:
    """What `cite` did, or would do.

    Attributes:
        card: The card's file.
        evidence: The files that were put beside it.
        figures: How many figures were added, by section.
        dry_run: Nothing was written.
    """

    card: Path
    evidence: tuple[str, ...]
    figures: Mapping[str, int]
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "card": str(self.card),
            "evidence": list(self.evidence),
            "figures": dict(self.figures),
            "dry_run": self.dry_run,
        }


def cite(control: Control, folder: Path, *, model: str, release: str, dry_run: bool = False) -> Cited:
    """Write into the card of an export what was measured of a release that holds the same artifacts.

    The evidence is put beside the card, so that it is published with it.

    Args:
        control: The control plane.
        folder: What will be published.
        model: What was measured.
        release: Selects the release (`State.select`).
        dry_run: Check everything, change nothing.

    Raises:
        UsageError: No such release, other artifacts, or nothing was measured.
        IntegrityError: The release is not as published.
    """
    release = select_release(control, model, release)
    opened = open_release(control.repository, control.repository.journal.state().release(model, release))
    path = folder / CARD_FILE
    content = read(path)
    document = parse(content)
    if document.version != SCHEMA_VERSION:
        raise UsageError(f"{path} is of the first schema", remedy=f"First: policyctl card migrate {path}")
    seen, problems = seen_of(control, opened.published)
    for words in problems:
        control.say(f"Left out: {words}")
    there, added = _collected(folder, opened, seen, document.data)
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
        write(folder, text)
    return Cited(path, tuple(there), {s: len(entries) for s, entries in added.items()}, dry_run)


def _collected(
    folder: Path, opened: OpenRelease, seen: Sequence[Seen], data: Mapping[str, Any]
) -> tuple[dict[str, bytes], dict[str, list[dict[str, Any]]]]:
    """The files to put beside the card, and the entries that cite them, by section."""
    there: dict[str, bytes] = {}
    added: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    for each in seen:
        if not each.figures:
            continue
        citation = _citation(opened, each)
        _require_same(folder, citation)
        name = f"{FOLDER}/{each.digest.removeprefix('sha256:')[:16]}.json"
        if any(_cites(entry, name) for section in SECTIONS for entry in data.get(section) or ()):
            continue
        there[name] = canonical_json(citation.to_json())
        for section in SECTIONS:
            entries = each.figures.of(section)
            added[section] += [entry_of(f, file=name, digest=digest_of(there[name])) for f in entries]
    return there, added


def _cites(entry: Any, name: str) -> bool:
    cited = entry.get("evidence") if isinstance(entry, Mapping) else None
    return isinstance(cited, Mapping) and cited.get("file") == name


def _citation(opened: OpenRelease, seen: Seen) -> Citation:
    """Evidence bound to the artifacts that answered; to all where it does not say which did."""
    forms = {str(entry.get("format", "")) for section in SECTIONS for entry in seen.figures.of(section)} - {""}
    known = {Format(form) for form in forms & set(Format)} or set(opened.formats)
    wanted = {path for form in known for path in FILES[form]}
    artifacts = {file.path: file.digest for file in opened.files if file.path in wanted}
    published = opened.published
    return Citation(
        model=published.model,
        release=published.release,
        manifest_digest=published.manifest_digest,
        artifacts=artifacts,
        file=seen.file,
        content=seen.content.decode("utf-8"),
        digest=seen.digest,
    )


def _require_same(folder: Path, citation: Citation) -> None:
    for path, digest in citation.artifacts.items():
        found = hash_file(folder, path).digest if (folder / path).is_file() else "missing"
        if found != digest:
            raise UsageError(
                f"{folder / path} is {found}, that of {citation.model} {citation.release} is {digest}:"
                " what was measured of the one says nothing of the other",
                remedy="Cite a release that holds these very artifacts, or publish first and measure then.",
            )
