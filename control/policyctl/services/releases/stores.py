"""Where artifacts are kept, by the name that a person gives: a folder or a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from policyctl.adapters.oci_layout import Layout
from policyctl.domain.manifest import is_digest
from policyctl.errors import UsageError
from policyctl.services.control import Control

if TYPE_CHECKING:
    from policyctl.adapters.registry import Registry

Store: TypeAlias = "Layout | Registry"
"""A folder or a registry: what both can do has the same names, which `adapters.oci_layout.Layout` explains."""


def destination_store(control: Control, text: str) -> Store:
    """Where to export to: ``oci://HOST/NAME[:TAG]``, else a folder.

    Raises:
        UsageError: It is another name, or a digest, which is not chosen but computed.
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
    """Where to import from: ``oci://HOST/NAME:TAG``, ``FOLDER`` or ``FOLDER@MODEL:RELEASE``; and its reference."""
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
