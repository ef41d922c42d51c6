"""Hold a model card against its schema, the files of its release, and the journal."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from policyctl.card.check import Checked, Files, check
from policyctl.card.reading import require
from policyctl.domain.artifacts import CARD_FILE, CONTRACT_FILE
from policyctl.domain.manifest import digest_of
from policyctl.errors import IntegrityError
from policyctl.hashing import hash_file
from policyctl.services.cards.draft import read
from policyctl.services.control import Control, OpenRelease, open_release, select_release


def require_card(folder: Path) -> None:
    """Refuse a folder whose model card is wrong; names every field that is.

    Raises:
        UsageError: It is.
    """
    require(
        check_folder(folder).problems,
        f"{folder / CARD_FILE}",
        remedy=f"Correct it: policyctl card check {folder}. Figures are written by policyctl card cite, not by hand.",
    )


def check_folder(folder: Path) -> Checked:
    """The card of a folder that will be published, against its schema and the folder's files.

    Raises:
        UsageError: There is no card that can be read.
    """
    return check(read(folder / CARD_FILE), _files_of(folder))


def check_file(path: Path) -> Checked:
    """A card in a file: against the files next to it where it lies in an export, else against its schema alone.

    Raises:
        UsageError: It cannot be read.
    """
    if path.name == CARD_FILE and (path.parent / CONTRACT_FILE).is_file():
        return check_folder(path.parent)
    return check(read(path))


def check_release(control: Control, *, model: str, release: str) -> Checked:
    """The card of a published release, against its schema and the release's files.

    Raises:
        UsageError: No such release, or a card that cannot be read.
        IntegrityError: The release is not as published.
    """
    release = select_release(control, model, release)
    published = control.repository.journal.state().release(model, release)
    opened = open_release(control.repository, published)
    return check(opened.contents[CARD_FILE], files_of(control, opened))


def files_of(control: Control, opened: OpenRelease) -> Files:
    """The files of a release that was verified; what changes afterwards is not read."""
    digests = {file.path: file.digest for file in opened.files}
    folder = control.repository.slot(opened.published.model, opened.published.slot)

    def content(name: str) -> bytes | None:
        if name in opened.contents or name not in digests:
            return opened.contents.get(name)
        now = read(folder / name)
        return now if digest_of(now) == digests[name] else None

    return Files(content, digests.get)


def _files_of(folder: Path) -> Files:
    @cache
    def digest(name: str) -> str | None:
        try:
            return hash_file(folder, name).digest
        except IntegrityError:
            return None

    return Files(lambda name: read(folder / name) if (folder / name).is_file() else None, digest)
