"""The model repository on disk: slots, alias folders, staging, evidence.

::

    model_repository/
      walker/              config.pbtxt (what production serves), 1/, 2/ ... (slots)
      walker.staging/      config.pbtxt, 2/            (hard links to the slot's files)
      walker.candidate/    the same, only while a release is being certified
      .policyctl/          journal.jsonl, lock, evidence/, signatures/, staging/, server.json

A slot is written once: staged on the same file system, synced, renamed into
place, read-only. Nothing here ever writes into a slot again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from policyctl.adapters import files, lock
from policyctl.adapters.journal import Journal
from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.names import CANDIDATE, PRODUCTION, split_served_name
from policyctl.errors import IntegrityError, UsageError

CONTROL = ".policyctl"
CONFIG = "config.pbtxt"


class Repository:
    """One model repository and the control plane's folder in it.

    Args:
        root: The folder.
        actor: In whose name the journal is written and the lock held; empty for
            whoever runs this process.
    """

    def __init__(self, root: Path, *, actor: str = "") -> None:
        try:
            self.root = root.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError
            raise UsageError(f"{root} cannot be a repository ({error})", remedy="Name a folder.") from error
        self.control = self.root / CONTROL
        self.journal = Journal(self.control / "journal.jsonl", actor=actor)
        self._actor = actor
        self._held: lock.Held | None = None

    @property
    def lock_path(self) -> Path:
        """The writer lock's file."""
        return self.control / "lock"

    @property
    def scratch(self) -> Path:
        """Where unfinished files are, on the repository's own file system."""
        return self.control / "staging"

    def write(self, path: Path, content: bytes, *, mode: int = 0o644) -> None:
        """Replace a file of the repository as a whole.

        Raises:
            UsageError: The disk refuses; the file is as it was.
        """
        files.write_atomically(path, content, mode=mode, scratch=self.scratch)

    def create(self) -> None:
        """Make the folders; nothing happens where they are.

        Raises:
            UsageError: They cannot be made.
        """
        try:
            for folder in (self.scratch, self.control / "evidence"):
                folder.mkdir(parents=True, exist_ok=True)
            files.sweep(self.scratch)
        except OSError as error:
            raise files.storage_error(self.root, error) from error

    def require(self) -> None:
        """Refuse where there is no repository yet.

        Raises:
            UsageError: Nothing was ever published there.
        """
        if not self._journal_bytes():
            raise UsageError(
                f"{self.root} holds no published policy",
                remedy="Publish one (policyctl publish DIR --model NAME --release 1.0.0),"
                " or name another repository with --repository.",
            )

    def begin_journal(self) -> None:
        """Make an empty journal where there is none, so that a slot without one means that it was lost."""
        if self._journal_bytes() is None:
            self.write(self.journal.path, b"")

    def _journal_bytes(self) -> int | None:
        try:
            return self.journal.path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"{self.root}: cannot be read ({error.strerror})", remedy="Check the path.") from error

    def require_journal(self) -> None:
        """Refuse a repository that holds slots and no journal: their numbers would be used again.

        Raises:
            IntegrityError: The journal was lost.
        """
        if self._journal_bytes() is not None:
            return
        slots = [p for p in self.root.glob("*/[0-9]*") if p.name.isdigit() and (p / MANIFEST_FILE).is_file()]
        lost = slots or any((self.control / "evidence").glob("*/*"))
        # The first publish of all may have begun the journal, and then made its slot, between the two looks.
        if lost and self._journal_bytes() is None:
            raise IntegrityError(
                f"{self.journal.path} is missing, but {slots[0] if slots else 'evidence'} says that there was one",
                remedy="Restore the journal from a copy; without it nothing can tell which releases were published.",
            )

    @contextmanager
    def writer(self, doing: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the writer lock."""
        with lock.hold(self.lock_path, doing=doing, wait_s=wait_s, actor=self._actor) as held:
            self._held = held
            try:
                yield
            finally:
                self._held = None

    def writer_aside(self, *, wait_s: float = 30.0) -> AbstractContextManager[None]:
        """Let others write while the block runs; the caller holds the writer lock, before it and after it.

        For what takes long and writes nothing: a rollback, or the supervisor's
        repair of an alias, must never wait until something has been measured.

        Raises:
            BusyError: Another writer did not finish within `wait_s` of the block's end.
        """
        if self._held is None:
            raise RuntimeError("the writer lock is not held")
        return self._held.aside(wait_s=wait_s)

    def slot(self, model: str, slot: int) -> Path:
        """Where a release was published."""
        return self.root / model / str(slot)

    def served_slot(self, served: str, slot: int) -> Path:
        """Where the Triton model `served` has a slot."""
        return self.root / served / str(slot)

    def config(self, served: str) -> Path:
        """The configuration of the Triton model `served`."""
        return self.root / served / CONFIG

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh folder on the repository's file system, removed afterwards."""
        folder = self.scratch / files.scratch_name()
        try:
            folder.mkdir(parents=True)
            yield folder
        except OSError as error:
            raise files.storage_error(folder, error) from error
        finally:
            with suppress(OSError):  # what cannot be removed now is swept later
                files.remove_tree(folder)

    def commit_slot(self, staged: Path, model: str, slot: int) -> Path:
        """Rename a staged release into its slot, read-only.

        Raises:
            UsageError: The disk refuses, or the slot is there already.
        """
        target = self.slot(model, slot)
        placed = False
        try:
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                raise UsageError(f"{target} is there already: a slot is never written twice")
            for folder in (staged, *(p for p in staged.rglob("*") if p.is_dir())):
                files.sync_folder(folder)
            for folder in (p for p in staged.rglob("*") if p.is_dir()):
                folder.chmod(0o555)
            staged.rename(target)
            placed = True
            target.chmod(0o555)
            files.sync_folder(target.parent)
            files.sync_folder(self.root)
        except OSError as error:
            with suppress(OSError):
                if placed:
                    files.remove_tree(target)
                target.parent.rmdir()  # only where it is empty, that is, was made just now
            raise files.storage_error(target, error) from error
        return target

    def take_back_slot(self, model: str, slot: int) -> None:
        """Remove a slot that no record names, and the model's folder where nothing else is in it.

        Raises:
            UsageError: The disk refuses.
        """
        folder = self.slot(model, slot)
        try:
            files.remove_tree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        except OSError as error:
            raise files.storage_error(folder, error) from error

    def set_orphans_aside(self, model: str, known: Collection[int]) -> tuple[Path, ...]:
        """Move slots that the journal does not know (a crash while publishing) out of Triton's tree."""
        folder = self.root / model
        moved: list[Path] = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name.isdigit() and int(path.name) not in known:
                moved += self.set_aside(path, f"{model}-{path.name}-{secrets.token_hex(4)}")
        return tuple(moved)

    def set_aside(self, path: Path, name: str) -> tuple[Path, ...]:
        """Move something out of Triton's tree, where it can be looked at; nothing where it is gone.

        Raises:
            UsageError: The disk refuses.
        """
        target = self.control / "orphans" / name
        try:
            target.parent.mkdir(exist_ok=True)
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
            path.rename(target)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise files.storage_error(path, error) from error
        return (target,)

    def place(self, served: str, slot: int) -> None:
        """Give `served` hard links to the slot; whatever was in their place is replaced."""
        model, alias = split_served_name(served)
        if alias == PRODUCTION:
            return
        target = self.served_slot(served, slot)
        try:
            target.parent.mkdir(exist_ok=True)
            if files.same_links(self.slot(model, slot), target):
                return
            with self.staging() as folder:
                files.link_tree(self.slot(model, slot), folder / "links")
                files.remove_tree(target)
                (folder / "links").rename(target)
            files.sync_folder(target.parent)
        except OSError as error:
            raise files.storage_error(target, error) from error

    def shares_slot(self, served: str, slot: int) -> bool:
        """Whether the folder of an alias holds exactly the links to the model's slot."""
        model, _ = split_served_name(served)
        try:
            return files.same_links(self.slot(model, slot), self.served_slot(served, slot))
        except OSError:
            return False

    def configure(self, served: str, text: str) -> None:
        """Replace the configuration of `served` as a whole."""
        path = self.config(served)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise files.storage_error(path, error) from error
        self.write(path, text.encode())

    def stamp(self, served: str, slot: int) -> None:
        """Give a slot's folder a new time, and nothing else.

        Triton loads a version anew only where a time in its folder changed: to
        a load of what it has loaded already it says yes and does nothing.
        """
        folder = self.served_slot(served, slot)
        try:
            os.utime(folder)
        except OSError as error:
            raise files.storage_error(folder, error) from error

    def withdraw(self, served: str) -> None:
        """Remove the folder of an alias; of production the configuration alone."""
        _, alias = split_served_name(served)
        try:
            if alias == PRODUCTION:
                self.config(served).unlink(missing_ok=True)
            else:
                files.remove_tree(self.root / served)
        except OSError as error:
            raise files.storage_error(self.root / served, error) from error

    def prune(self, served: str, slot: int) -> None:
        """Remove every slot but `slot` from an alias's own folder."""
        _, alias = split_served_name(served)
        if alias == PRODUCTION:
            return
        own = self.root / served
        try:
            for folder in tuple(own.iterdir()) if own.is_dir() else ():
                if folder.name.isdigit() and folder.name != str(slot):
                    files.remove_tree(folder)
        except OSError as error:
            raise files.storage_error(own, error) from error

    def candidates(self) -> tuple[str, ...]:
        """Candidate folders that are there."""
        if not self.root.is_dir():
            return ()
        # Not by the end of the name alone: a release may be numbered 1.0.0-x.candidate, and be pinned.
        found = (p.name for p in self.root.glob(f"*.{CANDIDATE}") if p.is_dir())
        return tuple(sorted(name for name in found if split_served_name(name)[1] == CANDIDATE))
