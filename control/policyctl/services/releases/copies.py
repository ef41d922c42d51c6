"""Where artifacts are kept, and where an intact copy of a file is: in other releases, in what was set aside, elsewhere.

Nothing is believed by its name: a copy is one after it was read and hashed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from policyctl.adapters import files
from policyctl.adapters.oci_layout import Layout
from policyctl.adapters.papers import papers
from policyctl.adapters.registry_reference import SCHEME as OCI
from policyctl.adapters.repository import Repository
from policyctl.adapters.sharing import Place, is_intact, where
from policyctl.domain.artifacts import CONTRACT_FILE, MANIFEST_FILE
from policyctl.domain.choices import STORE_SCHEMES
from policyctl.domain.manifest import FileEntry, Manifest, digest_of, is_digest
from policyctl.domain.names import PRODUCTION, served_name
from policyctl.domain.oci import read_artifact
from policyctl.domain.state import PublishedRelease, State
from policyctl.errors import IntegrityError, PolicyctlError, UsageError
from policyctl.integrity import build_manifest, read_file
from policyctl.plain_files import scheme_of, walk
from policyctl.services.control import Control

if TYPE_CHECKING:
    from policyctl.adapters.bucket_releases import BucketReleases
    from policyctl.adapters.registry import Registry

Store: TypeAlias = "Layout | Registry | BucketReleases"
"""A folder, a registry or a bucket: what all can do has the same names, which `adapters.oci_layout.Layout` explains."""


class Copies:
    """Where copies of published files may be.

    Args:
        sources: Folders (an export, a backup, an OCI layout), ``oci://HOST/NAME:TAG`` and ``BUCKET@MODEL:RELEASE``.

    Raises:
        UsageError: A source is not there.
        ServerError: A registry does not answer.
    """

    def __init__(self, control: Control, state: State, sources: Sequence[str] = ()) -> None:
        self._control, self._state = control, state
        self._repository: Repository = control.repository
        self._stores: list[tuple[Store, FileEntry]] = []
        folders = [self._repository.control / name for name in ("orphans", "imports")]
        folders += self._unnamed_slots()
        for text in sources:
            if is_remote(text):
                store, reference = source_store(control, text)
                self._stores.append((store, read_artifact(store.manifest(reference)).config))
            elif not Path(text).is_dir():
                raise UsageError(f"{text} is not a folder", remedy="Name a folder, or oci://HOST/NAME:TAG.")
            else:
                folders.append(Path(text))
        self._folders = folders
        self._by_size: dict[int, list[Place]] | None = None

    def find(self, wanted: FileEntry, scratch: Path | None) -> Path | None:
        """An intact copy, anywhere.

        Args:
            wanted: Its size and digest.
            scratch: Where to put what has to be fetched; None only asks whether it could be.

        Returns:
            The copy; `wanted.path` in no folder where it could be fetched and `scratch` is None.
        """
        for place in self._places(wanted):
            if is_intact(place, wanted):
                return place[0] / place[1]
        for store, _ in self._stores:
            with suppress(PolicyctlError):
                if not store.has(wanted):
                    continue
                if scratch is None:
                    return Path(wanted.path)
                store.fetch(wanted, scratch / wanted.digest.removeprefix("sha256:"))
                return scratch / wanted.digest.removeprefix("sha256:")
        return None

    def manifest(self, release: PublishedRelease) -> Manifest | None:
        """The manifest of a release: kept somewhere, or made from its files, if it hashes to what was published."""
        for content in self._manifests(release):
            if digest_of(content) == release.manifest_digest:
                with suppress(IntegrityError):
                    return Manifest.from_bytes(content)
        return None

    def _places(self, wanted: FileEntry) -> Iterator[Place]:
        yield from where(self._repository, self._state.releases.values(), {wanted.digest})[wanted.digest]
        for folder in self._alias_folders():
            yield folder, wanted.path
        if self._by_size is None:
            self._by_size = _by_size(self._folders)
        yield from self._by_size.get(wanted.size_bytes, ())

    def _unnamed_slots(self) -> Iterator[Path]:
        """Slots that no record names; the next writer sets them aside."""
        for model in sorted({r.model for r in self._state.releases.values()}):
            known = {str(r.slot) for r in self._state.of_model(model)}
            folder = self._repository.root / model
            for path in files.entries(folder):
                if path.name.isdigit() and path.name not in known and not path.is_symlink():
                    yield path

    def _alias_folders(self) -> Iterator[Path]:
        for (model, alias), named in sorted(self._state.aliases.items()):
            if alias != PRODUCTION:
                yield self._repository.served_slot(served_name(model, alias), named.placement.slot)

    def _manifests(self, release: PublishedRelease) -> Iterator[bytes]:
        slot = self._repository.slot(release.model, release.slot)
        for folder in (slot, *(f for f in self._folders if (f / CONTRACT_FILE).is_file())):
            with suppress(PolicyctlError):
                yield build_manifest(folder, model=release.model, release=release.release).to_bytes()
        name = release.manifest_digest.removeprefix("sha256:")
        folders = [slot, papers(self._repository, release.model, release.release), *self._alias_folders()]
        paths = [folder / MANIFEST_FILE for folder in folders]
        paths += [p for folder in self._folders for p in _files(folder) if p.name in {MANIFEST_FILE, name}]
        for path in paths:
            with suppress(IntegrityError):
                yield read_file(path)
        for store, entry in self._stores:
            with suppress(PolicyctlError), self._repository.staging() as scratch:
                if entry.digest == release.manifest_digest:
                    store.fetch(entry, scratch / "manifest")
                    yield read_file(scratch / "manifest")


def _by_size(folders: Iterable[Path]) -> dict[int, list[Place]]:
    found: dict[int, list[Place]] = defaultdict(list)
    for folder in folders:
        for path in _files(folder):
            with suppress(OSError):
                found[path.lstat().st_size].append((path.parent, path.name))
    return found


def _files(folder: Path) -> list[Path]:
    """Every plain file below a folder that a person named, as far as it can be listed."""
    found = walk(folder, on_error=lambda _error: None)
    return sorted(Path(entry.path) for entry in found if entry.is_file(follow_symlinks=False))


def destination_store(control: Control, text: str) -> Store:
    """Where to export to: ``oci://HOST/NAME[:TAG]``, a bucket, else a folder.

    Raises:
        UsageError: It is another name, or a digest, which is not chosen but computed.
    """
    if not is_remote(text):
        return Layout(Path(text))
    if scheme_of(text) != OCI:
        return _bucket(text)
    store, reference = _registry(control, text)
    if is_digest(reference):
        raise UsageError(
            f"{text!r} ends in a digest", remedy="Give a tag, or none: the digest follows from the content."
        )
    return store


def source_store(control: Control, text: str) -> tuple[Store, str]:
    """Where to import from, and the reference in it.

    ``oci://HOST/NAME:TAG``, ``s3://BUCKET@MODEL:RELEASE`` (or another bucket), ``FOLDER``, ``FOLDER@MODEL:RELEASE``.
    """
    folder, at, reference = text.rpartition("@")
    if is_remote(text):
        return _registry(control, text) if scheme_of(text) == OCI else (_bucket(folder or text), reference)
    if at and not Path(text).exists():
        return Layout(Path(folder)), reference
    return Layout(Path(text)), ""


def is_remote(text: str) -> bool:
    """Whether `text` means a registry or a bucket, and not a folder.

    Raises:
        UsageError: It is a URL of another kind.
    """
    if (scheme := scheme_of(text)) not in ("", OCI, *STORE_SCHEMES):
        raise UsageError(
            f"{text} begins with {scheme}, which names no folder, registry or bucket",
            remedy=f"Name a folder, oci://HOST/NAME:TAG, or a bucket ({', '.join(STORE_SCHEMES)}).",
        )
    return bool(scheme)


def _bucket(text: str) -> Store:
    # obstore is imported where it is wanted.
    from policyctl.adapters.bucket import Bucket
    from policyctl.adapters.bucket_releases import BucketReleases

    return BucketReleases(Bucket(text))


def _registry(control: Control, text: str) -> tuple[Store, str]:
    # The registry's client is imported where it is wanted.
    from policyctl.adapters.registry import Registry
    from policyctl.adapters.registry_reference import parse_reference

    where = parse_reference(text)
    return Registry(where, control.settings.registry), where.reference
