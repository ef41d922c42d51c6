"""Hold a published card against the files of its release: contract, parity, golden set, and the evidence it cites.

A figure counts only if the evidence that it names is a file of the release with
that very digest, speaks of these very artifacts, and gives that very figure, up
to the digits that are stated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from policyctl.card import derive
from policyctl.card.document import Document, Path, Problem, parse
from policyctl.card.figures import SECTIONS, Citation, Entry, figures_of
from policyctl.card.migration import newest
from policyctl.card.problems import check_schema
from policyctl.card.schema import RECOMMENDED, Card
from policyctl.domain.artifacts import CONTRACT_FILE, FILES, GOLDEN_FILE, PARITY_FILE, Format
from policyctl.domain.manifest import digest_of

_CLOSE: Final = 1e-5
"""Relative; one in the sixth digit, which another processor may round the other way."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a release, or of a folder that will be one.

    Attributes:
        read: The content of one; None where there is no such file.
        digest: Of one; None where there is no such file.
    """

    read: Callable[[str], bytes | None]
    digest: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        card: The card in the newest schema; None where it is not one.
        version: The schema that it was written in.
        problems: Everything that is wrong, by line.
        missing: Recommended sections that it lacks.
    """

    card: Card | None
    version: int
    problems: tuple[Problem, ...]
    missing: tuple[str, ...]


def check(content: bytes, files: Files | None = None) -> Checked:
    """Everything that is wrong with a card.

    A card of the first, loose schema is migrated; it states no figures, so only
    what no card may hold is a problem of it.

    Args:
        content: The card.
        files: Of its release; None to hold it against the schema alone.

    Raises:
        UsageError: It is no card at all, or of a newer schema.
    """
    document = parse(content)
    version = document.version
    current = newest(document)
    card, problems = check_schema(current)
    if card is not None and version > 1:
        problems = (*problems, *_published(current, card))
        if files is not None:
            problems = (*problems, *_against(current, files))
    return Checked(card, version, tuple(sorted(set(problems))), _missing(current.data))


def _missing(data: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in RECOMMENDED if not data.get(name))


def _published(document: Document, card: Card) -> list[Problem]:
    """What only a full card has."""
    found = []
    if card.release is not None:
        path: Path = ("release",)
        found.append(document.problem(path, None, "nothing: it is written where a card is shown"))
    for section in SECTIONS:
        for index, entry in enumerate(getattr(card, section)):
            if entry.evidence.kept_in != "release":
                where = (section, index, "evidence", "kept_in")
                found.append(document.problem(where, entry.evidence.kept_in, "release: a card cites files beside it"))
    return found


def _against(document: Document, files: Files) -> list[Problem]:
    contract, golden, parity = (files.read(name) for name in (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE))
    if contract is None or golden is None or parity is None:
        return []
    derived = derive.sections(contract, golden, parity)
    found = []
    for section, source in (("contract", CONTRACT_FILE), ("parity", PARITY_FILE)):
        if section in document.data:
            stated = document.data[section]
            found += _differences(document, (section,), stated, derived.get(section, {}), source)
    for section in SECTIONS:
        for index, entry in enumerate(document.data.get(section, [])):
            found += _figure(document, (section, index), entry, files, derived)
    return found


def _figure(
    document: Document, path: Path, entry: Mapping[str, Any], files: Files, derived: Mapping[str, Any]
) -> list[Problem]:
    """What is wrong with one figure and its evidence."""
    section, cited = str(path[0]), entry["evidence"]
    name, here = cited["file"], (*path, "evidence")
    found = files.digest(name)
    if found is None:
        return [document.problem((*here, "file"), name, "a file of the release")]
    if found != cited["digest"]:
        return [document.problem((*here, "digest"), cited["digest"], f"{found}, which is the digest of {name}")]
    if name == GOLDEN_FILE:
        supported = tuple(derived["behaviour"]) if section == "behaviour" else ()
    else:
        citation = Citation.from_bytes(files.read(name) or b"")
        content = b"" if citation is None else citation.content.encode("utf-8", "surrogatepass")
        if citation is None or digest_of(content) != citation.digest:
            return [document.problem((*here, "file"), name, "evidence that `policyctl card cite` wrote")]
        if other := _other_artifacts(citation, str(entry.get("format", "")), files):
            words = f"evidence of these artifacts; it is of {citation.model} {citation.release}, whose {other} differs"
            return [document.problem((*here, "file"), name, words)]
        figures = figures_of(content)
        told = (figures.model, figures.release) == (citation.model, citation.release)
        supported = figures.of(section) if told else ()
    stated = {key: value for key, value in entry.items() if key != "evidence"}
    if not supported:
        return [document.problem((*here, "file"), name, f"evidence that supports a figure of {section}")]
    return min((_differences(document, path, stated, each, name) for each in supported), key=len)


def _other_artifacts(citation: Citation, form: str, files: Files) -> str:
    """The first artifact that was measured and is not of this release; empty where all are."""
    answered = FILES[Format(form)] if form in set(Format) else ()
    if not citation.artifacts or not citation.artifacts.keys() >= set(answered):
        return "list of artifacts"
    return next((path for path, digest in citation.artifacts.items() if files.digest(path) != digest), "")


def _differences(document: Document, path: Path, stated: Any, found: Any, source: str) -> list[Problem]:
    """Every stated value that is not what was found."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        told = []
        for key, value in stated.items():
            if key in found:
                told += _differences(document, (*path, key), value, found[key], source)
            elif value is not None and (key, value) != ("pairs", 0):
                told.append(document.problem((*path, key), value, f"nothing: {source} does not tell"))
        return told
    if isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        return [
            problem
            for index, (one, other) in enumerate(zip(stated, found, strict=True))
            for problem in _differences(document, (*path, index), one, other, source)
        ]
    if agrees(stated, found):
        return []
    return [document.problem(path, stated, f"{found!r}, which {source} says")]


def agrees(stated: Any, found: Any) -> bool:
    """Whether a stated value is the one that was found, up to the digits that are stated."""
    numbers = (int, float)
    if isinstance(stated, bool) or isinstance(found, bool) or not isinstance(stated, numbers):
        return type(stated) is type(found) and bool(stated == found)
    if not isinstance(found, numbers):
        return False
    if isinstance(found, int):
        return stated == found
    if math.isclose(stated, found, rel_tol=_CLOSE, abs_tol=1e-12):
        return True
    exponent = Decimal(repr(stated)).as_tuple().exponent
    digits = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    return digits > 0 and round(found, digits) == stated


def entry_of(figure: Entry, *, file: str, digest: str, kept_in: str = "release") -> Entry:
    """A figure as a card states it, with its evidence."""
    evidence = {"file": file, "digest": digest}
    return {**figure, "evidence": evidence if kept_in == "release" else {**evidence, "kept_in": kept_in}}
