"""Where artifacts are kept, by the name that a person gives: a folder or a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from policyctl.adapters.oci_layout import Layout
from policyctl.domain.manifest import FileEntry
from policyctl.domain.oci import is_digest
from policyctl.errors import UsageError
from policyctl.services.control import Control


class Store(Protocol):
    """What a folder and a registry can both do; see `adapters.oci_layout.Layout`."""

    def tag(self, model: str, release: str, /) -> str:
        """How a release is named there."""

    def create(self) -> None:
        """Make it ready, or ask whether it is."""

    def manifest(self, reference: str) -> bytes:
        """The OCI manifest of a tag or digest."""

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Name an artifact whose blobs are there."""

    def has(self, blob: FileEntry) -> bool:
        """Whether a blob is there."""

    def put(self, blob: FileEntry, source: Path) -> None:
        """Store a blob."""

    def fetch(self, blob: FileEntry, target: Path) -> None:
        """Copy a blob to a fresh file, and check it."""


def destination_store(control: Control, text: str) -> Store:
    """Where to export to: ``oci://HOST/NAME[:TAG]``, else a folder.

    Raises:
        UsageError: It is no such name, or a digest, which is not chosen but computed.
    """
    if not is_registry(text):
        return Layout(Path(text))
    store, reference = _registry(control, text)
    if is_digest(reference):
        raise UsageError(
            f"{text!r} ends in a digest", remedy="Give a tag, or none: the digest follows from the content."
        )
    return store


def source_store(control: Control, text: str) -> tuple[Store, str]:
    """Where to import from: ``oci://HOST/NAME:TAG``, ``FOLDER`` or ``FOLDER@MODEL:RELEASE``; and the reference in it.

    Raises:
        UsageError: It is no such name.
    """
    if is_registry(text):
        return _registry(control, text)
    folder, at, reference = text.rpartition("@")
    if at and not Path(text).exists():
        return Layout(Path(folder)), reference
    return Layout(Path(text)), ""


def is_registry(text: str) -> bool:
    """Whether `text` means a registry."""
    return text.startswith("oci://")


def _registry(control: Control, text: str) -> tuple[Store, str]:
    # The registry's client is imported where it is wanted.
    from policyctl.adapters.registry import Registry
    from policyctl.adapters.registry_reference import parse_reference

    where = parse_reference(text)
    return Registry(where, control.settings.registry), where.reference
