"""Write the card of an export: what follows from its files, what its author stated, and examples for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policyctl.card import derive, template
from policyctl.card.reading import parse
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE
from policyctl.errors import UsageError
from policyctl.plain_files import DOCUMENT_BYTES, read_plain, unreadable


def draft(folder: Path, *, archive: Path | None = None, force: bool = False) -> str:
    """The text of a card for an export: what follows from its files, and examples for what does not.

    Args:
        force: Also where there is a card: what it states is kept, what is derived is written again.

    Raises:
        UsageError: A file is missing or cannot be read, or a card exists.
    """
    contract, golden, parity = (read(folder / name) for name in (CONTRACT_FILE, GOLDEN_FILE, PARITY_FILE))
    path, stated = folder / CARD_FILE, dict[str, Any]()
    if path.exists():
        if not force:
            raise UsageError(
                f"{path} exists already",
                remedy=f"Edit it, and see what is wrong or missing: policyctl card check {folder}."
                " --force writes it again: it keeps what is stated, but no comments.",
            )
        stated = parse(read(path)).data
    data = with_derived(stated, derive.sections(contract, golden, parity))
    if archive is not None:
        data = _with_archive(data, archive)
    return template.render({key: value for key, value in data.items() if value not in ({}, [], None)})


def with_derived(stated: Mapping[str, Any], derived: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a card with those that follow from files in place of what it states there."""
    kept = [entry for entry in stated.get("behaviour", []) if not cites(entry, GOLDEN_FILE)]
    return {**stated, **derived, "behaviour": [*derived["behaviour"], *kept]}


def cites(entry: Any, file: str) -> bool:
    """Whether an entry of a card names `file` as its evidence."""
    evidence = entry.get("evidence") if isinstance(entry, Mapping) else None
    return isinstance(evidence, Mapping) and evidence.get("file") == file


def _with_archive(data: dict[str, Any], archive: Path) -> dict[str, Any]:
    from policyctl_exporters.archive_file import of_archive, open_archive

    with open_archive(archive) as opened:
        trained = of_archive(opened)
        origin = {"kind": "sb3", "file": opened.name, "digest": opened.digest}
    provenance = data.get("provenance") or {}
    source = {**origin, **(provenance.get("source") or {})}
    if source["digest"] != origin["digest"]:
        raise UsageError(
            f"{archive} is {origin['digest']}, the card says that {source['digest']} was exported",
            remedy="Name the archive that this folder was exported from.",
        )
    return {
        **data,
        "training": {**trained, **(data.get("training") or {})},
        "provenance": {**provenance, "source": source},
    }


def read(path: Path) -> bytes:
    """The content of a card, or of a file of an export.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return read_plain(path, most_bytes=DOCUMENT_BYTES, follow_links=True)
    except OSError as error:
        remedy = "Name a folder that `policyctl export` wrote, a card's file, or a model and its release."
        raise unreadable(path, error, remedy=remedy) from error
