"""An exported folder: whole or refused, and its contract."""

from __future__ import annotations

import json
from pathlib import Path

from policyctl.domain.artifacts import CONTRACT_FILE, FILES, GOLDEN_FILE, MANIFEST_FILE, REQUIRED, Format
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.errors import UsageError
from policyctl.plain_files import DOCUMENT_BYTES, read_plain, unreadable
from policyctl.release_files import list_files
from policyctl.services.cards.check import require_card


def check_export(folder: Path) -> tuple[Format, ...]:
    """Refuse a folder that is not a whole export.

    Returns:
        The formats it holds.

    Raises:
        UsageError: A required file is missing or unreadable, no artifact is there, or
            the model card is wrong: every field of it that is.
        IntegrityError: A link, a device or a hidden file.
    """
    try:
        there = folder.is_dir()
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not there:
        raise UsageError(
            f"{folder} is not a folder",
            remedy="Name the folder that was exported: policyctl export POLICY -o DIR",
        )
    paths = set(list_files(folder))
    if missing := [name for name in REQUIRED if name not in paths]:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}",
            remedy="Name a folder that `policyctl export` wrote; it holds artifacts, contract, golden set,"
            " parity and model card. A card alone: policyctl card init DIR.",
        )
    if MANIFEST_FILE in paths:
        raise UsageError(
            f"{folder} holds a {MANIFEST_FILE}: that is written by publish alone",
            remedy="Name the folder that policyctl export wrote. A release from another repository comes by"
            " policyctl release export and release import.",
        )
    formats = tuple(f for f in Format if paths.issuperset(FILES[f]))
    if not formats:
        wanted = "; ".join(f"{f}: {' and '.join(FILES[f])}" for f in Format)
        raise UsageError(f"{folder} holds no artifact", remedy=f"It needs one of: {wanted}.")
    Golden.from_bytes(_read(folder / GOLDEN_FILE), read_contract(folder))
    require_card(folder)
    return formats


def read_contract(folder: Path) -> Contract:
    """The contract of the export in `folder`.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        document = json.loads(_read(folder / CONTRACT_FILE))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{folder / CONTRACT_FILE}: not JSON ({error})") from error
    return Contract.from_json(document)


def _read(path: Path) -> bytes:
    try:
        return read_plain(path, most_bytes=DOCUMENT_BYTES, follow_links=True)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageError:
    return unreadable(path, error, remedy="Check that it is there.")
