"""Commits of this project beside each other: the files of each, and an interpreter that imports those and no others.

Triton's Python stub takes what it imports from the first ``python3`` on its
PATH and knows no PYTHONPATH, so a checkout gets a virtual environment of its
own. It holds nothing but a list: the checkout's three source roots, then what
is installed where this runs. Both sides of a comparison thus compute with the
same libraries, and a change of a pinned version is not what is compared.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import semver

from policyctl.errors import PolicyctlError, UnsupportedError, UsageError

ROOTS: Final = ("control", "exporters", "benchmarks")
"""Source roots of the distribution, in every commit of it."""

_GIT_LIMIT_S: Final = 60.0


class CheckoutError(PolicyctlError):
    """A commit that cannot be run here."""

    code = "checkout"


class CheckoutTimeError(CheckoutError):
    """It took longer than there was time for, which says nothing of the commit."""


def newest_release(tags: Iterable[tuple[str, str]], *, head: str) -> str | None:
    """The last release before `head`, by semantic versioning; None where there is none.

    Args:
        tags: Name and commit of each tag that `head` descends from.
        head: The commit that is being looked at; a tag of itself is no release before it.
    """
    found = []
    for name, commit in tags:
        try:
            version = semver.Version.parse(name.removeprefix("v"))
        except ValueError:
            continue
        if name.startswith("v") and commit != head:
            found.append((version, name))
    return max(found)[1] if found else None


def last_release(root: Path) -> str | None:
    """The tag ``v*`` of the last release before what is checked out in `root`.

    Raises:
        UnsupportedError: `root` is no git checkout, or has no commit.
    """
    listed = _git(
        root, "for-each-ref", "--merged=HEAD", "--format=%(refname:short) %(objectname) %(*objectname)", "refs/tags/v*"
    )
    words = [line.split() for line in listed.decode().splitlines()]
    # An annotated tag is an object of its own; the commit that it names comes last.
    return newest_release(((name, commits[-1]) for name, *commits in words), head=commit_of(root, "HEAD"))


def commit_of(root: Path, name: str) -> str:
    """The commit that `name` names.

    Raises:
        UsageError: There is none.
        UnsupportedError: `root` is no git checkout.
    """
    _git(root, "rev-parse", "--git-dir")
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    except UnsupportedError:
        raise UsageError(
            f"{name!r} is no commit of {root}", remedy="Name a tag, a branch or a commit that is fetched here."
        ) from None


def is_shallow(root: Path) -> bool:
    """Whether older commits, and the tags on them, were left out when `root` was cloned."""
    return _git(root, "rev-parse", "--is-shallow-repository").strip() == b"true"


def is_changed(root: Path) -> bool:
    """Whether `root` holds anything that is not committed."""
    return bool(_git(root, "status", "--porcelain").strip())


def unpack(root: Path, commit: str, folder: Path) -> None:
    """Put the files of a commit into `folder`; the repository is only read.

    Raises:
        UnsupportedError: git refuses.
    """
    with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", "--format=tar", commit))) as archive:
        # Not every Python 3.11 has the filter; git's own archive of this repository needs it least of all.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)


def copy(root: Path, folder: Path) -> None:
    """Put the files of `root` as they are now into `folder`: tracked ones, and new ones that git does not ignore."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    for name in filter(None, listed):
        # A file may be deleted and not yet so in the index.
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Checkout:
    """Files of a commit, and what runs them.

    Attributes:
        name: In words, for messages.
        folder: Where its files are.
        variables: Set for everything that it runs.
    """

    name: str
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def _bin(self) -> Path:
        return self.folder / ".venv" / "bin"

    @property
    def command(self) -> tuple[str, ...]:
        """Its own ``policyctl``."""
        return (str(self._bin / "python"), "-m", "policyctl.cli.main")

    @property
    def environment(self) -> dict[str, str]:
        """Ours, without what would choose other files or other settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("POLICYCTL_", "PYTHON"))}
        kept.pop("VIRTUAL_ENV", None)
        programs = (str(self._bin), sysconfig.get_path("scripts"), kept.get("PATH", ""))
        return {**kept, "PATH": os.pathsep.join(programs), **self.variables}

    def make_interpreter(self) -> None:
        """Give it the environment that the module's docstring describes.

        Raises:
            CheckoutError: What it imports is not its own.
        """
        venv.EnvBuilder(with_pip=False, symlinks=True).create(self.folder / ".venv")
        (site,) = (self.folder / ".venv" / "lib").glob("python3*/site-packages")
        paths = [str(self.folder / root) for root in ROOTS]
        paths += [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
        (site / "checkout.pth").write_text("\n".join(paths) + "\n")
        found = self.run([self.command[0], "-c", "import policyctl; print(policyctl.__file__)"], limit_s=30.0).strip()
        if not Path(found).resolve().is_relative_to(self.folder.resolve()):
            raise CheckoutError(f"{self.name} imports {found} instead of its own files")

    def build_native(self, *, limit_s: float) -> bool:
        """Compile its native backend from its own source; False where it has none.

        Raises:
            CheckoutError: It cannot be compiled here.
        """
        script = self.folder / "backend_openvino" / "build.py"
        if script.is_file():
            self.run([self.command[0], str(script)], limit_s=limit_s)
        return script.is_file()

    def run(self, words: Sequence[str], *, limit_s: float, variables: Mapping[str, str] | None = None) -> str:
        """Run a program in its environment and some variables more; what it printed.

        Raises:
            CheckoutError: It refused, or took too long.
        """
        shown = " ".join(words[1:4])
        try:
            done = subprocess.run(
                list(words),
                cwd=self.folder,
                env={**self.environment, **(variables or {})},
                capture_output=True,
                text=True,
                timeout=max(1.0, limit_s),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CheckoutTimeError(f"{self.name}: {shown} did not end within {limit_s:.0f} s") from None
        if done.returncode != 0:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
            raise CheckoutError(f"{self.name}: {shown} ended with {done.returncode}: {said}")
        return done.stdout

    def policyctl(self, *arguments: str, limit_s: float, variables: Mapping[str, str] | None = None) -> str:
        """Run its own ``policyctl``; what it printed.

        Raises:
            CheckoutError: It refused, or took too long.
        """
        return self.run([*self.command, *arguments], limit_s=limit_s, variables=variables)


def _git(root: Path, *words: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            timeout=_GIT_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnsupportedError(f"git cannot be asked: {error}", remedy="Install git.") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip() or f"ended with {done.returncode}"
        raise UnsupportedError(f"git {words[0]}: {said}", remedy="Run it in a git checkout of the project.")
    return done.stdout
