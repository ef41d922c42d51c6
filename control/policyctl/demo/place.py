"""Where the demo works, and what of it may be removed: only what an earlier demo left."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policyctl.adapters.files import entries, remove_tree
from policyctl.adapters.repository import Repository
from policyctl.domain.names import split_served_name
from policyctl.errors import UsageError

MODEL: Final = "cartpole"
RELEASES: Final = ("1.0.0", "1.1.0")
BUILD: Final = Path("build") / "demo"
ARCHIVES: Final = Path(__file__).resolve().parent
"""Where the trained policies are, `ppo-RELEASE.zip` each."""
_MARK: Final = Path(".policyctl") / "made-by-demo"
_LOG: Final = "serve.log"


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one demo.

    Attributes:
        repository: The model repository that it fills.
        build: Policies and exports.
    """

    repository: Path
    build: Path = BUILD

    @property
    def log(self) -> Path:
        """What its server says."""
        return self.build / _LOG

    @property
    def may_be_served(self) -> bool:
        """Whether a server announced itself on the repository."""
        return (self.repository / ".policyctl" / "server.json").exists()

    def archive(self, release: str) -> Path:
        """The trained policy of a release."""
        return self.build / _archive(release)

    def export(self, release: str) -> Path:
        """The folder of a release's export."""
        return self.build / release

    def exports(self) -> tuple[Path, ...]:
        """Folders of the exports that are there."""
        return tuple(folder for folder in map(self.export, RELEASES) if folder.is_dir())

    def prepare(self) -> None:
        """Look whether everything that would be removed was made by a demo; nothing is changed.

        Raises:
            UsageError: A folder holds something else.
            PolicyctlError: The journal cannot be read, so nobody knows.
        """
        folders = [path.name for path in entries(self.repository) if path.is_dir()]
        if folders and not (self.repository / _MARK).exists():
            raise _foreign(self.repository, folders[0])
        # Somebody may have gone on with the demo's repository.
        for name in folders:
            if name != _MARK.parts[0] and split_served_name(name)[0] != MODEL:
                raise _foreign(self.repository, name)
        for model, release in Repository(self.repository).journal.state().releases if folders else ():
            if model != MODEL or release not in RELEASES:
                raise _foreign(self.repository, f"{model} {release}")
        made = {*RELEASES, *map(_archive, RELEASES), _LOG}
        for path in entries(self.build):
            if path.name not in made:
                raise _foreign(self.build, path.name)

    def clear(self) -> tuple[Path, ...]:
        """Remove what an earlier demo left; which folders that was.

        Raises:
            UsageError: As `prepare`.
        """
        self.prepare()
        left = tuple(path for path in (self.repository, self.build) if entries(path))
        for folder in entries(self.repository):
            if folder.is_dir():
                remove_tree(folder)
        if self.build.is_dir():
            remove_tree(self.build)
        for folder in (self.repository, self.build.parent):
            # What holds something else is not ours.
            with contextlib.suppress(OSError):
                folder.rmdir()
        return left

    def begin(self) -> None:
        """Make both folders, mark the repository as one of a demo, and put the trained policies there."""
        mark = self.repository / _MARK
        mark.parent.mkdir(parents=True)
        mark.touch()
        self.build.mkdir(parents=True)
        for release in RELEASES:
            shutil.copyfile(ARCHIVES / _archive(release), self.archive(release))


def _archive(release: str) -> str:
    return f"ppo-{release}.zip"


def _foreign(folder: Path, name: str) -> UsageError:
    return UsageError(
        f"{folder} holds {name}, which no demo made, and the demo would have to remove it",
        remedy="Run policyctl demo in an empty folder, or name another repository with --repository.",
    )
