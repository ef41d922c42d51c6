"""A release as an OCI artifact: which blobs, under which names.

Every file of a release is one layer, as it is, so its digest in the
registry is its digest in the manifest, and nothing has to be unpacked: there is
no archive whose paths could lead out of a folder. The release's manifest is the
artifact's config. Signatures are layers of another type. The text is canonical
and holds no time of the export, so the same release is the same artifact wherever
it is exported.

Other tools (``oras pull``, ``skopeo copy``) read it: titles are the standard's.

Source:
    OCI image format 1.1, guidance for artifacts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.manifest import FileEntry, Manifest, canonical_json, check_path, digest_of
from policyctl.errors import IntegrityError

MEDIA_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
MEDIA_INDEX: Final = "application/vnd.oci.image.index.v1+json"
ARTIFACT: Final = "application/vnd.policyctl.release.v1+json"
MEDIA_RELEASE: Final = "application/vnd.policyctl.manifest.v1+json"
MEDIA_FILE: Final = "application/vnd.policyctl.file.v1"
MEDIA_SIGNATURE: Final = "application/vnd.policyctl.signature.v1"
TITLE: Final = "org.opencontainers.image.title"
VERSION: Final = "org.opencontainers.image.version"
CREATED: Final = "org.opencontainers.image.created"
REF_NAME: Final = "org.opencontainers.image.ref.name"
MODEL: Final = "io.policyctl.model"
PUBLISHER: Final = "io.policyctl.publisher"
MOST_BYTES: Final = 4 << 20
"""Of a manifest; registries take no more either."""
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class ReleaseOrigin:
    """Who published a release first, and when."""

    time: str
    publisher: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A release as an OCI artifact.

    Attributes:
        model: Which model.
        release: Which release.
        origin: Who published it first.
        config: The release's manifest, as a blob.
        files: The release's files.
        signatures: Paths below the folder of its signatures.
    """

    model: str
    release: str
    origin: ReleaseOrigin
    config: FileEntry
    files: tuple[FileEntry, ...]
    signatures: tuple[FileEntry, ...] = ()

    @property
    def blobs(self) -> tuple[FileEntry, ...]:
        """Everything that has to be carried, each digest once."""
        return tuple({b.digest: b for b in (*self.files, *self.signatures, self.config)}.values())

    def to_bytes(self) -> bytes:
        """The OCI manifest, canonical."""
        return canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_MANIFEST,
                "artifactType": ARTIFACT,
                "config": _descriptor(MEDIA_RELEASE, self.config),
                "layers": [_descriptor(MEDIA_FILE, f, title=True) for f in self.files]
                + [_descriptor(MEDIA_SIGNATURE, f, title=True) for f in self.signatures],
                "annotations": {
                    TITLE: f"{self.model} {self.release}",
                    VERSION: self.release,
                    CREATED: self.origin.time,
                    MODEL: self.model,
                    PUBLISHER: self.origin.publisher,
                },
            }
        )

    @property
    def digest(self) -> str:
        """What a registry knows it by."""
        return digest_of(self.to_bytes())


def artifact_of(manifest: Manifest, origin: ReleaseOrigin, signatures: Sequence[FileEntry] = ()) -> Artifact:
    """The artifact of a release.

    Args:
        manifest: Of the release.
        origin: Who published it first.
        signatures: Files of its signatures, by path below their folder.
    """
    text = manifest.to_bytes()
    return Artifact(
        model=manifest.model,
        release=manifest.release,
        origin=origin,
        config=FileEntry(MANIFEST_FILE, len(text), manifest.digest),
        files=manifest.files,
        signatures=tuple(sorted(signatures)),
    )


def read_artifact(content: bytes) -> Artifact:
    """Read an OCI manifest that `Artifact.to_bytes` wrote, from any registry.

    Raises:
        IntegrityError: It is something else, is too large, has a path that is not
            allowed, or is not the text that policyctl writes.
    """
    if len(content) > MOST_BYTES:
        raise IntegrityError(f"OCI manifest: {len(content)} bytes, at most {MOST_BYTES} are read")
    try:
        data = json.loads(content)
        if not isinstance(data, dict) or data.get("artifactType") != ARTIFACT:
            found = data.get("artifactType") if isinstance(data, dict) else type(data).__name__
            raise IntegrityError(
                f"OCI manifest: artifact type {found!r} is not a policyctl release ({ARTIFACT})",
                remedy="Name what policyctl release export wrote.",
            )
        notes, layers = data["annotations"], data["layers"]
        artifact = Artifact(
            model=str(notes[MODEL]),
            release=str(notes[VERSION]),
            origin=ReleaseOrigin(str(notes[CREATED]), str(notes[PUBLISHER])),
            config=_entry(data["config"], MANIFEST_FILE),
            files=tuple(_entry(layer) for layer in layers if layer["mediaType"] == MEDIA_FILE),
            signatures=tuple(_entry(layer) for layer in layers if layer["mediaType"] == MEDIA_SIGNATURE),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"OCI manifest: cannot be read ({type(error).__name__}: {error})") from error
    if artifact.to_bytes() != content:
        raise IntegrityError("OCI manifest: it is not the text that policyctl release export writes")
    return artifact


def check_release_manifest(artifact: Artifact, content: bytes) -> Manifest:
    """The release's manifest, if it lists exactly the artifact's files.

    Raises:
        IntegrityError: It does not, or is of another release.
    """
    manifest = Manifest.from_bytes(content)
    if (manifest.model, manifest.release) != (artifact.model, artifact.release):
        raise IntegrityError(
            f"{MANIFEST_FILE} is of {manifest.model} {manifest.release},"
            f" the OCI manifest of {artifact.model} {artifact.release}"
        )
    if problems := manifest.differences(artifact.files):
        raise IntegrityError(f"the OCI manifest and {MANIFEST_FILE} differ: {'; '.join(problems)}")
    return manifest


def tag_of(release: str) -> str:
    """A release as a tag, which has no plus sign."""
    return release.replace("+", "_")


def is_tag(text: str) -> bool:
    """Whether a registry takes `text` as a tag."""
    return _TAG.fullmatch(text) is not None


def _descriptor(media_type: str, entry: FileEntry, *, title: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": media_type, "digest": entry.digest, "size": entry.size_bytes}
    return {**found, "annotations": {TITLE: entry.path}} if title else found


def _entry(descriptor: Mapping[str, Any], path: str | None = None) -> FileEntry:
    name = descriptor["annotations"][TITLE] if path is None else path
    return FileEntry(check_path(name), descriptor["size"], descriptor["digest"])
