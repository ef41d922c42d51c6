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
from policyctl.card.figures import SECTIONS, Citation, Entry, Measured, figures_of
from policyctl.card.reading import check_schema, parse
from policyctl.card.schema import RECOMMENDED, Card
from policyctl.documents.document import Document, Path, Problem
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
        card: The card; None where it does not follow the schema.
        missing: Recommended sections that it lacks.
    """

    card: Card | None
    problems: tuple[Problem, ...]
    missing: tuple[str, ...]


def check(content: bytes, files: Files | None = None) -> Checked:
    """Everything that is wrong with a card.

    Args:
        files: Of its release; None to hold it against the schema alone.

    Raises:
        UsageError: It is not a card, or of an unknown schema.
    """
    document = parse(content)
    card, problems = check_schema(document)
    if card is not None:
        problems = (*problems, *_published(document, card))
        if files is not None:
            problems = (*problems, *_against(document, files))
    missing = tuple(name for name in RECOMMENDED if not document.data.get(name))
    return Checked(card, tuple(sorted(set(problems))), missing)


def _published(document: Document, card: Card) -> list[Problem]:
    """What only a full card has."""
    problems = []
    if card.release is not None:
        path: Path = ("release",)
        problems.append(document.problem(path, None, "nothing: it is written where a card is shown"))
    for section in SECTIONS:
        for index, entry in enumerate(getattr(card, section)):
            if entry.evidence.kept_in != "release":
                where = (section, index, "evidence", "kept_in")
                problems.append(
                    document.problem(where, entry.evidence.kept_in, "release: a card cites files next to it")
                )
    return problems


def _against(document: Document, files: Files) -> list[Problem]:
    contract, golden, parity = (files.read(name) for name in (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE))
    if contract is None or golden is None or parity is None:
        return []
    derived = derive.sections(contract, golden, parity)
    problems = []
    for section, source in (("contract", CONTRACT_FILE), ("parity", PARITY_FILE)):
        if section in document.data:
            stated = document.data[section]
            problems += _differences(document, (section,), stated, derived.get(section, {}), source)
    for section in SECTIONS:
        for index, entry in enumerate(document.data.get(section, [])):
            problems += _figure(document, (section, index), entry, files, derived)
    return problems


def _figure(
    document: Document, path: Path, entry: Mapping[str, Any], files: Files, derived: Mapping[str, Any]
) -> list[Problem]:
    """What is wrong with one figure and its evidence."""
    section, cited = str(path[0]), entry["evidence"]
    name, here = cited["file"], (*path, "evidence")
    digest = files.digest(name)
    if digest is None:
        return [document.problem((*here, "file"), name, "a file of the release")]
    if digest != cited["digest"]:
        return [document.problem((*here, "digest"), cited["digest"], f"{digest}, which is the digest of {name}")]
    if name == GOLDEN_FILE:
        supported = tuple(derived["behaviour"]) if section == "behaviour" else ()
    else:
        citation = Citation.from_bytes(files.read(name) or b"")
        content = b"" if citation is None else citation.content.encode("utf-8", "surrogatepass")
        if citation is None or digest_of(content) != citation.digest:
            return [document.problem((*here, "file"), name, "evidence that `policyctl card cite` wrote")]
        about = citation.about
        if other := _other_artifacts(about, str(entry.get("format", "")), files):
            sentence = f"evidence of these artifacts; it is of {about.model} {about.release}, whose {other} differs"
            return [document.problem((*here, "file"), name, sentence)]
        figures = figures_of(content)
        supported = figures.of(section) if (figures.model, figures.release) == (about.model, about.release) else ()
    stated = {key: value for key, value in entry.items() if key != "evidence"}
    if not supported:
        return [document.problem((*here, "file"), name, f"evidence that supports a figure of {section}")]
    return min((_differences(document, path, stated, each, name) for each in supported), key=len)


def _other_artifacts(about: Measured, form: str, files: Files) -> str:
    """The first artifact that was measured and is not of this release; empty where all are."""
    answered = FILES[Format(form)] if form in set(Format) else ()
    if not about.artifacts or not about.artifacts.keys() >= set(answered):
        return "list of artifacts"
    return next((path for path, digest in about.artifacts.items() if files.digest(path) != digest), "")


def _differences(document: Document, path: Path, stated: Any, derived: Any, source: str) -> list[Problem]:
    """Every stated value that is not what the files say."""
    if isinstance(stated, Mapping) and isinstance(derived, Mapping):
        problems = []
        for key, value in stated.items():
            if key in derived:
                problems += _differences(document, (*path, key), value, derived[key], source)
            elif value is not None and (key, value) != ("pairs", 0):
                problems.append(document.problem((*path, key), value, f"nothing: {source} does not say it"))
        return problems
    if isinstance(stated, list) and isinstance(derived, list) and len(stated) == len(derived):
        pairs = enumerate(zip(stated, derived, strict=True))
        return [p for index, (one, other) in pairs for p in _differences(document, (*path, index), one, other, source)]
    return [] if agrees(stated, derived) else [document.problem(path, stated, f"{derived!r}, which {source} says")]


def agrees(stated: Any, derived: Any) -> bool:
    """Whether a stated value is the one that was derived, up to the digits that are stated."""
    numbers = (int, float)
    if isinstance(stated, bool) or isinstance(derived, bool) or not isinstance(stated, numbers):
        return type(stated) is type(derived) and bool(stated == derived)
    if not isinstance(derived, numbers):
        return False
    if isinstance(derived, int):
        return stated == derived
    if math.isclose(stated, derived, rel_tol=_CLOSE, abs_tol=1e-12):
        return True
    exponent = Decimal(repr(stated)).as_tuple().exponent
    digits = -exponent if isinstance(exponent, int) and exponent < 0 else 0
    return digits > 0 and round(derived, digits) == stated


def entry_of(figure: Entry, *, file: str, digest: str, kept_in: str = "release") -> Entry:
    """A figure as a card states it, with its evidence."""
    evidence = {"file": file, "digest": digest}
    return {**figure, "evidence": evidence if kept_in == "release" else {**evidence, "kept_in": kept_in}}
