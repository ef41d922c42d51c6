"""The model repository on disk: Triton's tree of slots and alias folders.

::

    model_repository/
      walker/              config.pbtxt (what production serves), 1/, 2/ ... (slots)
      walker.staging/      config.pbtxt, 2/            (hard links to the slot's files)
      walker.candidate/    the same, only while a release is being certified
      .policyctl/          what `adapters.control_folder` keeps

A slot is written once: staged on the same file system, synced, renamed into
place, read-only. Nothing here ever writes into a slot again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from policyctl.adapters import files
from policyctl.adapters.control_folder import ControlFolder
from policyctl.domain.names import CANDIDATE, PRODUCTION, split_served_name
from policyctl.errors import UsageError
from policyctl.plain_files import read_plain, refuse_if_denied

CONFIG: Final = "config.pbtxt"


class Repository(ControlFolder):
    """One model repository, with the control plane's folder in it."""

    def slot(self, model: str, slot: int) -> Path:
        """Where a release was published."""
        return self.root / model / str(slot)

    def served_slot(self, served: str, slot: int) -> Path:
        """Where the Triton model `served` has a slot."""
        return self.root / served / str(slot)

    def config(self, served: str) -> Path:
        """The configuration of the Triton model `served`."""
        return self.root / served / CONFIG

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
        with files.storing(folder):
            files.remove_tree(folder)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def set_orphans_aside(self, model: str, known: Collection[int]) -> tuple[Path, ...]:
        """Move slots that the journal does not know (a crash while publishing) out of Triton's tree."""
        folder = self.root / model
        moved: list[Path] = []
        for path in files.entries(folder):
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
        with files.storing(target):
            target.parent.mkdir(exist_ok=True)
            if files.same_links(self.slot(model, slot), target):
                return
            with self.staging() as folder:
                files.link_tree(self.slot(model, slot), folder / "links")
                files.remove_tree(target)
                (folder / "links").rename(target)
            files.sync_folder(target.parent)

    def shares_slot(self, served: str, slot: int) -> bool:
        """Whether the folder of an alias holds exactly the links to the model's slot.

        Raises:
            UsageError: This process may not look.
        """
        model, _ = split_served_name(served)
        try:
            return files.same_links(self.slot(model, slot), self.served_slot(served, slot))
        except OSError as error:
            refuse_if_denied(error)
            return False

    def is_configured(self, served: str, text: str) -> bool:
        """Whether the configuration of `served` is a plain file that holds exactly `text`.

        Raises:
            UsageError: This process may not read it.
        """
        expected = text.encode()
        try:
            return read_plain(self.config(served), most_bytes=len(expected)) == expected
        except OSError as error:
            refuse_if_denied(error)
            return False

    def configure(self, served: str, text: str) -> None:
        """Replace the configuration of `served` as a whole."""
        self.write(self.config(served), text.encode())

    def stamp(self, served: str, slot: int) -> None:
        """Give a slot's folder a new time, and nothing else.

        Triton loads a version again only where a time in its folder changed: to
        a load of what it has loaded already it says yes and does nothing.
        """
        folder = self.served_slot(served, slot)
        with files.storing(folder):
            os.utime(folder)

    def withdraw(self, served: str) -> None:
        """Remove the folder of an alias; of production the configuration alone."""
        _, alias = split_served_name(served)
        with files.storing(self.root / served):
            if alias == PRODUCTION:
                self.config(served).unlink(missing_ok=True)
            else:
                files.remove_tree(self.root / served)

    def prune(self, served: str, slot: int) -> None:
        """Remove every slot but `slot` from an alias's own folder."""
        _, alias = split_served_name(served)
        if alias == PRODUCTION:
            return
        own = self.root / served
        with files.storing(own):
            for folder in files.entries(own):
                if folder.name.isdigit() and folder.name != str(slot):
                    files.remove_tree(folder)

    def candidates(self) -> tuple[str, ...]:
        """Candidate folders that are there."""
        if not self.root.is_dir():
            return ()
        # Not by the end of the name alone: a release may be numbered 1.0.0-x.candidate, and be pinned.
        found = (p.name for p in self.root.glob(f"*.{CANDIDATE}") if p.is_dir())
        return tuple(sorted(name for name in found if split_served_name(name)[1] == CANDIDATE))
