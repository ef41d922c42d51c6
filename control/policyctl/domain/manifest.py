"""What a release consists of, byte for byte: the manifest.

A manifest lists every file of a release with its size and SHA-256. It is
canonical: one list of files has exactly one text, so the text's own digest
names the release, and that digest is what `config.pbtxt` pins and the journal
keeps. Reading is strict, because whatever a lenient reader would skip is where
a change hides.

This module takes listings and bytes; `policyctl.integrity` does the reading.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from policyctl.domain.schema import Lineage
from policyctl.errors import IntegrityError

SCHEMA: Final = Lineage("manifest")
SCHEMA_VERSION: Final = SCHEMA.newest
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def digest_of(content: bytes) -> str:
    """``sha256:`` and the digest of `content` in hexadecimal."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def canonical_json(data: Any) -> bytes:
    """The one JSON text of `data`: sorted keys, no spaces, ASCII, one line feed at the end."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file: POSIX path relative to the release, size in bytes, digest."""

    path: str
    size_bytes: int
    digest: str

    def __post_init__(self) -> None:
        check_path(self.path)
        if type(self.size_bytes) is not int or self.size_bytes < 0:
            raise IntegrityError(f"manifest: {self.path}: size {self.size_bytes!r} is not a number of bytes")
        if not isinstance(self.digest, str) or _DIGEST.fullmatch(self.digest) is None:
            raise IntegrityError(f"manifest: {self.path}: {self.digest!r} is not sha256:<64 hex digits>")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one release.

    Attributes:
        model: Which model it belongs to.
        release: Semantic version.
        files: Sorted by path, at least one.

    Raises:
        IntegrityError: No file, a path twice (also when only the case
            differs), or a path below another path that is a file.
    """

    model: str
    release: str
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        paths = [entry.path for entry in self.files]
        if not paths:
            raise IntegrityError(f"manifest of {self.model} {self.release}: it lists no file")
        if paths != sorted(paths):
            raise IntegrityError(f"manifest of {self.model} {self.release}: paths are not sorted")
        folded = [path.casefold() for path in paths]
        for path in paths:
            if folded.count(path.casefold()) > 1:
                raise IntegrityError(f"manifest of {self.model} {self.release}: {path} collides with another path")
            if any(str(parent).casefold() in folded for parent in PurePosixPath(path).parents):
                raise IntegrityError(f"manifest of {self.model} {self.release}: {path} lies below a file")

    def to_bytes(self) -> bytes:
        """The canonical text."""
        return canonical_json(
            {
                "schema": SCHEMA_VERSION,
                "model": self.model,
                "release": self.release,
                "files": [{"path": f.path, "size_bytes": f.size_bytes, "digest": f.digest} for f in self.files],
            }
        )

    @property
    def digest(self) -> str:
        """Digest of the canonical text."""
        return digest_of(self.to_bytes())

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Read a canonical manifest.

        Raises:
            IntegrityError: Not JSON, an unknown or missing key, another schema,
                a path that is absolute or not normal, or a text that is not the
                canonical one.
        """
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"manifest: not JSON ({error})") from error
        if isinstance(data, dict) and "schema" in data:
            data = dict(SCHEMA.upgrade(data, data["schema"]))
        _expect(data, {"schema", "model", "release", "files"}, "manifest")
        if not isinstance(data["files"], list):
            raise IntegrityError("manifest: files is not a list")
        if not isinstance(data["model"], str) or not isinstance(data["release"], str):
            raise IntegrityError("manifest: model and release must be text")
        for item in data["files"]:
            _expect(item, {"path", "size_bytes", "digest"}, "manifest: a file")
        manifest = cls(
            model=data["model"],
            release=data["release"],
            files=tuple(FileEntry(f["path"], f["size_bytes"], f["digest"]) for f in data["files"]),
        )
        if manifest.to_bytes() != content:
            raise IntegrityError("manifest: the text is not canonical, so it was not written by publish")
        return manifest

    def differences(self, found: Iterable[FileEntry]) -> tuple[str, ...]:
        """Every way in which `found` differs from this manifest, as sentences."""
        have: Mapping[str, FileEntry] = {entry.path: entry for entry in found}
        want = {entry.path: entry for entry in self.files}
        order = (
            *sorted(want.keys() - have.keys()),
            *sorted(have.keys() - want.keys()),
            *sorted(want.keys() & have.keys()),
        )
        problems = (difference(path, want.get(path), have.get(path)) for path in order)
        return tuple(problem for problem in problems if problem)


def difference(path: str, expected: FileEntry | None, found: FileEntry | None) -> str:
    """How one file differs from what a manifest says of it, as a sentence; empty where it does not."""
    if expected is None:
        return f"{path} is not in the manifest"
    if found is None:
        return f"{path} is missing"
    if found.size_bytes != expected.size_bytes:
        return f"{path} has {found.size_bytes} bytes, the manifest says {expected.size_bytes}"
    if found.digest != expected.digest:
        return f"{path} is {found.digest}, the manifest says {expected.digest}"
    return ""


def check_path(path: str) -> str:
    """Return `path` if it is relative, normal, and made of plain names.

    Raises:
        IntegrityError: It is absolute, has ``..``, ``.``, a backslash, an empty
            part, a leading dot, or a character outside ``A-Z a-z 0-9 _ . -``.
    """
    if not isinstance(path, str) or not path:
        raise IntegrityError(f"manifest: {path!r} is not a path")
    for part in path.split("/"):
        if _PART.fullmatch(part) is None:
            raise IntegrityError(
                f"manifest: path {path!r} is not allowed",
                remedy="Use relative paths of plain names: letters, digits, '_', '.', '-', no leading dot.",
            )
    return path


def _expect(data: Any, keys: set[str], what: str) -> None:
    if not isinstance(data, dict) or data.keys() != keys:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise IntegrityError(f"{what}: expected {sorted(keys)}, found {found}")
