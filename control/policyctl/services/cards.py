"""Model cards: written for an export, filled with what was measured, and shown in full.

The card of a release never changes: its manifest covers it. What is measured
later stands in the journal's evidence, and is put beside what the card says
where a card is shown. So every figure of a full card names a file and its
digest; one whose file is missing or was changed is not shown but told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyctl.adapters import bench_store, evidence, files
from policyctl.card import derive, template
from policyctl.card.check import entry_of
from policyctl.card.document import parse
from policyctl.card.figures import SECTIONS, Figures, figures_of
from policyctl.card.migration import newest
from policyctl.card.problems import check_schema
from policyctl.card.schema import SCHEMA_VERSION, Card
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, GOLDEN_FILE, MANIFEST_FILE, PARITY_FILE
from policyctl.domain.journal import RecordKind
from policyctl.domain.manifest import FileEntry, Manifest, digest_of
from policyctl.domain.state import PublishedRelease
from policyctl.errors import IntegrityError, UsageError
from policyctl.hashing import read_plain
from policyctl.services.control import Control, open_release, select_release
from policyctl.services.gc import papers
from policyctl.services.signatures import of_release
from policyctl_benchmarks.result import BenchResult


@dataclass(frozen=True, slots=True)
class Seen:
    """One piece of evidence about a release, intact.

    Attributes:
        file: Below the repository's ``.policyctl``.
        digest: Of `content`.
        kept_in: ``journal``, which has its digest, or ``bench``.
        content: All of it.
        figures: What it supports.
    """

    file: str
    digest: str
    kept_in: str
    content: bytes
    figures: Figures


def init(folder: Path, *, archive: Path | None = None, force: bool = False) -> str:
    """The text of a card for an export: what follows from its files, and examples for what does not.

    Args:
        folder: What was exported.
        archive: The Stable-Baselines3 archive that it was exported from.
        force: Also where there is a card: what it states is kept, what is derived is written anew.

    Raises:
        UsageError: A file is missing or cannot be read, or a card is there.
    """
    contract, golden, parity = (read(folder / name) for name in (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE))
    path, stated = folder / CARD_FILE, {}
    if path.exists():
        if not force:
            raise UsageError(
                f"{path} is there already",
                remedy=f"Edit it, and see what is wrong or missing: policyctl card check {folder}."
                " --force writes it anew: it keeps what is stated, but no comments.",
            )
        stated = dict(newest(parse(read(path))).data)
    derived = derive.sections(contract, golden, parity)
    kept = [e for e in stated.get("behaviour", []) if not _is_derived(e)]
    data = {**stated, **derived, "behaviour": [*derived["behaviour"], *kept]}
    if archive is not None:
        data = _with_archive(data, archive)
    return template.render({key: value for key, value in data.items() if value not in ({}, [], None)})


def _is_derived(entry: Any) -> bool:
    cited = entry.get("evidence") if isinstance(entry, Mapping) else None
    return isinstance(cited, Mapping) and cited.get("file") == GOLDEN_FILE


def _with_archive(data: dict[str, Any], archive: Path) -> dict[str, Any]:
    from policyctl_exporters.training import of_archive

    told = of_archive(archive)
    origin = {"kind": "sb3", "file": archive.name, "digest": digest_of(read(archive))}
    provenance = data.get("provenance") or {}
    source = {**origin, **(provenance.get("source") or {})}
    if source["digest"] != origin["digest"]:
        raise UsageError(
            f"{archive} is {origin['digest']}, the card says that {source['digest']} was exported",
            remedy="Name the archive that this folder was exported from.",
        )
    return {
        **data,
        "training": {**told, **(data.get("training") or {})},
        "provenance": {**provenance, "source": source},
    }


def write(folder: Path, text: str) -> Path:
    """Put a card in its place.

    Raises:
        UsageError: The disk refuses.
    """
    path = folder / CARD_FILE
    replace(path, text)
    return path


def replace(path: Path, text: str) -> None:
    """Replace a file that is not the repository's, as a whole.

    Raises:
        UsageError: The disk refuses, or its folder is not there.
    """
    files.write_atomically(path, text.encode())


def seen_of(control: Control, published: PublishedRelease) -> tuple[tuple[Seen, ...], tuple[str, ...]]:
    """What was measured of a release, and in words which evidence is missing or was changed.

    Args:
        control: The control plane.
        published: The release.
    """
    found: list[Seen] = []
    problems: list[str] = []
    repository = control.repository
    for record in repository.journal.records():
        body = record.body
        if record.kind not in {RecordKind.GATE, RecordKind.MEASURED} or (
            (body["model"], body["release"], body["manifest_digest"])
            != (published.model, published.release, published.manifest_digest)
        ):
            continue
        name, digest = str(body["evidence"]), str(body["evidence_digest"])
        content = evidence.read(repository, name)
        if content is None or digest_of(content) != digest:
            now = "missing" if content is None else digest_of(content)
            problems.append(f"{name} is {now}, the journal says {digest}: its figures are not shown")
        else:
            found.append(Seen(name, digest, "journal", content, figures_of(content)))
    for kept in bench_store.kept(repository, model=published.model):
        try:
            content = kept.read()
            result = BenchResult.from_bytes(content)
        except UsageError as error:
            problems.append(f"{kept.path.name}: {error.problem}: its figures are not shown")
            continue
        if (result.release, result.id, result.fingerprint) == (published.release, kept.id, kept.fingerprint):
            name = str(kept.path.relative_to(repository.control))
            found.append(Seen(name, digest_of(content), "bench", content, figures_of(content)))
    return tuple(found), tuple(problems)


def full(control: Control, *, model: str, release: str) -> Card:
    """The card of a release with everything that was measured since, also of one whose files were collected.

    Args:
        control: The control plane.
        model: Which model.
        release: Selects the release (`State.select`).

    Raises:
        UsageError: No such release, or a card that cannot be read.
        IntegrityError: The release is not as published, or the journal was edited.
    """
    known = _known(control, model, release)
    stated = newest(parse(known.contents[CARD_FILE]))
    card, wrong = check_schema(stated)
    data: dict[str, Any] = dict(stated.data) if card is not None else {"schema_version": SCHEMA_VERSION}
    problems = [f"the published card: {problem.words}" for problem in wrong]
    data.pop("release", None)
    if GOLDEN_FILE in known.contents:
        derived = derive.sections(*(known.contents[name] for name in (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE)))
        kept = [entry for entry in data.get("behaviour", []) if not _is_derived(entry)]
        data |= {**derived, "behaviour": [*derived["behaviour"], *kept]}
    seen, missing = seen_of(control, known.published)
    for section in SECTIONS:
        added = [
            entry_of(figure, file=each.file, digest=each.digest, kept_in=each.kept_in)
            for each in seen
            for figure in each.figures.of(section)
        ]
        if added:
            data[section] = [*data.get(section, []), *added]
    data["release"] = _release(control, known, (*problems, *missing))
    return Card.model_validate(data)


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
    found = state.releases.get((model, release))
    if found is None or not found.collected:
        opened = open_release(repository, state.release(model, select_release(control, model, release)))
        return _Known(opened.published, opened.files, opened.contents)
    folder = papers(repository, model, release)
    content = read_plain(folder / MANIFEST_FILE)
    if digest_of(content) != found.manifest_digest:
        raise _not_as_published(folder / MANIFEST_FILE, digest_of(content), found.manifest_digest)
    manifest = Manifest.from_bytes(content)
    contents = {name: read_plain(folder / name) for name in (CONTRACT_FILE, PARITY_FILE, CARD_FILE)}
    for file in manifest.files:
        if file.path in contents and digest_of(contents[file.path]) != file.digest:
            raise _not_as_published(folder / file.path, digest_of(contents[file.path]), file.digest)
    return _Known(found, manifest.files, contents)


def _signatures(control: Control, published: PublishedRelease) -> list[dict[str, Any]]:
    """Recorded signatures, and what each is worth here; of a collected release that is not judged."""
    state = control.repository.journal.state()
    judged = {} if published.collected else {s.record.name: s for s in of_release(control, state, published)}
    found = []
    for record in state.signatures_of(published.model, published.release):
        entry = {
            "name": record.name,
            "method": record.method.value,
            "key": record.key,
            "since": record.time,
            "evidence": {"file": record.file, "digest": record.digest, "kept_in": "journal"},
        }
        if (worth := judged.get(record.name)) is not None:
            entry["standing"] = worth.standing.value
            if worth.signer:
                entry["signer"] = worth.signer
        found.append(entry)
    return found


def _not_as_published(path: Path, found: str, expected: str) -> IntegrityError:
    return IntegrityError(f"{path} is {found}, expected {expected}", remedy="Restore the file from a copy.")


def _release(control: Control, opened: _Known, problems: tuple[str, ...]) -> dict[str, Any]:
    published = opened.published
    gates: dict[str, dict[str, Any]] = {}
    for record in control.repository.journal.records():
        body = record.body
        if record.kind is RecordKind.GATE and body["manifest_digest"] == published.manifest_digest:
            gates[str(body["gate"])] = {
                "gate": body["gate"],
                "verdict": body["verdict"],
                "time": record.time,
                "evidence": {"file": body["evidence"], "digest": body["evidence_digest"], "kept_in": "journal"},
            }
    found: dict[str, Any] = {
        "model": published.model,
        "release": published.release,
        "slot": published.slot,
        "manifest_digest": published.manifest_digest,
        "published": published.time,
        "by": published.actor,
        "files": [{"path": f.path, "size_bytes": f.size_bytes, "digest": f.digest} for f in opened.files],
    }
    if gates:
        found["gates"] = [gates[name] for name in sorted(gates)]
    if signed := _signatures(control, published):
        found["signatures"] = signed
    if problems:
        found["problems"] = list(problems)
    return found


def read(path: Path) -> bytes:
    """The content of a file of an export.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror})",
            remedy="Name a folder that `policyctl export` wrote.",
        ) from error
