"""Collect: remove the files of releases that nothing needs any more.

What is removed is the slot, that is, the artifacts: nearly all of the bytes.
What is kept for ever is what answers questions about the past: the journal, the
evidence of the gates, signatures, and the release's papers (manifest, contract,
model card, parity report) under ``.policyctl/collected``. Its slot number and
its release number are never used again. An export brings the files back into
the very same slot, if they hash to the very same manifest.

The journal says that a release is collected before the first file goes, so a
crash leaves a folder that no release needs, which the next gc removes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.adapters.papers import PAPERS, papers
from policyctl.adapters.repository import Repository
from policyctl.domain.journal import RecordKind
from policyctl.domain.names import split_served_name
from policyctl.domain.retention import CollectionPlan, ReleaseKey, RetainedRelease, RetentionPolicy, plan
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import IntegrityError, ServerError
from policyctl.integrity import read_file
from policyctl.plain_files import refuse_if_denied, walk
from policyctl.services.control import Control, operation

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What gc did, or would do.

    Attributes:
        collect: Whose files were removed, or would be.
        leftovers: Folders that an earlier gc, a crash or an import left, removed too.
        freed_bytes: What the file system gets back; files that another release shares are not counted.
        deleted: False for a dry run.
    """

    keep: tuple[RetainedRelease, ...]
    collect: tuple[PublishedRelease, ...]
    leftovers: tuple[str, ...]
    freed_bytes: int
    deleted: bool

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "deleted": self.deleted,
            "freed_bytes": self.freed_bytes,
            "collect": [_release_json(r) for r in self.collect],
            "keep": [{**_release_json(k.release), "reasons": list(k.reasons)} for k in self.keep],
            "leftovers": list(self.leftovers),
        }


@operation("gc")
def gc(
    control: Control,
    *,
    model: str | None = None,
    policy: RetentionPolicy | None = None,
    delete: bool = False,
    only: Callable[[ReleaseKey], bool] | None = None,
) -> Collected:
    """Remove the files of releases that nothing needs.

    Args:
        policy: What to keep; None for the settings'.
        delete: Really remove; else only say what would be.
        only: Which releases may go where nothing needs them, asked under the lock, and nothing else goes; None for
            all.

    Raises:
        UsageError: No such model, nothing published, or the disk refuses.
        IntegrityError: The journal was tampered with.
        BusyError: Another writer is at work.
    """
    repository = control.repository
    control.known(model)
    kept = control.settings.retention
    chosen = policy or RetentionPolicy(rollbacks=kept.rollbacks, days=kept.days, newest=kept.newest)
    if not delete:
        return _collected(control, _plan(control, chosen, model, only), model, chosen, deleted=False)
    repository.create()
    with repository.writer("gc", wait_s=control.settings.lock_wait_s):
        repository.journal.set_torn_tail_aside()
        done = _collected(control, _plan(control, chosen, model, only), model, chosen, deleted=True)
        for name in done.leftovers if only is None else ():
            with files.storing(repository.root / name):
                files.remove_tree(repository.root / name)
        for release in done.collect:
            _collect(repository, release)
    return done


def _plan(
    control: Control, policy: RetentionPolicy, model: str | None, only: Callable[[ReleaseKey], bool] | None
) -> CollectionPlan:
    records = control.repository.journal.records()
    state = control.repository.journal.state()
    held = {**_on_disk(control.repository, state), **_in_server(control, state)}
    found = plan(records, now=datetime.now(UTC), policy=policy, held=held, model=model)
    if only is None:
        return found
    return replace(found, collect=tuple(r for r in found.collect if only((r.model, r.release))))


def _on_disk(repository: Repository, state: State) -> dict[ReleaseKey, str]:
    """What the folder of an alias or of a candidate holds."""
    found = {}
    for folder in (p for p in files.entries(repository.root) if "." in p.name and p.is_dir()):
        model, _ = split_served_name(folder.name)
        slots = state.slots(model)
        held = (slots[p.name] for p in files.entries(folder) if p.name in slots)
        found.update({(model, release): f"{folder.name} holds it" for release in held})
    return found


def _in_server(control: Control, state: State) -> dict[ReleaseKey, str]:
    """What a running server has loaded."""
    found = {}
    with suppress(ServerError), control.triton() as client:
        for served in client.index():
            model, _ = split_served_name(served.name)
            release = state.slots(model).get(str(served.slot))
            if release is not None:
                found[model, release] = f"the server has it loaded as {served.name}"
    return found


def _collected(
    control: Control, found: CollectionPlan, model: str | None, policy: RetentionPolicy, *, deleted: bool
) -> Collected:
    repository = control.repository
    left = _leftovers(repository, repository.journal.state(), model, older_than_s=policy.days * _DAY_S)
    gone = [repository.slot(r.model, r.slot) for r in found.collect] + left
    names = tuple(str(path.relative_to(repository.root)) for path in left)
    return Collected(found.keep, found.collect, names, _freed(gone), deleted)


def _leftovers(repository: Repository, state: State, model: str | None, *, older_than_s: float) -> list[Path]:
    """Slots whose release was collected already; and slots and downloads set aside too long ago."""
    slots = [repository.slot(r.model, r.slot) for r in state.releases.values() if r.collected]
    mine = [path for path in slots if path.is_dir() and model in {None, path.parent.name}]
    aside = [p for kind in ("orphans", "imports") for p in sorted((repository.control / kind).glob("*"))]
    old = [p for p in aside if time.time() - p.lstat().st_mtime > older_than_s]
    return mine + (old if model is None else [])


def _freed(folders: list[Path]) -> int:
    """Bytes of the files that have no name outside `folders`."""
    names: Counter[tuple[int, int]] = Counter()
    seen = {}
    found = (entry for folder in folders for entry in walk(folder, on_error=refuse_if_denied))
    for entry in (each for each in found if each.is_file(follow_symlinks=False)):
        status = entry.stat(follow_symlinks=False)
        names[status.st_dev, status.st_ino] += 1
        seen[status.st_dev, status.st_ino] = (status.st_nlink, status.st_size)
    return sum(size for inode, (links, size) in seen.items() if names[inode] >= links)


def _collect(repository: Repository, release: PublishedRelease) -> None:
    _keep_papers(repository, release)
    body = {
        "model": release.model,
        "release": release.release,
        "slot": release.slot,
        "manifest_digest": release.manifest_digest,
    }
    repository.journal.append(RecordKind.COLLECTED, body)
    repository.take_back_slot(release.model, release.slot)


def _keep_papers(repository: Repository, release: PublishedRelease) -> None:
    folder = papers(repository, release.model, release.release)
    with files.storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in PAPERS:
        with suppress(IntegrityError):  # what is not there, or no plain file, cannot be kept
            content = read_file(repository.slot(release.model, release.slot) / name)
            repository.write(folder / name, content, mode=0o444)


def _release_json(release: PublishedRelease) -> dict[str, Any]:
    return {
        "model": release.model,
        "release": release.release,
        "slot": release.slot,
        "published": release.time,
        "manifest_digest": release.manifest_digest,
    }
