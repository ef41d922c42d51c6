"""Repair: rebuild from the journal and the manifests what can be rebuilt, and say what cannot.

The journal holds every configuration, and pins every manifest; a manifest pins
every file. So a configuration is written again, a manifest follows from its
files, an alias's folder from its slot, and a file from any intact copy of the
same digest: in another release, in what was set aside, in a folder or registry
that is named. What nothing holds a copy of is said, with what to do.

A damaged slot is never mended in place: a whole one is staged and verified, and
takes its place; the damaged one is set aside, so nothing is lost by repairing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from policyctl.adapters import files
from policyctl.adapters.repository import CONFIG, Repository
from policyctl.adapters.sharing import is_intact, share
from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.journal import RecordKind
from policyctl.domain.manifest import FileEntry, Manifest
from policyctl.domain.names import PRODUCTION, served_name
from policyctl.domain.state import AliasState, PublishedRelease, State
from policyctl.errors import IntegrityError, PolicyctlError
from policyctl.integrity import CheckedRelease, check_releases, read_release
from policyctl.plain_files import open_reader
from policyctl.services.control import Control, operation
from policyctl.services.integrity.verify import Finding, verify
from policyctl.services.releases.copies import Copies


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is not as published, and what is done about it.

    Attributes:
        what: ``walker 1.0.0 (slot 1)``, ``walker/config.pbtxt``, ...
        possible: Whether it can be rebuilt here and now.
        words: How, or why not and what to do.
    """

    what: str
    possible: bool
    words: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """What repair did, or would do.

    Attributes:
        left: What is still not intact; empty for a dry run.
    """

    dry_run: bool
    steps: tuple[Step, ...]
    left: tuple[Finding, ...] = ()


@operation("repair")
def repair(
    control: Control, *, model: str | None = None, sources: Sequence[str] = (), dry_run: bool = False
) -> Repaired:
    """Rebuild what can be rebuilt.

    Args:
        sources: Where intact copies may be outside the repository: folders and ``oci://HOST/NAME:TAG``.

    Raises:
        IntegrityError: The journal is not intact, and nothing can be decided without it.
        UsageError: No such model or source, nothing published, or the disk refuses.
        BusyError: Another writer is at work.
    """
    repository = control.repository
    control.known(model)
    if dry_run:
        return Repaired(True, _Repairer(control, model, sources, dry_run=True).run())
    repository.create()
    with repository.writer("repair", wait_s=control.settings.lock_wait_s):
        repository.journal.set_torn_tail_aside()
        steps = _Repairer(control, model, sources, dry_run=False).run()
    return Repaired(False, steps, tuple(f for f in verify(control, model=model) if not f.intact))


class _Repairer:
    """One run; the caller holds the writer lock, or only looks."""

    def __init__(self, control: Control, model: str | None, sources: Sequence[str], *, dry_run: bool) -> None:
        self.control, self.model, self.dry_run = control, model, dry_run
        self.repository: Repository = control.repository
        self.state: State = self.repository.journal.state()
        self.copies = Copies(control, self.state, sources)
        self.steps: list[Step] = []

    def run(self) -> tuple[Step, ...]:
        known = self._mine()
        releases = [r for r in known if not r.collected]
        wanted = [(self.repository.slot(r.model, r.slot), r.manifest_digest) for r in releases]
        for release, checked in zip(releases, check_releases(wanted), strict=True):
            if not checked.intact:
                self._release(release, checked)
        for model in sorted({r.model for r in known}):
            self._leftovers(model)
        for (owner, alias), named in sorted(self.state.aliases.items()):
            if self.model in {None, owner}:
                self._alias(owner, alias, named)
        self._evidence()
        return tuple(self.steps)

    def _mine(self) -> list[PublishedRelease]:
        found = (r for r in self.state.releases.values() if self.model in {None, r.model})
        return sorted(found, key=lambda r: (r.model, r.slot))

    def _step(self, what: str, words: str, act: Callable[[], None], **body: Any) -> None:
        if not self.dry_run:
            act()
            self.repository.journal.append(RecordKind.REPAIRED, {**body, "what": what, "done": words})
        self.steps.append(Step(what, True, words))

    def _cannot(self, what: str, words: str) -> None:
        self.steps.append(Step(what, False, words))

    def _release(self, release: PublishedRelease, checked: CheckedRelease) -> None:
        what = f"{release.model} {release.release} (slot {release.slot})"
        manifest = checked.manifest or self.copies.manifest(release)
        if manifest is None:
            self._cannot(
                what,
                f"{MANIFEST_FILE} ({release.manifest_digest}) is nowhere, and does not follow from the files that are"
                " left. Name a folder or registry that holds the release: policyctl repair --from SRC",
            )
            return
        whole = {f.path for f in manifest.files if is_intact((checked.folder, f.path), f)}
        lacking = [f for f in manifest.files if f.path not in whole]
        nowhere = [f for f in lacking if self.copies.find(f, None) is None]
        if nowhere:
            self._cannot(what, _nowhere(release, nowhere))
            return
        fetched = ", ".join(f.path for f in lacking) or "no file"
        words = f"rebuilt: {fetched} from intact copies; the damaged slot is set aside in .policyctl/orphans"
        self._step(
            what, words, lambda: self._rebuild(release, manifest, whole), model=release.model, release=release.release
        )

    def _rebuild(self, release: PublishedRelease, manifest: Manifest, whole: set[str]) -> None:
        repository, slot = self.repository, self.repository.slot(release.model, release.slot)
        with repository.staging() as folder:
            staged, scratch = folder / "slot", folder / "fetched"
            scratch.mkdir()
            for entry in manifest.files:
                target = staged / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                source = slot / entry.path if entry.path in whole else self.copies.find(entry, scratch)
                if source is None:
                    raise IntegrityError(f"{entry.path} ({entry.digest}) is nowhere any more")
                with open_reader(source, most_bytes=entry.size_bytes) as reader:
                    files.copy_durably(reader, target, most_bytes=entry.size_bytes)
            files.write_atomically(staged / MANIFEST_FILE, manifest.to_bytes(), mode=0o444)
            read_release(staged, expected_digest=release.manifest_digest)
            share(repository, self.state, staged, manifest, from_bytes=self.control.settings.storage.share_from_bytes)
            aside = repository.set_aside(slot, f"{release.model}-{release.slot}-damaged-{secrets.token_hex(4)}")
            try:
                repository.commit_slot(staged, release.model, release.slot)
            except PolicyctlError:
                with suppress(OSError):  # what was damaged is better than nothing
                    for path in aside:
                        path.rename(slot)
                raise

    def _leftovers(self, model: str) -> None:
        known = {r.slot: r for r in self.state.of_model(model)}
        folder = self.repository.root / model
        for path in files.entries(folder):
            if not path.name.isdigit():
                continue
            release = known.get(int(path.name))
            if release is None:
                words = "no record names it: set aside in .policyctl/orphans"
                self._step(f"{model}/{path.name}", words, partial(self._set_aside, path), model=model)
            elif release.collected:
                words = f"what a gc left of {release.release} is removed"
                act = partial(self.repository.take_back_slot, model, release.slot)
                self._step(f"{model}/{path.name}", words, act, model=model)

    def _set_aside(self, path: Path) -> None:
        self.repository.set_aside(path, f"{path.parent.name}-{path.name}-{secrets.token_hex(4)}")

    def _alias(self, model: str, alias: str, named: AliasState) -> None:
        served, placement = served_name(model, alias), named.placement
        if self.state.moving(model, alias) is not None:
            self._cannot(
                served,
                "a move is not finished: start the server, or repeat the move, which settles it; then repair again",
            )
            return
        if not self.repository.is_configured(served, placement.config):
            words = "written again from the journal"
            self._step(f"{served}/{CONFIG}", words, lambda: self._configure(served, placement.config), model=model)
        if alias == PRODUCTION:
            return
        slot = self.repository.slot(model, placement.slot)
        copy = self.repository.served_slot(served, placement.slot)
        own, theirs = check_releases([(slot, placement.manifest_digest), (copy, placement.manifest_digest)])
        if theirs.intact and (not own.intact or self.repository.shares_slot(served, placement.slot)):
            return
        what = f"{served} slot {placement.slot}"
        if own.intact or (self.dry_run and self._will_be_rebuilt(model, placement.slot)):
            self._step(
                what, "linked again from its slot", lambda: self.repository.place(served, placement.slot), model=model
            )
        else:
            self._cannot(what, "its slot is not intact: rebuild that first (see above)")

    def _will_be_rebuilt(self, model: str, slot: int) -> bool:
        return any(
            s.possible and s.what.startswith(f"{model} ") and s.what.endswith(f"(slot {slot})") for s in self.steps
        )

    def _configure(self, served: str, text: str) -> None:
        path = self.repository.config(served)
        if path.is_symlink() or path.is_dir():
            files.remove_tree(path)
        self.repository.configure(served, text)

    def _evidence(self) -> None:
        for record in self.repository.journal.records():
            if record.kind not in {RecordKind.GATE, RecordKind.MEASURED} or self.model not in {
                None,
                record.body["model"],
            }:
                continue
            body = record.body
            name = str(body["evidence"])
            if self.repository.digest(name) == body["evidence_digest"]:
                continue
            what, again = f"what {body.get('what')} saw", "measure again"
            if record.kind is RecordKind.GATE:
                what = f"what the gate {body['gate']} saw"
                again = f"judge again: policyctl validate {body['model']} {body['release']}"
            self._cannot(
                name,
                f"{what} cannot be rebuilt. Restore .policyctl/{name} from a copy ({body['evidence_digest']});"
                f" or {again}",
            )


def _nowhere(release: PublishedRelease, lacking: Sequence[FileEntry]) -> str:
    what = ", ".join(f"{f.path} ({f.digest}, {f.size_bytes} bytes)" for f in lacking)
    return (
        f"no intact copy of {what} is known. Name a folder or registry that holds one (the export, a backup):"
        f" policyctl repair --from SRC. Until then: policyctl rollback {release.model}, if an alias names it"
    )
