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
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.schema import require_schema
from policyctl.errors import IntegrityError, UsageError

SCHEMA_VERSION: Final = 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def digest_of(content: bytes) -> str:
    """``sha256:`` and the digest of `content` in hexadecimal."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is ``sha256:<64 hex digits>``."""
    return _DIGEST.fullmatch(text) is not None


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
        if self.size_bytes < 0:
            raise IntegrityError(f"manifest: {self.path}: size {self.size_bytes!r} is not a number of bytes")
        if not is_digest(self.digest):
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
            differs, and from the manifest's own), or a path below another path
            that is a file.
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
        folded = Counter(path.casefold() for path in (*paths, MANIFEST_FILE))
        parents = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        folders = Counter(parent.casefold() for parent in parents)
        for path in paths:
            if any(folders[str(parent).casefold()] > 1 for parent in PurePosixPath(path).parents):
                problem = f"the folder of {path} collides with another folder"
                raise IntegrityError(f"manifest of {self.model} {self.release}: {problem}")
            if folded[path.casefold()] > 1:
                raise IntegrityError(f"manifest of {self.model} {self.release}: {path} collides with another path")
            if any(str(parent).casefold() in folded for parent in PurePosixPath(path).parents):
                raise IntegrityError(f"manifest of {self.model} {self.release}: {path} lies below a file")

    def to_bytes(self) -> bytes:
        """The canonical text."""
        return canonical_json({"schema": SCHEMA_VERSION, **to_json(self)})

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
        if not isinstance(data, dict):
            raise IntegrityError(f"manifest: expected an object, found {type(data).__name__}")
        require_schema("manifest", data.pop("schema", None), known=SCHEMA_VERSION)
        try:
            manifest = from_json(cls, data, what="manifest")
        except UsageError as error:
            raise IntegrityError(error.problem) from error
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
        return size_difference(path, expected.size_bytes, found.size_bytes)
    if found.digest != expected.digest:
        return f"{path} is {found.digest}, the manifest says {expected.digest}"
    return ""


def size_difference(path: str, expected_bytes: int, size_bytes: int) -> str:
    """How the size of one file differs from what a manifest says, as a sentence."""
    return f"{path} has {size_bytes} bytes, the manifest says {expected_bytes}"


def check_path(path: str) -> str:
    """Return `path` if it is relative, normal, and made of plain names.

    Raises:
        IntegrityError: It is absolute, has ``..``, ``.``, a backslash, an empty
            part, a leading dot, or a character outside ``A-Z a-z 0-9 _ . -``.
    """
    for part in path.split("/"):
        if _PART.fullmatch(part) is None:
            raise IntegrityError(
                f"manifest: path {path!r} is not allowed",
                remedy="Use relative paths of plain names: letters, digits, '_', '.', '-', no leading dot.",
            )
    return path
